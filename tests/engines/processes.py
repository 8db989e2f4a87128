"""Real Flower processes on loopback, each in a group of its own that ends with the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    """Return a port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment with a Flower folder of its own and this interpreter's commands first."""
    home.mkdir(parents=True, exist_ok=True)
    return os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        # The app's dependencies are here already.
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
        **more,
    }


@contextmanager
def running(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command, and end it with all it started."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, how)
                process.wait(timeout=10)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        process.wait()


@contextmanager
def superlink(env: dict[str, str], port: int, log: Path, *options: str) -> Iterator[None]:
    """Run a SuperLink until the end of the block, which begins when it answers."""
    command = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port), *options]
    with running(command, env, log) as process:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield


def flwr_run(app: Path, env: dict[str, str], *options: str, timeout: float = 240) -> str:
    """Run `flwr run APP --stream` and return what it printed."""
    done = subprocess.run(
        ["flwr", "run", str(app), *options, "--stream"], env=env, capture_output=True, text=True, timeout=timeout
    )
    return done.stdout + done.stderr


def as_run_config(config: dict[str, object]) -> str:
    """Return a config as `flwr run --run-config` takes it."""
    return " ".join(f"{key}='{value}'" if isinstance(value, str) else f"{key}={value}" for key, value in config.items())
