"""Flower's own processes on this machine's loopback interface, stopped at the end of the block that started them."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flower_kd.device import processes
from flower_kd.errors import InputError

START_SECONDS = 60.0
# Seconds, 1 otherwise: each time costs 4 ms of CPU, and a message waits for half of it (docs/devices.md).
QUICKLY = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1"}


def free_port() -> int:
    """Return a port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def commands_first(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with the commands that were installed with this interpreter first in PATH."""
    return {**env, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', os.defpath)}"}


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment with its own Flower folder and this interpreter's commands first in PATH."""
    home.mkdir(parents=True, exist_ok=True)
    return commands_first(os.environ) | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # all dependencies are installed here
        **more,
    }


@contextmanager
def running(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the end of the block; then stop it with all its child processes."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        processes.end_child(process)


@contextmanager
def superlink(env: dict[str, str], port: int, log: Path, *options: str) -> Iterator[None]:
    """Run a SuperLink until the end of the block; raises InputError if it does not start."""
    command = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port), *options]
    with running(command, env, log) as process:
        wait_for_superlink(port, lambda: process.poll() is None, log)
        yield


def wait_for_superlink(port: int, is_running: Callable[[], bool], log: Path, certificate: Path | None = None) -> None:
    """Wait until a SuperLink answers; raises InputError with the end of its log if it does not.

    Parameters
    ----------
    port : int
        Its port on the loopback interface.
    is_running : callable
        Whether its process has not ended.
    log : Path
        What it prints.
    certificate : Path, optional
        The certificate of its authority, if it has TLS.
    """
    trusted = None if certificate is None else ssl.create_default_context(cafile=str(certificate))
    address = f"{'http' if trusted is None else 'https'}://127.0.0.1:{port}/health"
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(address, timeout=1, context=trusted)
            return
        except OSError:
            if not is_running() or time.monotonic() > deadline:
                raise InputError(f"flower-superlink did not start: {end_of(log.read_text())}") from None
            time.sleep(0.2)


@contextmanager
def simulation(folder: Path) -> Iterator[dict[str, str]]:
    """Run Flower's simulation engine until the end of the block, and yield the environment in which `flwr run` uses it.

    Parameters
    ----------
    folder : Path
        Folder of Flower's files and the log.
    """
    port = free_port()
    env = environment(folder / "flwr", FLWR_LOCAL_SUPERLINK_HTTP_API_PORT=str(port), **QUICKLY)
    with superlink(env, port, folder / "superlink.log", "--simulation", "--isolation", "subprocess"):
        yield env


def flwr_run(app: Path, env: dict[str, str], *options: str, timeout: float = 240) -> str:
    """Run `flwr run APP --stream` and return what it printed; raises InputError if it takes longer than `timeout` s."""
    command = ["flwr", "run", str(app), *options, "--stream"]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise InputError(f"flwr run did not end within {timeout:g} s") from None
    return done.stdout + done.stderr


def end_of(text: str) -> str:
    """Return the last words of what a command printed, on one line."""
    words = [word for word in text.split() if any(letter.isalnum() for letter in word)]
    return " ".join(words[-40:]) or "no output"
