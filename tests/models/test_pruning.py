"""Magnitude pruning: which weights are kept, that the others stay zero, and what is sent and stored of them."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save, save_file
from torch import nn

from flower_kd import models
from flower_kd.errors import InputError
from flower_kd.models import pruning

SHAPE = (1, 8, 8)


def layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet2", "resnet14"])
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_every_model_keeps_the_largest_weights_of_each_layer_and_all_else(name: str, share: float) -> None:
    whole, pruned = (models.build(text, 10, SHAPE, seed=3) for text in (name, f"{name}(prune={share})"))
    assert list(layers(whole)) == list(layers(pruned))
    expected = 0
    for key, layer in layers(whole).items():
        dropped = round(share * layer.weight.numel())
        kept = layers(pruned)[key].weight_mask.bool()
        assert (~kept).sum() == dropped
        assert layer.weight[kept].abs().min() >= layer.weight[~kept].abs().max()
        assert torch.equal(layers(pruned)[key].weight, layer.weight * kept)
        assert torch.equal(layers(pruned)[key].weight_orig, layer.weight * kept)
        expected += dropped
    assert pruning.num_pruned(pruned) == expected > 0
    assert models.num_parameters(pruned) == models.num_parameters(whole)
    others = {key: value for key, value in whole.state_dict().items() if f"{key}_mask" not in pruned.state_dict()}
    assert any(key.endswith("bias") for key in others)
    assert all(torch.equal(value, pruned.state_dict()[key]) for key, value in others.items())


def test_nothing_to_prune_is_the_model_itself() -> None:
    state = models.build("lenet5(prune=0)", 10, SHAPE, seed=1).state_dict()
    assert list(state) == list(models.build("lenet5", 10, SHAPE, seed=1).state_dict())
    assert pruning.pruned_names(state) == []
    assert pruning.packed(state).keys() == state.keys()
    assert pruning.fingerprint(models.build("lenet5", 10, SHAPE)) == ""


def test_the_weights_of_a_file_are_pruned(tmp_path) -> None:
    trained = models.build("mlp", 10, SHAPE, seed=1)
    path = tmp_path / "weights.safetensors"
    save_file(trained.state_dict(), path)
    pruned = models.build("mlp(prune=0.5)", 10, SHAPE, seed=2, weights_file=str(path))
    largest = trained[1].weight.abs().flatten().topk(trained[1].weight.numel() // 2).indices
    assert torch.equal(pruned[1].weight.flatten()[largest], trained[1].weight.flatten()[largest])
    assert (pruned[1].weight == 0).sum() == trained[1].weight.numel() // 2
    # The file of a pruned model has its zeros, so that the same weights are pruned again.
    save_file(pruning.to_file(pruned.state_dict()), path)
    again = models.build("mlp(prune=0.5)", 10, SHAPE, seed=3, weights_file=str(path))
    assert pruning.fingerprint(again) == pruning.fingerprint(pruned)
    whole = models.build("mlp", 10, SHAPE, seed=3, weights_file=str(path))
    assert torch.equal(whole[1].weight, pruned[1].weight)
    with pytest.raises(InputError, match=r"belongs to another model: '1\.weight' is not pruned, or has another shape"):
        models.build("mlp", 10, (1, 4, 4), weights_file=str(path))


def test_training_with_momentum_and_weight_decay_moves_kept_weights_only() -> None:
    """The same steps by hand on a plain model: a gradient is zero where a weight is pruned."""
    pruned = models.build("lenet5(prune=0.6)", 10, SHAPE, seed=1)
    plain = copy.deepcopy(pruning.plain(pruned))
    masks = {key: layer.weight != 0 for key, layer in layers(plain).items()}
    images, labels = torch.randn(8, *SHAPE), torch.arange(8)
    for model in (pruned, plain):
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            if model is plain:
                for key, mask in masks.items():
                    layers(plain)[key].weight.grad *= mask
            optimizer.step()
    pruned(images)
    for key, layer in layers(plain).items():
        torch.testing.assert_close(layers(pruned)[key].weight, layer.weight, rtol=1e-5, atol=1e-6)
        assert torch.equal(layers(pruned)[key].weight_orig == 0, ~masks[key])
        torch.testing.assert_close(layers(pruned)[key].bias, layer.bias, rtol=1e-5, atol=1e-6)


def test_messages_have_the_kept_values_and_files_also_which_they_are() -> None:
    model = nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 9.0, -1.0, 8.0, 0.5], [-7.0, 0.2, 6.0, 0.1, 5.0]]))
    pruning.prune_smallest(model, 0.5)
    packed = pruning.packed(model.state_dict())
    assert packed["0.weight"].tolist() == [9.0, 8.0, -7.0, 6.0, 5.0]
    assert list(packed) == ["0.bias", "0.weight", *(name for name in model.state_dict() if name.startswith("1."))]
    stored = pruning.to_file(model.state_dict())
    assert stored["0.weight_mask"].tolist() == [0b01010101, 0b01000000]
    assert pruning.file_bytes(model.state_dict()) == len(save(stored))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 9), st.floats(0, 1))
def test_what_is_packed_or_stored_comes_back(seed: int, inputs: int, outputs: int, share: float) -> None:
    def build(seed: int) -> nn.Module:
        rng = np.random.default_rng(seed)
        model = nn.Linear(inputs, outputs)
        mask = torch.from_numpy((rng.random((outputs, inputs)) >= share).astype(np.float32))
        nn.utils.prune.custom_from_mask(model, "weight", mask)
        with torch.no_grad():
            model.weight_orig.copy_(torch.from_numpy(rng.normal(size=(outputs, inputs))) * mask)
        return model

    state, other = build(seed).state_dict(), build(seed + 1).state_dict()
    back = pruning.unpacked(pruning.packed(state), state)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    read = pruning.from_file(load(save(pruning.to_file(state))), other)
    assert all(torch.equal(read[name], state[name]) for name in state)
    assert all(read[name].dtype == state[name].dtype for name in state)


def test_the_fingerprint_is_that_of_the_mask() -> None:
    first, again, other = (models.build("mlp(prune=0.5)", 10, SHAPE, seed=seed) for seed in (1, 1, 2))
    with torch.no_grad():
        again[1].weight_orig.mul_(2)
    assert pruning.fingerprint(first) == pruning.fingerprint(again) != pruning.fingerprint(other)
    assert len(pruning.fingerprint(first)) == 64


def test_a_plain_copy_has_zeros_and_no_masks() -> None:
    model = models.build("resnet8(prune=0.5)", 10, SHAPE)
    images = torch.randn(4, *SHAPE)
    model(images).sum().backward()
    plain = pruning.plain(model)
    assert plain.state_dict().keys() == models.build("resnet8", 10, SHAPE).state_dict().keys()
    assert sum(int((layer.weight == 0).sum()) for layer in layers(plain).values()) == pruning.num_pruned(model)
    assert pruning.num_pruned(model) > 0  # it stays as it was
    assert torch.equal(plain.eval()(images), model.eval()(images))
    with torch.inference_mode():
        model(images)
    assert torch.equal(pruning.plain(model)(images), plain(images))
    assert pruning.plain(plain) is plain


OWN = """
from torch import nn

