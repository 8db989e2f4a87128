"""Pruned models on nodes: what travels, what is averaged, what comes back from records and files."""

import io
import re
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import FaultyGrid, build_blob_node, build_same_model_node
from flwr.app import ArrayRecord, Context, Message, RecordDict

import flower_kd
from flower_kd import models, sim
from flower_kd.clients import Node, make_client_app, state
from flower_kd.clients.node_files import NodeFiles
from flower_kd.deploy.export import export
from flower_kd.errors import InputError
from flower_kd.models import pruning
from flower_kd.models.card import Score
from flower_kd.protocol import ARRAYS, UPDATE
from flower_kd.report import run_table
from flower_kd.report.pages import run_page
from flower_kd.seeding import torch_seeded
from flower_kd.strategies import DSGD, FedAvg, NeighborKD

NODES = 4


def pruned_node(context: Context, seed: int = 0) -> Node:
    """Return a node whose mask is that of a seed, and whose learning rate decays weights too."""
    node = build_same_model_node(context)
    with torch_seeded(seed):
        node.model = torch.nn.Linear(6, 3)
    pruning.prune_smallest(node.model, 0.5)
    node.optimizer = torch.optim.SGD(node.model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    return node


def by_vertex(context: Context) -> Node:
    return pruned_node(context, int(context.node_config["partition-id"]))


def context_of(vertex: int = 0) -> Context:
    return Context(1, 5, {"partition-id": vertex}, RecordDict(), {})


def trained_models(grid: FaultyGrid) -> list[torch.nn.Module]:
    contexts = sorted(grid.contexts.values(), key=lambda context: int(context.node_config["partition-id"]))
    return [state.load(context, pruned_node).model for context in contexts]


@pytest.mark.parametrize("strategy", [DSGD, FedAvg])
@pytest.mark.parametrize("compression", ["none", "uint8", "top-k(share=0.5)"])
def test_kept_weights_are_averaged_and_masks_never(strategy, compression: str) -> None:
    grid = FaultyGrid(make_client_app(pruned_node), NODES, {})
    mask = pruned_node(context_of()).model.weight_mask
    sent: list[dict[str, tuple[int, ...]]] = []
    values: dict[int, np.ndarray] = {}

    def interfere(vertex: int, reply: Message) -> Message:
        if ARRAYS in reply.content and reply.metadata.message_type == "train":
            record = reply.content[ARRAYS]
            sent.append({name: tuple(array.shape) for name, array in record.items()})
            values[vertex] = record["weight"].numpy()
        elif UPDATE in reply.content:
            sent.append({name: tuple(array.shape) for name, array in reply.content[UPDATE].items()})
        return reply

    grid.interfere = interfere
    strategy(nx.complete_graph(NODES), compression=compression, local_steps=3).start(grid, ArrayRecord(), num_rounds=2)
    assert sent
    assert not any("mask" in name or "orig" in name for names in sent for name in names)
    if compression == "none":
        assert all(shapes == {"bias": (3,), "weight": (9,)} for shapes in sent)
        mean = np.mean(list(values.values()), axis=0)
    for model in trained_models(grid):
        assert torch.equal(model.weight_mask, mask)
        assert bool((model.weight_orig[mask == 0] == 0).all())
        assert bool((model.weight_orig[mask == 1] != 0).all())
        if compression == "none" and strategy is DSGD:
            np.testing.assert_allclose(model.weight_orig[mask == 1].detach().numpy(), mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("strategy", [DSGD, FedAvg])
def test_different_masks_are_refused_before_anything_is_trained(strategy, ring: nx.Graph) -> None:
    grid = FaultyGrid(make_client_app(by_vertex), NODES, {})
    kinds = set()
    grid.interfere = lambda vertex, reply: kinds.add(reply.metadata.message_type) or reply
    words = "node 1 has pruned other weights than the others, so that they cannot be averaged: pruned models must start"
    with pytest.raises(InputError, match=words):
        strategy(ring).start(grid, ArrayRecord(), num_rounds=1)
    assert kinds == {"query.join"}


def test_distillation_takes_any_masks(ring: nx.Graph) -> None:
    grid = FaultyGrid(make_client_app(by_vertex), NODES, {})
    result = NeighborKD(ring, local_steps=2).start(grid, ArrayRecord(), num_rounds=2)
    assert 2 in result.evaluate_metrics_clientapp


def test_a_node_that_claims_more_pruned_weights_than_it_has(ring: nx.Graph) -> None:
    grid = FaultyGrid(make_client_app(build_blob_node), NODES, {})
    grid.interfere = lambda vertex, reply: (vertex == 1 and reply.content["hello"].update({"pruned": 10**6})) or reply
    with pytest.raises(InputError, match=re.escape("pruned = 1000000 in its handshake is above parameters = ")):
        NeighborKD(ring).start(grid, ArrayRecord(), num_rounds=1)


def test_records_and_files_bring_back_the_mask_of_the_node_that_wrote_them(tmp_path: Path) -> None:
    """Whatever a factory prunes when it is called again."""
    written, context = pruned_node(context_of(), 1), context_of()
    expected = written.model.state_dict()
    assert pruning.fingerprint(written.model) != pruning.fingerprint(pruned_node(context_of(), 2).model)
    state.save(context, written)
    loaded = state.load(context, lambda _: pruned_node(context_of(), 2)).model
    files = NodeFiles(tmp_path)
    files.save(written, 1)
    files.save_best(written, Score(1, 0.5, 0.5))
    from_file = pruned_node(context_of(), 3)
    assert files.load(from_file, 1) == 1
    _, best = files.load_best(1)
    assert best.keys() == {"bias", "weight", "weight_mask"}
    for found in (loaded.state_dict(), from_file.model.state_dict(), pruning.from_file(best, expected)):
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_file_of_a_model_that_is_not_pruned_is_refused(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    files.save(build_same_model_node(context_of()), 1)
    with pytest.raises(InputError, match="cannot be read: 'weight' is not pruned"):
        files.load(pruned_node(context_of()), 1)


SHORT = {
    **{"num-server-rounds": 2, "local-steps": 3, "samples-per-node": 20, "reference-size": 40, "baseline": "none"},
    **{"model": "lenet5(prune=0.2),lenet5(prune=0.8)", "momentum": 0.9, "weight-decay": 0.01, "validation-share": 0.2},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("pruned")
    return folder, sim.run({**SHORT, "strategy": "d-dist"}, num_nodes=2, output_dir=folder)


def test_a_run_says_what_its_models_keep_and_cost(finished) -> None:
    folder, summary = finished
    weights = [150, 2400, 48_000, 10_080, 840]
    first, second = summary.networks
    assert [first["model"], second["model"]] == ["lenet5(prune=0.2)", "lenet5(prune=0.8)"]
    for network, share, nodes in ((first, 0.2, [0]), (second, 0.8, [1])):
        assert network["nodes"] == nodes
        assert network["parameters"] == 61_706
        assert network["kept"] == 61_706 - sum(round(share * count) for count in weights)
        assert network["stored_bytes"] == (folder / "models" / f"node-{nodes[0]}.safetensors").stat().st_size
        assert network["weights_bytes"] == pytest.approx(4 * network["kept"], rel=0.06)
    shown = " ".join(run_table.text(summary).split())
    assert f"{second['kept']:,} of 61,706" in shown
    assert "lenet5(prune=0.8): 59.0 kB in a file, 52.3 kB in a message of weights" in shown


def test_its_page_says_so_too(finished) -> None:
    folder, summary = finished
    page = run_page.finished_run(folder).html()
    assert "parameters kept" in page
    assert all(f"{network['kept']:,} of 61,706" in page for network in summary.networks)


def test_initial_weights_may_come_from_the_server() -> None:
    grid = FaultyGrid(make_client_app(pruned_node), NODES, {})
    model = pruned_node(context_of()).model
    with torch.no_grad():
        model.weight_orig.mul_(3)
    initial = ArrayRecord(pruning.packed(model.state_dict()))
    seen = []
    grid.interfere = lambda vertex, reply: (
        (ARRAYS in reply.content and seen.append(reply.content[ARRAYS]["weight"].numpy())) or reply
    )
    DSGD(nx.complete_graph(NODES), local_steps=1).start(grid, initial, num_rounds=1)
    assert len(seen) == NODES
    kept = initial["weight"].numpy()
    assert all(np.abs(weights - kept).max() < np.abs(kept).max() / 2 for weights in seen)
    grid.interfere = None
    dense = ArrayRecord(pruned_node(context_of()).model.state_dict())
    with pytest.raises(InputError, match="weights of another model"):
        DSGD(nx.complete_graph(NODES), local_steps=1).start(grid, dense, num_rounds=3)


def test_loaded_and_exported_models_are_pruned(finished) -> None:
    folder, summary = finished
    for node in (0, 1):
        for best in (False, True):
            model = flower_kd.load_model(folder, node=node, best=best)
            assert pruning.num_pruned(model) == 61_706 - summary.networks[node]["kept"]
        card = flower_kd.load_card(folder, node=node)
        images = torch.rand(3, *card.shape)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (card.mean, card.std))
        content = export(model, card, "torchscript")
        exported = torch.jit.load(io.BytesIO(content))
        torch.testing.assert_close(exported(images), model((images - mean) / std), rtol=1e-4, atol=1e-4)
        zeros = sum(int((value == 0).sum()) for name, value in exported.state_dict().items() if name.endswith("weight"))
        assert zeros == pruning.num_pruned(model)
        assert not any("mask" in name for name in exported.state_dict())


def test_a_resumed_run_has_the_figures_of_one_that_was_not_interrupted(tmp_path: Path, monkeypatch) -> None:
    from flower_kd.strategies import resumable

    config = {**SHORT, "strategy": "d-sgd", "model": "mlp(prune=0.6)", "compression": "uint8"}
    expected = sim.run(config, num_nodes=2, output_dir=tmp_path / "whole")

    class Killed(BaseException):
        pass

    finish_round = resumable.Resumable._finish_round

    def killed(self, server_round: int) -> None:
        finish_round(self, server_round)
        if server_round == 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(resumable.Resumable, "_finish_round", killed)
        with pytest.raises(Killed):
            sim.run(config, num_nodes=2, output_dir=tmp_path / "resumed")
    resumed = sim.run({**config, "resume": True}, num_nodes=2, output_dir=tmp_path / "resumed")
    assert resumed.accuracy == expected.accuracy
    first, second = (flower_kd.load_model(tmp_path / name, node=1) for name in ("whole", "resumed"))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert pruning.num_pruned(first) == round(0.6 * 64 * 64) + round(0.6 * 640)
    assert models.num_parameters(first) == 64 * 64 + 64 + 640 + 10
