import torch
from torchvision.transforms import v2

from flower_kd.data.sources import _as_float


def test_bytes_become_the_floats_of_torchvision() -> None:
    every_byte = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(_as_float(every_byte), v2.functional.to_dtype(every_byte, torch.float32, scale=True))
    halves = torch.full((1, 1, 2, 2), 0.5)
    assert torch.equal(_as_float(halves), halves)