class Attention(nn.Module):
    def __init__(self, *, num_classes, shape):
        super().__init__()
        self.attention = nn.MultiheadAttention(shape[2], 2, batch_first=True)
        self.head = nn.Linear(shape[2], num_classes)

    def forward(self, images):
        rows = images[:, 0]
        return self.head(self.attention(rows, rows, rows, need_weights=False)[0].mean(1))

def norm_only(*, num_classes, shape):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(shape[0] * shape[1] * shape[2]))

def lazy(*, num_classes, shape):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

def own_prune(*, num_classes, shape, prune: int = 3):
    model = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], num_classes))
    model.prune = prune
    return model
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own")
def test_models_from_outside_take_it_unless_they_have_a_setting_of_that_name() -> None:
    model = models.build("own_networks:Attention(prune=0.5)", 10, SHAPE)
    assert pruning.pruned_names(model.state_dict()) == ["head.weight"]  # attention uses its projection by its weight
    for _ in range(2):
        model(torch.randn(2, *SHAPE)).sum().backward()
    kept = models.build("own_networks:own_prune(prune=7)", 10, SHAPE)
    assert (kept.prune, pruning.num_pruned(kept)) == (7, 0)
    assert models.build("own_networks:own_prune", 10, SHAPE).prune == 3


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lenet5(prune=1)", "model 'lenet5': prune = 1 must be at least 0 and below 1"),
        ("lenet5(prune=-0.1)", "model 'lenet5': prune = -0.1 must be at least 0 and below 1"),
        ("lenet5(prune=nan)", "prune = "),
        ("lenet5(prune='half')", "model 'lenet5': prune = 'half' must be a number"),
        ("lenet5(pruned=0.5)", "unknown argument of model 'lenet5' 'pruned', did you mean 'prune'?"),
        (
            "lenet5(prune=0.9999)",
            r"model 'lenet5\(prune=0.9999\)': prune = 0.9999 leaves none of the 150 weights of layer 'features.0'",
        ),
        ("own_networks:norm_only(prune=0.5)", "prune = 0.5: the model has no convolution and no linear layer"),
        ("own_networks:lazy(prune=0.5)", "prune = 0.5: layer '1' is lazy, and has no weights yet"),
    ],
)
def test_mistakes(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        models.build(text, 10, SHAPE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"0.weight_mask": None}, "'0.weight' is not pruned"),
        ({"0.weight_mask": torch.zeros(3, dtype=torch.uint8)}, "has another shape"),
        ({"0.weight_mask": torch.zeros(2, dtype=torch.float32)}, "'0.weight' is not pruned"),
        ({"0.weight": torch.zeros(4)}, r"'0.weight' is of shape \[4\], but 5 of its weights are kept"),
        ({"0.weight": None}, "'0.weight' is missing, but 5 of its weights are kept"),
        ({"0.weight_mask": torch.full((2,), 255, dtype=torch.uint8)}, "but 10 of its weights are kept"),
    ],
)
def test_a_file_of_another_model(change: dict, words: str) -> None:
    model = nn.Sequential(nn.Linear(5, 2))
    pruning.prune_smallest(model, 0.5)
    stored = pruning.to_file(model.state_dict()) | change
    with pytest.raises(ValueError, match=words):
        pruning.from_file({name: value for name, value in stored.items() if value is not None}, model.state_dict())
