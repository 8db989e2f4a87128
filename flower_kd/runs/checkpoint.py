"""The server's state after a round, from which a run can be resumed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from flower_kd.errors import InputError

SERVER_FILE = "server.safetensors"

State = dict[str, np.ndarray]


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after a round; the nodes keep their own states.

    Parameters
    ----------
    identity : str
        The run's identity (`flower_kd.runs.identity`).
    stage : str
        "alone" for the silo baseline, else the strategy's name.
    server_round : int
        The last finished round.
    seconds : dict
        Seconds of each stage so far.
    history_bytes : dict
        Size of each stage's history file at the end of the last finished round.
    nodes : list of dict
        By vertex, the parts of the handshake that must not change.
    strategy, network : dict of ndarray
        States of the strategy and of the network (traffic, absent nodes).
    """

    identity: str
    stage: str
    server_round: int
    seconds: dict[str, float]
    history_bytes: dict[str, int]
    nodes: list[dict[str, Any]]
    strategy: State = field(default_factory=dict)
    network: State = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        arrays = {f"strategy/{name}": value for name, value in self.strategy.items()}
        arrays |= {f"network/{name}": value for name, value in self.network.items()}
        about = {key: value for key, value in vars(self).items() if key not in ("strategy", "network")}
        return save(
            {name: np.asarray(value, order="C") for name, value in arrays.items()}, {"about": json.dumps(about)}
        )


def read(folder: Path) -> Checkpoint | None:
    """Return the checkpoint in a folder, or None if there is none; raises InputError if it is damaged."""
    path = folder / SERVER_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()["about"])
            found: dict[str, State] = {"strategy": {}, "network": {}}
            for name in file.keys():  # noqa: SIM118  (not a mapping)
                kind, _, own_name = name.partition("/")
                found[kind][own_name] = np.array(file.get_tensor(name))  # a writable copy
        return Checkpoint(**about, strategy=found["strategy"], network=found["network"])
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"checkpoint {str(path)!r} is damaged: {' '.join(str(error).split())}") from None
