"""Random streams: fixed values, independence, and global generators left unchanged."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_kd.seeding import derive, seed_torch, torch_seeded

SEEDS = st.integers(0, 2**63)
INDICES = st.lists(st.integers(0, 2**32), max_size=3)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ((0, "initial weights", 0), 7197512735100805650),
        ((7, "training noise", 3, 41), 1609234493229690130),
        ((0, "topology"), 3588773457773819538),
    ],
)
def test_seeds_never_change(arguments: tuple, value: int) -> None:
    """Another value would change every measured figure."""
    assert derive(*arguments) == value


@given(SEEDS, INDICES)
def test_a_seed_has_63_bits(seed: int, indices: list[int]) -> None:
    assert 0 <= derive(seed, "any purpose", *indices) < 2**63


@given(SEEDS, st.text(max_size=20), st.text(max_size=20), INDICES, INDICES)
def test_streams_differ_by_seed_purpose_and_index(seed: int, one: str, other: str, first: list, second: list) -> None:
    own = derive(seed, one, *first)
    assert own == derive(seed, one, *first)
    assert own != derive(seed + 1, one, *first)
    if one != other:
        assert own != derive(seed, other, *first)
    if first != second and len(first) == len(second):
        assert own != derive(seed, one, *second)


def test_neighboring_indices_share_nothing() -> None:
    seeds = {derive(seed, "x", vertex, step) for seed in range(10) for vertex in range(10) for step in range(20)}
    assert len(seeds) == 2000


def test_the_global_generator_is_restored() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with torch_seeded(5):
        inside = torch.rand(4)
        seed_torch(5)
        assert torch.equal(torch.rand(4), inside)
    with pytest.raises(RuntimeError, match="negative dimension"), torch_seeded(6):
        torch.rand(-1)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_generator_of_a_gpu_is_restored() -> None:
    device = torch.device("cuda")
    torch.cuda.manual_seed(3)
    expected = torch.rand(4, device=device)
    torch.cuda.manual_seed(3)
    with torch_seeded(5, device):
        inside = torch.rand(4, device=device)
    with torch_seeded(5, device):
        assert torch.equal(torch.rand(4, device=device), inside)
    assert torch.equal(torch.rand(4, device=device), expected)
