import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord

from flower_kd import wire
from flower_kd.errors import InputError

ZEROS = {"a": np.zeros(3, np.float32), "b": np.zeros(2, np.float32)}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"b": None}, "another model: 'b' is missing"),
        ({"c": np.zeros(3)}, "another model: 'c' is unknown"),
        (
            {"b": np.zeros((2, 2), np.float32)},
            r"'b' is 'float32' of shape \(2, 2\), not 'float32' of shape \(2,\)",
        ),
        ({"b": np.full(2, np.inf, np.float32)}, "'b' with NaN or Inf"),
        ({"b": np.full(2, 1e300)}, "'b' is 'float64'"),
        ({"b": np.zeros(2, np.complex64)}, "'b' is 'complex64'"),
        ({"b": np.zeros(2, np.int64)}, "'b' is 'int64'"),
    ],
)
def test_weights_are_checked(weights: dict, words: str) -> None:
    record = ArrayRecord({name: Array(value) for name, value in (ZEROS | weights).items() if value is not None})
    with pytest.raises(InputError, match=words):
        wire.decode_weights(record, wire.layout(ArrayRecord({name: Array(value) for name, value in ZEROS.items()})))


DTYPES = [getattr(torch, name) for name in sorted(wire.NUMBERS)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 2)])
def test_weights_of_any_dtype_come_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    state = {"a": torch.ones(shape).to(dtype), "transposed": torch.arange(6).reshape(2, 3).to(dtype).T}
    record = wire.encode_weights(state)
    assert wire.layout(record) == wire.layout_of(state)
    back = wire.decode_weights(record, wire.layout_of(state))
    assert all(torch.equal(torch.from_numpy(back[name]), value) for name, value in state.items())


def test_a_dtype_that_numpy_does_not_have_is_named() -> None:
    with pytest.raises(InputError, match="'a' are bfloat16, which numpy does not support"):
        wire.encode_weights({"a": torch.ones(2, dtype=torch.bfloat16)})
