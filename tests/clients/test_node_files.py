"""What a node keeps between messages, in its context and on disk."""

from pathlib import Path

import pytest
import torch
from conftest import build_blob_node
from flwr.app import Context, RecordDict
from safetensors.torch import save

from flower_kd.clients import state
from flower_kd.clients.node_files import NodeFiles
from flower_kd.errors import InputError
from flower_kd.models.card import ModelCard, Score
from flower_kd.protocol import Greeting


def context_of(records: RecordDict) -> Context:
    return Context(1, 5, {"partition-id": 0, "num-partitions": 2}, records, {})


def node_of(value: float):
    node = build_blob_node(context_of(RecordDict()))
    with torch.no_grad():
        node.model[0].bias.fill_(value)
    return node


def bias(node) -> float:
    return node.model[0].bias[0].item()


def test_the_states_of_the_last_three_rounds_are_kept(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path / "new" / "node")
    for server_round in (7, 8, 9, 10, 12):
        files.save(node_of(server_round), server_round)
    (tmp_path / "new" / "node" / "round-x.safetensors").write_text("somebody else's")
    assert sorted(path.name for path in (tmp_path / "new" / "node").glob("round-[0-9]*")) == [
        "round-10.safetensors",
        "round-12.safetensors",
        "round-9.safetensors",
    ]
    for asked, expected in [(12, 12), (99, 12), (11, 10), (10, 10), (9, 9)]:
        node = node_of(0.0)
        assert files.load(node, asked) == expected
        assert bias(node) == expected
    node = node_of(0.5)
    assert files.load(node, 8) == 0
    assert bias(node) == 0.5
    assert NodeFiles(tmp_path / "none").load(node, 5) == 0


CARD = ModelCard("my:net", 3, (1, 2, 3), (0.5,), (1.0,), ("a", "b", "c"))


def test_the_final_model_is_that_of_the_last_state(tmp_path: Path) -> None:
    files = NodeFiles.of(tmp_path, "d-dist", "a/b")
    assert files.final_model(0) is None
    for server_round in (1, 2):
        node = node_of(server_round)
        node.card = CARD
        files.save(node, server_round)
    found = files.final_model(2)
    assert found is not None
    assert found[0] == CARD
    assert set(found[1]) == set(node.model.state_dict())
    assert found[1]["0.bias"][0] == 2.0
    assert files.final_model(1)[1]["0.bias"][0] == 2.0  # the reply of round 2 was lost
    assert files.final_model(3) is None  # the node's disk failed in round 3
    assert NodeFiles.of(tmp_path, "alone", "a/b").final_model(0) is None


def test_a_state_of_a_round_that_is_repeated_is_not_the_final_model(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    for server_round in (4, 5):
        node = node_of(server_round)
        node.card = CARD
        files.save(node, server_round)
    assert files.load(node_of(0.0), 4) == 4  # the run was killed in round 5, and the node fails from then on
    assert files.final_model(4)[1]["0.bias"][0] == 4.0


def test_a_final_model_that_cannot_be_used_is_left_out(tmp_path: Path, caplog) -> None:
    files, node = NodeFiles(tmp_path), node_of(1.0)
    files.save(node, 1)
    assert files.final_model(1) is None  # nobody knows how to use it
    node.card = CARD
    files.save(node, 1)
    path = tmp_path / "round-1.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    assert files.final_model(1) is None
    assert f"'{path}' cannot be read: " in caplog.text


def test_a_state_of_another_model_is_named(tmp_path: Path) -> None:
    files, node = NodeFiles(tmp_path), node_of(1.0)
    files.save(node, 1)
    node.model = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"its state '.*round-1.safetensors' cannot be read: Error.* in loading state"):
        files.load(node, 1)


@pytest.mark.parametrize("records", [RecordDict, state.LiveState])
def test_a_context_remembers_the_node_until_it_begins_anew(records: type[RecordDict]) -> None:
    context = context_of(records())
    assert not state.has_node(context)
    assert bias(state.load(context, lambda _: node_of(1.0))) == 1.0
    assert state.has_node(context)
    state.save(context, node_of(2.0))
    assert bias(state.load(context, lambda _: node_of(1.0))) == 2.0
    assert bias(state.fresh(context, lambda _: node_of(3.0))) == 3.0
    assert bias(state.load(context, lambda _: node_of(1.0))) == 3.0

    def fails(_: Context):
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError):
        state.fresh(context, fails)
    assert not state.has_node(context)  # what an earlier run left is gone


def test_a_greeting_moves_on_with_the_rounds() -> None:
    context = context_of(RecordDict())
    assert state.greeting(context) == state.greeting(context, 3) == Greeting()
    state.remember_greeting(context, Greeting(server_round=2))
    assert state.greeting(context).server_round == 2
    assert state.greeting(context, 4).server_round == 4
    assert state.greeting(context).server_round == 4


def best(files: NodeFiles, lowest_loss: float = 0.0):
    found = files.best_model(lowest_loss)
    return None if found is None else (found[0], found[1]["0.bias"][0].item())


def test_the_best_model_is_the_last_that_was_saved(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path / "new" / "node")
    assert files.best_model(9.0) is None
    assert files.load_best(9) is None
    for server_round in (2, 3, 4, 10):
        files.save_best(node_of(server_round), Score(server_round, 0.5, 1 / server_round))
    assert sorted(path.name for path in (tmp_path / "new" / "node").iterdir()) == [
        "best-10.safetensors",
        "best-3.safetensors",
        "best-4.safetensors",
    ]
    assert best(files, 0.1) == (Score(10, 0.5, 0.1), 10.0)
    assert best(files, 0.05) is None  # the node reported a better one, which its disk did not take
    assert files.load(node_of(0.0), 99) == 0  # they are no states


def test_a_best_model_of_a_round_that_is_repeated_is_forgotten(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    for server_round in (3, 5):
        files.save_best(node_of(server_round), Score(server_round, 0.5, 1 / server_round))
    score, weights = files.load_best(4)
    assert (score, weights["0.bias"][0]) == (Score(3, 0.5, 1 / 3), 3.0)
    assert best(files, 1 / 3) == (score, 3.0)
    assert files.load_best(2) is None
    assert list(tmp_path.iterdir()) == []


def test_a_best_model_that_cannot_be_read_is_named(tmp_path: Path, caplog) -> None:
    files = NodeFiles(tmp_path)
    files.save_best(node_of(1.0), Score(1, 0.5, 1.0))
    path = tmp_path / "best-1.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"its best model '.*best-1.safetensors' cannot be read: ") as caught:
        files.load_best(1)
    assert "\n" not in str(caught.value)
    assert files.best_model(1.0) is None
    assert f"the best model in '{tmp_path}' cannot be read: " in caplog.text
    path.with_name("best-2.safetensors").write_bytes(save({"0.bias": torch.zeros(1)}))
    with pytest.raises(InputError, match=r"best-2.safetensors' cannot be read: 'score'"):
        files.load_best(2)
