import numpy as np
import pytest
import torch

from flower_kd import wire
from flower_kd.errors import InputError

ALL, SOME = np.arange(60), np.arange(10, 30)


def sides() -> tuple[wire.LastRows, wire.LastRows]:
    return wire.LastRows(wire.get("labels", "delta"), 60, 5), wire.LastRows(wire.get("labels", "delta"), 60, 5)


def logits(seed: int, rows: int = 60) -> torch.Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


def exchanged(node: wire.LastRows, server: wire.LastRows, values: torch.Tensor, rows: np.ndarray) -> int:
    """Send rows from a node to the server, and return how many bytes they took."""
    record = node.encode(values, rows, server.digest(rows))
    assert torch.equal(server.decode(record, rows).argmax(-1), values.argmax(-1))
    assert node.digest(rows) == server.digest(rows) != 0
    return len(record["rows"].data)


def test_only_what_the_other_side_lacks_is_sent() -> None:
    node, server = sides()
    assert server.digest(ALL) == 0
    full = exchanged(node, server, logits(0), ALL)
    assert exchanged(node, server, logits(0), ALL) < 8 < full
    assert exchanged(node, server, logits(0)[10:30], SOME) < 8
    changed = logits(0)
    changed[40:44] = logits(1)[40:44]
    assert exchanged(node, server, changed, ALL) < full - 5


def test_rows_that_were_never_sent_are_sent_in_full() -> None:
    node, server = sides()
    exchanged(node, server, logits(0, 20), SOME)
    assert server.digest(ALL) == 0
    exchanged(node, server, logits(1), ALL)


@pytest.mark.parametrize("lost_at", ["node", "server", "reply"])
def test_a_side_that_missed_an_exchange_gets_a_full_message(lost_at: str) -> None:
    node, server = sides()
    full = exchanged(node, server, logits(0), ALL)
    if lost_at == "node":
        node = sides()[0]
    elif lost_at == "server":
        server = sides()[0]
    else:
        node.encode(logits(1), ALL, server.digest(ALL))
    assert exchanged(node, server, logits(0), ALL) == full
    assert exchanged(node, server, logits(0), ALL) < 8


def test_a_delta_for_a_base_that_is_not_there_changes_nothing() -> None:
    node, server = sides()
    exchanged(node, server, logits(0), ALL)
    record = node.encode(logits(0), ALL, server.digest(ALL))
    stranger = sides()[1]
    with pytest.raises(InputError, match="a delta, without a base"):
        stranger.decode(record, ALL)
    assert not stranger.known.any()


def test_saved_rows_of_another_format_are_forgotten() -> None:
    node, server = sides()
    exchanged(node, server, logits(0), ALL)
    again, other = sides()[0], wire.LastRows(wire.get("float32", "delta"), 60, 5)
    again.restore(node.words, node.known)
    assert again.digest(ALL) == node.digest(ALL)
    other.restore(node.words, node.known)
    assert other.digest(ALL) == 0
