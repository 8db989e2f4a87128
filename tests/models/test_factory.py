"""Models from names: seeds, and the user's own factories."""

import pytest
import torch

from flower_kd import models
from flower_kd.errors import InputError

OWN_MODELS = """
from torch import nn

size = 3

def linear(*, num_classes, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], num_classes))

def no_shape(num_classes):
    return nn.Linear(1, num_classes)

def broken(*, num_classes, shape):
    return {}["depth"]

def not_a_model(*, num_classes, shape):
    return "a model"
"""


@pytest.fixture
def own_models(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(OWN_MODELS)
    (tmp_path / "own_broken.py").write_text("import a_library_nobody_has\n")
    (tmp_path / "own_typo.py").write_text("def model(:\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_names():
    assert models.names() == ["mlp", "lenet5", "resnet2", "resnet8", "resnet14", "resnet18"]


@pytest.mark.parametrize("name", models.names())
def test_weights_follow_from_the_seed_alone(name):
    torch.manual_seed(1)
    first = models.build(name, 10, (1, 8, 8), seed=5).state_dict()
    torch.manual_seed(2)
    again, other = (models.build(name, 10, (1, 8, 8), seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_the_global_generator_is_left_as_it_was():
    before = torch.random.get_rng_state()
    models.build("lenet5", 10, (1, 8, 8), seed=5)
    with pytest.raises(InputError):
        models.build("mlp", -1, (1, 8, 8))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_num_parameters_leaves_out_running_statistics():
    assert models.num_parameters(torch.nn.BatchNorm2d(4)) == 8


@pytest.mark.usefixtures("own_models")
def test_a_user_s_factory_gets_classes_shape_and_seed():
    model = models.build("own_models:linear", 5, (3, 4, 2), seed=1)
    assert model(torch.zeros(2, 3, 4, 2)).shape == (2, 5)
    again, other = (models.build("own_models:linear", 5, (3, 4, 2), seed=seed) for seed in (1, 2))
    assert torch.equal(model[1].weight, again[1].weight)
    assert not torch.equal(model[1].weight, other[1].weight)


@pytest.mark.usefixtures("own_models")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("own_absent:model", "cannot be imported: ModuleNotFoundError: No module named 'own_absent'"),
        ("own_broken:model", "cannot be imported: ModuleNotFoundError: No module named 'a_library_nobody_has'"),
        ("own_typo:model", "cannot be imported: SyntaxError: invalid syntax"),
        ("own_models:absent", "cannot be imported: AttributeError: module 'own_models' has no attribute 'absent'"),
        ("own_models:", "cannot be read: "),
        (":linear", "cannot be read: "),
        ("own_models:size", "is of type int, which is not callable"),
        (
            "own_models:no_shape",
            "fails on num_classes=5, shape=(1, 8, 8): TypeError: no_shape() got an unexpected keyword",
        ),
        ("own_models:broken", "fails on num_classes=5, shape=(1, 8, 8): KeyError: 'depth' ("),
        ("own_models:not_a_model", "returns a str, not a torch.nn.Module"),
    ],
)
def test_a_user_s_factory_that_cannot_be_used_is_named_with_the_reason(name, reason):
    with pytest.raises(InputError) as caught:
        models.build(name, 5, (1, 8, 8))
    assert str(caught.value).startswith(f"model {name!r} {reason}")


def test_an_unknown_model_is_answered_with_the_allowed_ones():
    with pytest.raises(InputError, match=r"'lenet'.*did you mean 'lenet5'.*mlp, .*resnet18, module:attribute"):
        models.build("lenet", 10, (1, 8, 8))
