"""What a federation believes of its nodes."""

from pathlib import Path

import pytest

from flower_kd.device import federation
from flower_kd.device.federation import Federation
from flower_kd.device.superlink import KnownNode


def test_a_node_that_was_killed_is_not_taken_for_the_one_that_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its SuperLink counts it as connected for a while."""
    monkeypatch.setattr(Federation, "runs", lambda *_: True)
    started = Federation(tmp_path, nodes=1, tls=False, port=1)
    log = started.log_of("node-0")
    log.parent.mkdir()
    log.write_text("SuperNode ID: 7\n")
    asked = []

    class SuperLink:
        def nodes(self) -> list[KnownNode]:
            asked.append(log.read_text())
            if len(asked) == 2:
                log.write_text(f"{log.read_text()}SuperNode ID: 8\n")
            return [KnownNode(node, "online", b"", 1e12, 30) for node in (7, 8)]

    federation._wait_until_online(started, SuperLink(), {"node-0": log.stat().st_size})  # type: ignore[arg-type]
    assert len(asked) == 2
