"""Strategies that can be resumed after a round of an earlier process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import numpy as np
from torch import Tensor

from flower_kd import failures
from flower_kd.errors import InputError

State = dict[str, np.ndarray]
"""The state of a strategy between two rounds: arrays by name."""

_KINDS = "biuf"  # of dtypes that safetensors can write: booleans, integers, floats


def of_vertices(kind: str, arrays: Mapping[int, Mapping[str, np.ndarray]]) -> State:
    """Return arrays by vertex and name as a state, with names that begin with their kind."""
    return {f"{kind}/{vertex}/{name}": array for vertex, named in arrays.items() for name, array in named.items()}


def by_vertex(kind: str, state: State) -> dict[int, dict[str, np.ndarray]]:
    """Return the arrays of a kind in a state, which may have others, by vertex and name."""
    found: dict[int, dict[str, np.ndarray]] = {}
    for key, array in state.items():
        of, _, rest = key.partition("/")
        if of == kind:
            number, _, name = rest.partition("/")
            found.setdefault(int(number), {})[name] = array
    return found


class Resumable:
    """State of a strategy between two rounds, as arrays by name, and a callback at the end of each round.

    Attributes
    ----------
    on_round : callable (int) or None
        Called with the number of each finished round, after its evaluation.
    last_round : int
        The last round of the earlier process; 0 in a new run.
    """

    on_round: Callable[[int], None] | None = None
    last_round: int = 0
    _resumed: State | None = None

    def state_dict(self) -> State:
        """Return the strategy's state between two rounds, without its settings: a dict from names to NumPy arrays."""
        return {}

    def saved_state(self) -> State:
        """Return the state as it is saved: PyTorch tensors and plain numbers become NumPy arrays.

        Raises
        ------
        InputError
            If `state_dict` fails, or returns what cannot be saved.
        """
        with self._named("state_dict"):
            state = self.state_dict()
        wanted = f"{self._method('state_dict')} must map names to NumPy arrays"
        if not isinstance(state, dict):
            raise InputError(f"{wanted}, but returns {_kind(state)}")
        odd = next((name for name in state if not isinstance(name, str)), None)
        if odd is not None:
            raise InputError(f"{wanted}: {odd!r} is {_kind(odd)}, not a name")
        return {name: _as_array(value, f"{wanted}: {name!r}") for name, value in state.items()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned, in a strategy that has begun."""

    def resume_after(self, server_round: int, state: State) -> None:
        """Have the next `start` resume after a round of an earlier process with the given state."""
        self.last_round, self._resumed = server_round, state

    def _restore(self) -> None:
        """Restore the earlier process's state, if there is one; called when the strategy has begun."""
        if self._resumed is not None:
            with self._named("load_state_dict"):
                self.load_state_dict(self._resumed)
            self._resumed = None

    def _finish_round(self, server_round: int) -> None:
        if self.on_round is not None:
            self.on_round(server_round)

    def _method(self, name: str) -> str:
        """Return how a method is called in errors, such as "teach() of Confident"."""
        return f"{name}() of {type(self).__name__}"

    def _named(self, method: str) -> AbstractContextManager[None]:
        """Turn any exception of a method into an InputError that names it."""
        return failures.named(self._method(method))


def _as_array(value: object, name: str) -> np.ndarray:
    """Return a value as an array that can be saved; raises InputError, with the name, if there is none."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind in _KINDS and value.dtype.isnative:
            return value
        raise InputError(f"{name} is an array of dtype {value.dtype}")
    try:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # bfloat16; lists of different lengths
        array = np.array(None)
    if array.dtype.kind not in _KINDS:
        raise InputError(f"{name} is {_kind(value)}")
    return array


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
