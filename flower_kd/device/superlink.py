"""What a SuperLink is asked: which nodes it knows, and to know another one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.constant import Status
from flwr.proto.control_pb2 import ListNodesRequest, ListRunsRequest, RegisterNodeRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from flower_kd.errors import InputError


@dataclass(frozen=True)
class KnownNode:
    """A node that a SuperLink knows.

    Parameters
    ----------
    node_id : int
        The number that it gave the node.
    status : str
        registered, online, offline or unregistered.
    public_key : bytes
        The node's, which it makes anew at each start unless it was given one.
    online_until : float
        Seconds since 1970 until which the node counts as online unless it is heard again; 0 if it never was.
    heartbeat_seconds : float
        How often the node is heard.
    """

    node_id: int
    status: str
    public_key: bytes
    online_until: float
    heartbeat_seconds: float


class SuperLink:
    """A connection to a SuperLink, as `flwr` has it."""

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def nodes(self) -> list[KnownNode]:
        """Return the nodes that it knows."""
        found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return [
            KnownNode(node.node_id, node.status, node.public_key, node.online_until, node.heartbeat_interval)
            for node in found
        ]

    def unfinished_runs(self) -> list[int]:
        """Return the numbers of the runs that have not ended."""
        found = self._client.ListRuns(ListRunsRequest()).run_dict
        return [number for number, run in found.items() if run.status.status != Status.FINISHED]

    def register(self, public_key: bytes, name: str) -> None:
        """Let a node with a key take part."""
        self._client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name))


@contextmanager
def connected(address: str, certificate: Path | None) -> Iterator[SuperLink]:
    """Connect to a SuperLink; raises InputError if it does not answer in the block.

    Parameters
    ----------
    address : str
        HOST:PORT.
    certificate : Path, optional
        The certificate of its authority; None without TLS.
    """
    client = ControlHttpClient.from_server_address(
        server_address=address,
        insecure=certificate is None,
        root_certificates=None if certificate is None else certificate.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    try:
        yield SuperLink(client)
    except httpx.HTTPError as error:
        raise InputError(f"the SuperLink at {address} does not answer: {error}") from None
    finally:
        client.close()


def public_key(path: Path) -> bytes:
    """Return a node's public key from its file, as a SuperLink knows it."""
    return public_key_to_bytes(load_ssh_public_key(path.read_bytes()))  # type: ignore[arg-type]
