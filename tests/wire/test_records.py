import numpy as np
import pytest
from flwr.app import Array

from flower_kd import wire


@pytest.mark.parametrize("values", [np.zeros((2, 3), np.float32), np.array(7), np.ones((0, 4), np.uint8)])
def test_arrays_are_those_of_flower(values: np.ndarray) -> None:
    assert wire.as_array(values) == Array(values)
    assert np.array_equal(wire.as_array(values.T).numpy(), values.T)  # not in C order
