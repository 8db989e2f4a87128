"""Initial weights from a local file."""

import logging

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flower_kd import models
from flower_kd.errors import InputError

SHAPE = (1, 8, 8)


def save(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


@pytest.fixture(params=["weights.safetensors", "weights.pt", "weights.pth"])
def path(request, tmp_path):
    return tmp_path / request.param


@pytest.mark.parametrize("name", ["lenet5", "resnet8"])
def test_round_trip(name, path):
    trained = models.build(name, 10, SHAPE, seed=1)
    trained(torch.ones(4, *SHAPE))  # moves the running statistics, which must travel too
    loaded = models.build(name, 10, SHAPE, seed=2, weights_file=save(trained.state_dict(), path))
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in trained.state_dict().items())


def test_a_head_of_another_class_count_keeps_its_initial_weights_and_says_so(path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    trained = models.build("lenet5", 100, SHAPE, seed=1)
    weights_file = save(trained.state_dict(), path)
    with caplog.at_level(logging.INFO, logger="flwr"):
        loaded = models.build("lenet5", 10, SHAPE, seed=2, weights_file=weights_file)
    assert torch.equal(loaded.features[0].weight, trained.features[0].weight)
    assert torch.equal(loaded.classifier[-1].weight, models.build("lenet5", 10, SHAPE, seed=2).classifier[-1].weight)
    assert f"{path.name} has a different number of classes: classifier.5.bias, classifier.5.weight keep" in caplog.text


def test_files_without_batch_counts_are_taken_as_torchvision_s_oldest_are(path):
    state = models.build("resnet8", 10, SHAPE, seed=1).state_dict()
    old = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    loaded = models.build("resnet8", 10, SHAPE, seed=2, weights_file=save(old, path))
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in old.items())


def test_weights_of_another_model_are_refused_with_file_and_first_keys(path):
    weights_file = save(models.build("lenet5", 10, SHAPE).state_dict(), path)
    with pytest.raises(
        InputError, match=rf"{path.name}' belongs to another model: 1.weight, 1.bias, 3.weight and \d+ more"
    ):
        models.build("mlp", 10, SHAPE, weights_file=weights_file)


def test_weights_for_another_image_size_are_refused(path):
    weights_file = save(models.build("mlp", 10, (1, 28, 28)).state_dict(), path)
    with pytest.raises(InputError, match=f"{path.name}' belongs to another model: 1.weight do not fit"):
        models.build("mlp", 10, SHAPE, weights_file=weights_file)


def test_a_head_on_other_features_is_refused(path, monkeypatch):
    weights_file = save({"weight": torch.zeros(10, 3), "bias": torch.zeros(10)}, path)
    monkeypatch.setitem(models.MODELS._parts, "linear", lambda *, num_classes, shape: nn.Linear(4, num_classes))
    with pytest.raises(InputError, match="belongs to another model: weight do not fit"):
        models.build("linear", 10, SHAPE, weights_file=weights_file)


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_a_file_without_weights_is_refused_in_one_line(content, path):
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path.name}' cannot be read: ") as caught:
        models.build("mlp", 10, SHAPE, weights_file=str(path))
    assert "\n" not in str(caught.value)


def test_a_file_of_nothing_and_a_folder_are_refused(path):
    for state, words in (({}, "contains no tensors"), ({"weight": torch.zeros(3)}, "belongs to another model")):
        with pytest.raises(InputError, match=words):
            models.build("mlp", 10, SHAPE, weights_file=save(state, path))
    with pytest.raises(InputError, match="is not a file"):
        models.build("mlp", 10, SHAPE, weights_file=str(path.parent))


def test_a_missing_file_is_named(path):
    with pytest.raises(InputError, match=f"{path.name}' is not a file"):
        models.build("mlp", 10, SHAPE, weights_file=str(path))


def test_code_in_a_file_is_never_run(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(InputError, match=r"model.pt' cannot be read: it is neither a .safetensors file nor"):
        models.build("mlp", 10, SHAPE, weights_file=str(path))


def test_a_checkpoint_with_more_than_weights_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"epoch": 3, "state_dict": models.build("mlp", 10, SHAPE).state_dict()}, path)
    with pytest.raises(InputError, match="must contain tensors by name"):
        models.build("mlp", 10, SHAPE, weights_file=str(path))
