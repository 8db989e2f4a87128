"""Why a node is not taken in, and that it tries again when it can be."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from flower_kd.device import keys, node, refusals, superlink
from flower_kd.device.options import NodeOptions
from flower_kd.device.refusals import Refusal
from flower_kd.device.superlink import KnownNode
from flower_kd.errors import InputError


@contextmanager
def server(ahead: float = 0.0) -> Iterator[str]:
    """Answer with a clock that is so many seconds behind this one, and yield the address."""

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(int(time.time() - ahead))

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Healthy) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{served.server_port}"
        finally:
            served.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (7200, "2 hours ahead of"),
        (20, "20 s ahead of"),
        (3, None),
        (-200, None),
        (-320, "5 minutes behind"),
        (-3 * 86400, "3 days behind"),
    ],
)
def test_a_clock_that_flower_does_not_accept(offset: float, words: str | None) -> None:
    with server(offset) as address:
        found = refusals.refusal(address, None, None)
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert f"the clock of this device is about {words} that of the SuperLink at {address}" in found.why
        assert found.seconds is None


def test_a_server_that_is_not_there_gives_no_reason() -> None:
    with server() as address:
        pass
    assert refusals.refusal(address, None, None) is None


def test_a_server_of_another_kind_gives_no_reason() -> None:
    """One with TLS answers a request without it by an alert, which is not HTTP."""

    class Alert(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1000)
            self.request.sendall(b"\x15\x03\x01\x00\x02\x02\x46")

    with TCPServer(("127.0.0.1", 0), Alert) as served:
        thread = threading.Thread(target=served.handle_request)
        thread.start()
        assert refusals.refusal(f"127.0.0.1:{served.server_address[1]}", None, None) is None
        thread.join()


@pytest.mark.parametrize(
    ("status", "left", "words", "seconds"),
    [
        ("online", 43.0, "still counts this node as connected", 44.0),
        ("offline", -5.0, None, None),
        (None, 0.0, "does not know this node's key", None),
    ],
)
def test_what_a_superlink_knows_of_a_key(
    status: str | None,
    left: float,
    words: str | None,
    seconds: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = keys.make(tmp_path / "keys", 2)
    public = [public_key_to_bytes(load_ssh_public_key(made.public_of_node(v).read_bytes())) for v in range(2)]
    other = KnownNode(2, "online", public[1], time.time() + 60, 30)
    own = [] if status is None else [KnownNode(1, status, public[0], time.time() + left, 30)]

    class Known:
        def nodes(self) -> list[KnownNode]:
            return [other, *own]

    @contextmanager
    def connected(address: str, certificate: Path | None) -> Iterator[Known]:
        yield Known()

    monkeypatch.setattr(superlink, "connected", connected)
    found = refusals.of_key("127.0.0.1:9", None, made.of_node(0))
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert words in found.why
        assert found.seconds == (None if seconds is None else pytest.approx(seconds, abs=2))


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeOptions:
    """Return options of a node whose SuperNode notes that it was started, and ends with the statuses in a file."""
    monkeypatch.setattr(node, "TICK_SECONDS", 0.01)
    script = (
        "#!/bin/sh\n"
        f'echo x >> "{tmp_path}/starts"\n'
        f'exit $(sed -n "$(wc -l < "{tmp_path}/starts")p" "{tmp_path}/statuses")\n'
    )
    (tmp_path / "bin").mkdir()
    for name in ("flower-supernode", "flwr-clientapp"):
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o700)
    monkeypatch.setattr(
        node.loopback, "commands_first", lambda env: {**env, "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    )
    return NodeOptions("127.0.0.1:9", 0, 1, insecure=True)


def starts(tmp_path: Path) -> int:
    return (tmp_path / "starts").read_text().count("x")


def test_a_node_that_still_counts_as_connected_tries_again(
    options: NodeOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "statuses").write_text("1\n3\n")
    found = iter([Refusal("still connected", 0.3), None])
    monkeypatch.setattr(refusals, "ask", lambda _: next(found))
    before = time.monotonic()
    assert node.run(options, warm_start=False) == 3
    assert time.monotonic() - before > 0.3
    assert starts(tmp_path) == 2
    assert "flower-kd: still connected: the next attempt is in 0 s" in capfd.readouterr().err


def test_another_node_with_the_same_key_is_named(
    options: NodeOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "statuses").write_text("1\n1\n")
    monkeypatch.setattr(refusals, "ask", lambda _: Refusal("still connected", 0.1))
    with pytest.raises(InputError, match="another node with this key is connected to the SuperLink at"):
        node.run(options, warm_start=False)
    assert starts(tmp_path) == 2


def test_a_supernode_that_ends_by_itself_is_a_failure(
    options: NodeOptions, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Flower's ends with status 0 if its clock is wrong; a service would not start it again."""
    (tmp_path / "statuses").write_text("0\n")
    assert node.run(options, warm_start=False) == 1
    assert "flower-kd: Flower's SuperNode ended by itself" in capfd.readouterr().err


def test_the_reason_is_the_users_error(options: NodeOptions, tmp_path: Path) -> None:
    (tmp_path / "statuses").write_text("0\n")
    with server(7200) as address, pytest.raises(InputError, match="about 2 hours ahead of"):
        node.run(replace(options, superlink=address), warm_start=False)


def test_a_superlink_that_is_not_there_is_named_and_the_node_tries(
    options: NodeOptions, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "statuses").write_text("3\n")
    assert node.run(options, warm_start=False) == 3
    said = capfd.readouterr().err
    assert said.count("flower-kd: the SuperLink at 127.0.0.1:9 cannot be reached (") == 1
    assert starts(tmp_path) == 1


def test_nothing_is_said_of_a_superlink_that_is_there(
    options: NodeOptions, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "statuses").write_text("3\n")
    with server() as address:
        assert node.run(replace(options, superlink=address), warm_start=False) == 3
    assert "cannot be reached" not in capfd.readouterr().err
