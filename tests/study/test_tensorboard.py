import sys
from pathlib import Path

import pytest

from flower_kd.errors import InputError
from flower_kd.study import tensorboard

Scalar = tuple[str, str, float, int]


class Writer:
    """Records what torch's SummaryWriter would write."""

    def __init__(self, written: list[Scalar], folder: str) -> None:
        self.written, self.folder, self.closed = written, folder, False

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        assert not self.closed
        self.written.append((self.folder, tag, value, step))

    def close(self) -> None:
        self.closed = True


def test_the_mean_and_each_node_by_round(tmp_path: Path) -> None:
    written: list[Scalar] = []
    listener = tensorboard.TensorBoard(tmp_path, lambda folder: Writer(written, folder))
    listener.on_stage("alone")
    listener.on_exchange(1, "train", {0: {"train-loss": 9.0}})
    listener.on_exchange(
        1, "train", {0: {"train-loss": 1.0, "num-examples": 5}, 1: {"train-loss": 3.0, "num-examples": 5}}
    )
    listener.on_exchange(1, "evaluate", {0: {"accuracy": 0.5, "validation-loss": 2.0}, 1: {"accuracy": 0.7}})
    listener.on_stage("d-dist")
    listener.on_exchange(1, "train", {1: {"train-loss": 4.0}})
    listener.on_exchange(2, "train", {1: {"train-loss": 2.0}})
    listener.close()
    alone, main = str(tmp_path / "tensorboard" / "alone"), str(tmp_path / "tensorboard")
    assert sorted(written) == sorted([
        (alone, "train-loss/node-0", 1.0, 1),
        (alone, "train-loss/node-1", 3.0, 1),
        (alone, "train-loss/mean", 2.0, 1),
        (alone, "test-accuracy/node-0", 0.5, 1),
        (alone, "test-accuracy/node-1", 0.7, 1),
        (alone, "test-accuracy/mean", 0.6, 1),
        (alone, "validation-loss/node-0", 2.0, 1),
        (alone, "validation-loss/mean", 2.0, 1),
        (main, "train-loss/node-1", 4.0, 1),
        (main, "train-loss/mean", 4.0, 1),
        (main, "train-loss/node-1", 2.0, 2),
        (main, "train-loss/mean", 2.0, 2),
    ])  # fmt: skip


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r'pip install "flower-kd\[tensorboard\]"'):
        tensorboard.summary_writer()
