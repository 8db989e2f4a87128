"""Networks with two heads: how they are made of any backbone, and what each head's training changes."""

import math
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord
from torch import nn
from torch.nn.utils import prune
from torchvision.models import resnet18

from flower_kd import models
from flower_kd.errors import InputError
from flower_kd.models.two_heads import TwoHeads, in_use, plain, with_linear_head
from flower_kd.seeding import torch_seeded

SHAPE = (3, 12, 12)
IMAGES = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))


class Features(nn.Module):
    """A user's backbone with timm's convention."""

    num_features = 7

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), 7), nn.Tanh())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet2", "resnet8", "resnet18"])
def test_head_1_of_an_own_model_is_the_model_itself(name: str) -> None:
    whole = models.build(name, 5, SHAPE, seed=1).eval()
    model = models.build(name, 5, SHAPE, seed=1, two_heads=True).eval()
    assert torch.equal(model(IMAGES), whole(IMAGES))
    assert isinstance(model.local.head, nn.Linear)
    widths = [layer.out_features for layer in model.distilled.head if isinstance(layer, nn.Linear)]
    assert widths == [512, 256, 5]
    model.begin_distillation()
    assert model(IMAGES).shape == (4, 5)
    assert not torch.equal(model(IMAGES), whole(IMAGES))


def test_weights_of_torchvision_s_resnet18_fit_the_backbone_with_any_number_of_classes(tmp_path: Path) -> None:
    checkpoint = resnet18(num_classes=1000).state_dict()
    torch.save(checkpoint, tmp_path / "resnet18.pth")
    file = str(tmp_path / "resnet18.pth")
    model = models.build("resnet18", 10, (3, 224, 224), weights_file=file, two_heads=True)
    model.begin_distillation()
    for network in (model.local, model.distilled):
        found = network.backbone.state_dict()
        assert found.keys() == {name for name in checkpoint if not name.startswith("fc.")}
        assert all(torch.equal(found[name], checkpoint[name]) for name in found)
    assert model.local.head.weight.shape == (10, 512)
    with pytest.raises(InputError, match=r"resnet18.pth' belongs to another model: conv1.weight do not fit"):
        models.build("resnet18", 10, (3, 32, 32), weights_file=file)  # images below 64 pixels get another stem


def test_the_second_head_depends_on_the_seed_only() -> None:
    one, two, other = (models.build("mlp", 5, SHAPE, seed=seed, two_heads=True) for seed in (1, 1, 2))
    assert torch.equal(one.distilled.head[0].weight, two.distilled.head[0].weight)
    assert not torch.equal(one.distilled.head[0].weight, other.distilled.head[0].weight)


def test_a_backbone_with_a_number_of_features() -> None:
    with torch_seeded(0):
        model = TwoHeads(Features(), classes=5)
    assert model(IMAGES).shape == (4, 5)
    assert model.local.head.in_features == 7
    model.begin_distillation()
    assert model(IMAGES).shape == (4, 5)


def test_a_classifier_with_both_is_a_classifier() -> None:
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), 7), nn.Linear(7, 5))
    classifier.num_features = 7  # type: ignore[assignment]
    assert len([layer for layer in with_linear_head(classifier, 5).modules() if isinstance(layer, nn.Linear)]) == 2
    projection = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), 5))
    projection.num_features = 5  # type: ignore[assignment]  # its five features are not five classes
    assert len([layer for layer in with_linear_head(projection, 5).modules() if isinstance(layer, nn.Linear)]) == 2


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)),
            "its last layer is a Softmax, but must be a torch.nn.Linear with",
        ),
        (
            nn.Sequential(nn.Linear(4, 9)),
            "its last layer is a linear layer with 9 outputs.*num_features as an attribute",
        ),
        (TwoHeads(nn.Linear(4, 3), classes=3), "is a TwoHeads already"),
    ],
)
def test_a_model_without_a_backbone(model: nn.Module, words: str) -> None:
    with pytest.raises(InputError, match=words):
        TwoHeads(model, classes=3)


def test_one_class_cannot_be_distilled() -> None:
    with pytest.raises(InputError, match="at least 2 classes"):
        TwoHeads(nn.Linear(4, 1), classes=1)


