"""What a user says about a node, checked, and what `flower-supernode` is told."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from flower_kd import folders
from flower_kd.errors import InputError

_HOST = re.compile(r"\[[0-9A-Fa-f:.%\w]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_LAST_PORT = 65535


@dataclass(frozen=True)
class NodeOptions:
    """A node, as `flower-kd node` is told about it.

    Parameters
    ----------
    superlink : str
        HOST:PORT of the SuperLink.
    partition_id, num_partitions : int, optional
        The node's vertex, and the number of nodes.
    name : str
        The node's name; may be empty.
    data_dir, state_dir : Path, optional
        Where its data are, and where its state is kept.
    model : str
        Its model; empty for the one of the run config.
    insecure : bool
        Whether to connect without TLS.
    root_certificates : Path, optional
        The certificate of the authority that signed the SuperLink's.
    private_key : Path, optional
        The key by which the SuperLink knows the node.
    """

    superlink: str
    partition_id: int | None = None
    num_partitions: int | None = None
    name: str = ""
    data_dir: Path | None = None
    state_dir: Path | None = None
    model: str = ""
    insecure: bool = False
    root_certificates: Path | None = None
    private_key: Path | None = None

    def check(self) -> None:
        """Raise InputError for the first option that cannot be used."""
        check_address(self.superlink)
        self._check_vertex()
        self._check_security()
        if self.data_dir is not None and not folders.expanded(self.data_dir).is_dir():
            raise InputError(f"--data-dir {str(self.data_dir)!r} is not a folder")
        if self.state_dir is not None:
            if not folders.expanded(self.state_dir).is_dir():  # it could be on a disk that is not mounted
                raise InputError(f"--state-dir {str(self.state_dir)!r} is not a folder: make it before the first start")
            folders.check_writable(folders.expanded(self.state_dir).absolute(), "--state-dir")
        self.node_config()
        if self.model:
            _check_model(self.model)

    def _check_vertex(self) -> None:
        if (self.partition_id is None) != (self.num_partitions is None):
            raise InputError("--partition-id and --num-partitions must be given together")
        if self.partition_id is None and not self.name:
            raise InputError("a node needs --partition-id and --num-partitions, or --name")
        if self.partition_id is not None and self.num_partitions is not None:
            if self.num_partitions < 1:
                raise InputError(f"--num-partitions {self.num_partitions} must be at least 1")
            if not 0 <= self.partition_id < self.num_partitions:
                raise InputError(
                    f"--partition-id {self.partition_id} must be from 0 to {self.num_partitions - 1}, as "
                    f"--num-partitions is {self.num_partitions}"
                )

    def _check_security(self) -> None:
        if self.insecure and self.root_certificates is not None:
            raise InputError("--insecure and --root-certificates cannot be used together")
        if self.insecure and self.private_key is not None:
            raise InputError("--auth-supernode-private-key needs TLS: --root-certificates FILE instead of --insecure")
        if not self.insecure and self.root_certificates is None:
            raise InputError(
                "--root-certificates FILE is missing: the certificate by which the node knows the SuperLink (for a "
                "test on one machine, --insecure connects without TLS)"
            )
        if self.root_certificates is not None:
            from cryptography.x509 import load_pem_x509_certificates

            certificates = _content(self.root_certificates, "--root-certificates")
            try:
                load_pem_x509_certificates(certificates)
            except ValueError:
                raise InputError(
                    f"--root-certificates {str(self.root_certificates)!r} is not a certificate in PEM"
                ) from None
        if self.private_key is not None:
            from cryptography.exceptions import UnsupportedAlgorithm
            from cryptography.hazmat.primitives.asymmetric import ec
            from cryptography.hazmat.primitives.serialization import load_ssh_private_key

            option = "--auth-supernode-private-key"
            content = _content(self.private_key, option)
            try:
                key = load_ssh_private_key(content, None)
            except (ValueError, TypeError, UnsupportedAlgorithm):
                key = None
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise InputError(
                    f"{option} {str(self.private_key)!r} is not an elliptic-curve private key in OpenSSH's format "
                    "without a password: `flower-kd keys` makes some"
                )

    def node_config(self) -> str:
        """Return the node config, as Flower's `--node-config` takes it; raises InputError for what it cannot say."""
        values: dict[str, object] = {
            "partition-id": self.partition_id,
            "num-partitions": self.num_partitions,
            "name": self.name or None,
            "state-dir": None if self.state_dir is None else str(folders.expanded(self.state_dir).absolute()),
            "data-dir": None if self.data_dir is None else str(folders.expanded(self.data_dir).absolute()),
            "model": self.model or None,
        }
        return " ".join(
            f"{key}={_quoted(key, value) if isinstance(value, str) else value}"
            for key, value in values.items()
            if value is not None
        )

    def supernode_command(self, port: int) -> list[str]:
        """Return the command of Flower's SuperNode.

        Parameters
        ----------
        port : int
            The port of this machine over which it talks to the processes that handle its messages.
        """
        command = ["flower-supernode", "--superlink", self.superlink, "--host", "127.0.0.1", "--port", str(port)]
        if self.insecure:
            command.append("--insecure")
        if self.root_certificates is not None:
            command += ["--root-certificates", str(folders.expanded(self.root_certificates).absolute())]
        if self.private_key is not None:
            command += ["--auth-supernode-private-key", str(folders.expanded(self.private_key).absolute())]
        return [*command, "--node-config", self.node_config()]


def check_address(address: str) -> None:
    """Raise InputError unless an address is HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not (_HOST.fullmatch(host) and port.isascii() and port.isdecimal() and 0 < int(port) <= _LAST_PORT):
        raise InputError(
            f"--superlink {address!r} must be HOST:PORT with a port from 1 to {_LAST_PORT}, such as 192.168.1.10:8000 "
            "or [::1]:8000"
        )


def _content(path: Path, option: str) -> bytes:
    try:
        return folders.expanded(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{option} {str(path)!r} does not exist") from None
    except OSError as error:
        raise InputError(f"{option} {str(path)!r} cannot be read: {error.strerror}") from None


def _quoted(key: str, text: str) -> str:
    """Return a text in quotes, as Flower reads it: as TOML, and without a quote of the same kind inside."""
    if not text.isprintable():
        raise InputError(f"--{key} {text!r} has a character that cannot be printed")
    if '"' not in text:
        escaped = text.replace("\\", "\\\\")
        return f'"{escaped}"'
    if "'" not in text:
        return f"'{text}'"
    raise InputError(f"--{key} {text!r} has both kinds of quotes, which Flower's node config cannot contain")


def _check_model(name: str) -> None:
    """Raise InputError if a model is unknown; in a process of its own, as torch would stay in memory."""
    check = (
        "import os, sys; sys.path.append(os.getcwd())\n"
        "from flower_kd.config import RunConfig; from flower_kd.errors import InputError\n"
        "try: RunConfig.parse({'model': sys.argv[1]})\n"
        "except InputError as error: sys.exit(str(error))"
    )
    done = subprocess.run([sys.executable, "-c", check, name], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"--model: {done.stderr.strip().splitlines()[-1]}")
