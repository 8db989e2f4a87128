import numpy as np
import pytest

from flower_kd.report.interval import interval


def test_intervals() -> None:
    assert interval([0.5]).kind == "one seed"
    two = interval([0.5, 0.7])
    assert (two.mean, two.low, two.high, two.kind) == (pytest.approx(0.6), 0.5, 0.7, "lowest to highest")
    three = interval([1.0, 2.0, 3.0])
    assert (three.low, three.high) == (pytest.approx(2 - 4.302653 / 3**0.5), pytest.approx(2 + 4.302653 / 3**0.5))
    assert np.isnan(interval([np.nan]).mean)