def test_features_must_be_vectors() -> None:
    model = Features()
    model.layers = nn.Sequential(nn.Conv2d(3, 7, 3))
    with pytest.raises(InputError, match=r"features of shape \[4, 7, 10, 10\], not \[batch, num_features\]"):
        TwoHeads(model, classes=3)(IMAGES)


def test_distillation_begins_with_the_weights_and_statistics_of_the_first_backbone() -> None:
    model = models.build("resnet8", 5, SHAPE, two_heads=True)
    with torch.no_grad():
        model.train()(IMAGES)  # batch statistics
        for parameter in model.local.parameters():
            parameter += 0.5
    assert not torch.equal(model.local.backbone[0].weight, model.distilled.backbone[0].weight)
    parameters = list(model.distilled.parameters())
    model.begin_distillation()
    torch.testing.assert_close(model.distilled.backbone.state_dict(), model.local.backbone.state_dict(), rtol=0, atol=0)
    assert all(a is b for a, b in zip(parameters, model.distilled.parameters(), strict=True))  # the optimizer's


def test_a_step_changes_only_the_network_in_use() -> None:
    """No gradients, weight decay, momentum or batch statistics reach the other one."""
    model = models.build("resnet8", 5, SHAPE, two_heads=True).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)

    def step() -> None:
        for _ in range(2):
            model(IMAGES).logsumexp(-1).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    def copies(network: nn.Module) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in network.state_dict().items()}

    distilled = copies(model.distilled)
    step()
    torch.testing.assert_close(model.distilled.state_dict(), distilled, rtol=0, atol=0)
    model.begin_distillation()
    local, before = copies(model.local), copies(model.distilled)
    step()
    torch.testing.assert_close(model.local.state_dict(), local, rtol=0, atol=0)
    changed = {name for name, value in model.distilled.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"backbone", "head"}
    assert any("running_mean" in name for name in changed)


def test_a_frozen_backbone_keeps_its_weights_and_its_statistics() -> None:
    model = models.build("resnet8", 5, SHAPE, two_heads=True).train()
    model.begin_distillation()
    model.distilled.freeze_backbone(True)
    before = {name: value.clone() for name, value in model.distilled.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    for _ in range(2):
        model.train()
        model(IMAGES).logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, value in model.distilled.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("head.") for name in changed)
    model.distilled.freeze_backbone(False)
    assert model.distilled.backbone.training


def test_the_head_in_use_is_part_of_the_weights() -> None:
    model, other = (models.build("mlp", 5, SHAPE, seed=seed, two_heads=True) for seed in (0, 1))
    model.begin_distillation()
    other.load_state_dict(ArrayRecord(model.state_dict()).to_torch_state_dict())
    assert other.in_use is other.distilled
    assert torch.equal(model(IMAGES), other(IMAGES))


def test_single_networks_are_taken_as_they_are() -> None:
    single, two = nn.Linear(4, 3), TwoHeads(nn.Linear(4, 3), classes=3)
    assert in_use(single) is plain(single) is single
    assert in_use(two) is plain(two) is two.local
    two.begin_distillation()
    assert in_use(two) is two.distilled
    assert plain(two) is two.local


def test_a_pruned_backbone() -> None:
    classifier = models.build("mlp", 5, SHAPE)
    prune.l1_unstructured(classifier[1], "weight", amount=0.5)
    classifier(IMAGES)  # what pruning computes is no parameter
    model = TwoHeads(classifier, classes=5)
    model.begin_distillation()
    model(IMAGES).sum().backward()
    for network in (model.local, model.distilled):
        assert (network.backbone[1].weight == 0).double().mean() == pytest.approx(0.5, abs=0.01)
    assert model.local.backbone[1].weight_orig.grad is None


def test_weights_from_a_file_are_those_of_the_backbone(tmp_path) -> None:
    trained = models.build("resnet8", 9, SHAPE, seed=5)
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    model = models.build("resnet8", 5, SHAPE, weights_file=str(tmp_path / "weights.pt"), two_heads=True)
    assert torch.equal(model.local.backbone[0].weight, trained[0].weight)
    model.begin_distillation()
    assert torch.equal(model.distilled.backbone[0].weight, trained[0].weight)


def test_features_of_another_width_than_stated_are_refused() -> None:
    backbone = Features()
    backbone.num_features = 6
    with pytest.raises(InputError, match=r"features of shape \[4, 7\], but its num_features is 6$"):
        TwoHeads(backbone, classes=3)(IMAGES)
