"""Where a node's noise comes from, and that it counts what it sends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_blob_node
from flwr.app import Context, Message, RecordDict

from flower_kd import folders, wire
from flower_kd.clients import make_client_app, noise
from flower_kd.clients.state import LiveState
from flower_kd.clients.state_dir import StateDir
from flower_kd.protocol import SEEDED_NOISE, Greeting, Order
from flower_kd.sim import InProcessGrid

NOISE = "gaussian(clip=1.0, multiplier=0.5)"
ORDER = Order(1, 2, reply="logits", vertex=0, step=0, wire_noise=NOISE)
GREETING = Greeting(token="run", stage="neighbor-kd", wire="float32", wire_noise=NOISE)
APP = make_client_app(build_blob_node)
NODE = 5


class Device:
    """One node, which can lose all that is in memory."""

    def __init__(self, folder: Path | None = None) -> None:
        InProcessGrid(APP, 1, {})  # sets up the sender for Flower
        config: dict[str, Any] = {"partition-id": 0, "num-partitions": 2}
        if folder is not None:
            folder.mkdir(exist_ok=True)
            config["state-dir"] = str(folder)
        self.context = Context(1, NODE, config, LiveState(), {})

    def hello(self, greeting: Greeting = GREETING) -> dict[str, Any]:
        message = Message(RecordDict({"config": greeting.to_record()}), dst_node_id=NODE, message_type="query.join")
        return dict(APP(message, self.context).content["hello"])

    def answer(self, order: Order = ORDER) -> torch.Tensor:
        message = Message(RecordDict({"config": order.to_record()}), dst_node_id=NODE, message_type="train")
        return wire.decode(APP(message, self.context).content["logits"], (24, 3))

    def restarted(self) -> Device:
        device = Device()
        device.context.node_config.update(self.context.node_config)
        return device


def joined(folder: Path | None = None) -> Device:
    device = Device(folder)
    assert "error" not in device.hello()
    return device


def counted(folder: Path) -> dict[str, Any]:
    return json.loads((folder / folders.NOISED_MESSAGES).read_text())


def test_without_a_folder_noise_follows_from_the_seed(tmp_path: Path) -> None:
    one, other = joined(), joined()
    first = one.answer()
    assert torch.equal(first, other.answer())
    clean = joined().answer(replace(ORDER, wire_noise="none"))
    assert not torch.allclose(first, clean, atol=0.1)
    assert not torch.allclose(first, joined().answer(replace(ORDER, vertex=1)), atol=0.1)
    later = replace(ORDER, step=2, num_steps=0)
    assert not torch.allclose(one.answer(later), one.answer(replace(later, step=4)), atol=0.1)
    assert one.hello().get("noised-messages", SEEDED_NOISE) == SEEDED_NOISE


def test_a_device_draws_its_own_noise_anew_for_each_message(tmp_path: Path) -> None:
    """Two answers to one message must not have equal noise: its logits may be others after a restart."""
    still = replace(ORDER, num_steps=0)  # so that only noise differs
    device = joined(tmp_path / "a")
    answers = [device.answer(still), device.answer(still), joined().answer(still)]
    for place, one in enumerate(answers):
        for other in answers[:place]:
            assert float((one - other).abs().mean()) > 0.5
    assert counted(tmp_path / "a") == {"run": {"wire-noise": NOISE, "messages": 2}}


def test_a_device_counts_over_restarts_and_runs(tmp_path: Path) -> None:
    device = joined(tmp_path / "a")
    assert device.hello()["noised-messages"] == 0
    device.answer()
    again = device.restarted()
    assert again.hello(replace(GREETING, fresh=False))["noised-messages"] == 1
    again.answer()
    assert again.hello()["noised-messages"] == 2
    again.answer(replace(ORDER, wire_noise="none"))
    assert again.hello(replace(GREETING, token="other"))["noised-messages"] == 0
    again.answer()
    assert {run: found["messages"] for run, found in counted(tmp_path / "a").items()} == {"run": 2, "other": 1}
    without = again.hello(replace(GREETING, wire_noise="none"))
    assert without.get("noised-messages", SEEDED_NOISE) == SEEDED_NOISE


def test_a_count_that_cannot_be_kept_never_costs_the_noise(tmp_path: Path, monkeypatch, caplog) -> None:
    device = joined(tmp_path / "a")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    still = replace(ORDER, num_steps=0)
    monkeypatch.setattr(StateDir, "count_noised_message", full)
    assert float((device.answer(still) - device.answer(still)).abs().mean()) > 0.5
    monkeypatch.undo()
    (tmp_path / "a").rename(tmp_path / "elsewhere")  # its disk is gone
    assert float((device.answer(still) - joined().answer(still)).abs().mean()) > 0.5
    errors = [record.getMessage() for record in caplog.records if "cannot be counted" in record.getMessage()]
    assert [error.partition(": ")[2][:9] for error in errors] == ["[Errno 28", "[Errno 28", "state-dir"]


@pytest.mark.parametrize("content", ["{", "[]", '{"run": 3}', '{"run": {"messages": "4"}}'])
def test_a_damaged_count_is_refused_in_the_handshake(content: str, tmp_path: Path) -> None:
    (tmp_path / folders.NOISED_MESSAGES).write_text(content)
    device = Device(tmp_path)
    assert f"{folders.NOISED_MESSAGES}' cannot be read: " in device.hello()["error"]
    assert "error" not in device.hello(replace(GREETING, wire_noise="none"))


def test_noise_that_a_node_does_not_know_is_refused_in_the_handshake() -> None:
    error = Device().hello(replace(GREETING, wire_noise="laplace(scale=1)"))["error"]
    assert error == "unknown wire-noise 'laplace' (allowed: none, gaussian)"


def test_an_order_without_noise_changes_nothing() -> None:
    logits = torch.randn(4, 3)
    assert noise.noised(logits, Order(1, 1), 0, Device().context) is logits
