import pytest
import torch

from flower_kd.config import RunConfig
from flower_kd.devices import device, device_of
from flower_kd.errors import InputError


def test_auto_is_the_gpu_where_there_is_one() -> None:
    assert device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["tpuu", "cuda:99", "", "meta"])
def test_what_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"device '{name}' is not available .allowed: auto, cpu, cuda"):
        device(name)
    with pytest.raises(InputError, match="is not available"):
        RunConfig.parse({"device": name})


def test_the_device_of_a_model() -> None:
    assert device_of(torch.nn.Linear(1, 1)).type == "cpu"
    assert device_of(torch.nn.Linear(1, 1, device="meta")).type == "meta"
    assert device_of(torch.nn.Flatten()).type == "cpu"
