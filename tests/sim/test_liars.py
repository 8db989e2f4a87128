import runpy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.common.logger import FLOWER_LOGGER

from flower_kd.config import RunConfig

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "sim" / "liars.py"))
ROWS = np.array([[0.0, 3.0, -1.0], [0.0, 0.5, 2.0]])


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """Restore the log level: the script silences Flower's log."""
    before = FLOWER_LOGGER.level
    yield
    FLOWER_LOGGER.setLevel(before)


def lies(name: str) -> tuple[np.ndarray, np.ndarray]:
    logit_lie, weight_lie, _ = SCRIPT["LIES"][name]
    return logit_lie(ROWS, np.random.default_rng(0)), weight_lie(ROWS, np.random.default_rng(0))


def test_lies_are_what_they_are_called() -> None:
    assert lies("wrong class")[0].argmax(axis=1).tolist() == [2, 0]
    assert lies("one class")[0].argmax(axis=1).tolist() == [0, 0]
    assert np.array_equal(lies("negated")[0], -ROWS)
    assert np.array_equal(lies("negated")[1], -ROWS)
    logits, weights = lies("random")
    assert not np.allclose(logits, ROWS)
    assert 0.1 < np.linalg.norm(weights) / np.linalg.norm(ROWS) < 3


def test_output_layers_that_lie_are_sure_of_the_lie() -> None:
    outputs = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])  # [classes, features]
    features = np.array([1.0, 0.2])
    honest = outputs @ features
    assert (SCRIPT["shifted_outputs"](outputs, None) @ features).argmax() == (honest.argmax() + 1) % 3
    sure = SCRIPT["one_output"](outputs, None) @ features + SCRIPT["one_output"](np.zeros(3), None)
    assert sure.tolist() == [20.0, 0.0, 0.0]


@pytest.mark.parametrize("setting", SCRIPT["SETTINGS"])
def test_settings_are_valid(setting: str) -> None:
    for graph in SCRIPT["GRAPHS"].values():
        config = RunConfig.parse(SCRIPT["COMMON"] | SCRIPT["SETTINGS"][setting] | graph)
        config.build_strategy(config.graph(8))
