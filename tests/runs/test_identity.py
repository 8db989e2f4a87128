from pathlib import Path

import pytest

from flower_kd.config import RunConfig
from flower_kd.runs.identity import identity


def test_what_changes_no_figure_changes_no_identity() -> None:
    plain = identity(RunConfig(), 4)
    assert identity(RunConfig(output_dir="x", overwrite=True), 4) == plain
    assert identity(RunConfig(resume=True), 4) == plain
    assert identity(RunConfig(num_nodes=4), 4) == plain  # whether given or counted
    assert (
        len({plain, identity(RunConfig(), 5), identity(RunConfig(seed=1), 4), identity(RunConfig(gamma=1.0), 4)}) == 4
    )


@pytest.mark.parametrize("change", ["content", "name", "another file"])
def test_the_content_of_files_counts(change: str, tmp_path: Path) -> None:
    graph, weights, data = tmp_path / "graph.txt", tmp_path / "weights.safetensors", tmp_path / "data"
    (data / "train").mkdir(parents=True)
    for path in (graph, weights, data / "train" / "0.png"):
        path.write_text("0 1")
    configs = {
        graph: RunConfig(topology=str(graph)),
        weights: RunConfig(weights_file=str(weights)),
        data / "train" / "0.png": RunConfig(dataset=str(data)),
    }
    for path, config in configs.items():
        before = identity(config, 2)
        assert identity(config, 2) == before
        if change == "content":
            path.write_text("1 0")  # of the same size
        elif data in path.parents:
            (path.rename if change == "name" else lambda other: other.write_text("0 1"))(path.with_name("1.png"))
        else:
            continue
        assert identity(config, 2) != before, path


def test_the_module_of_a_users_model_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "models_of_identity.py").write_text("def net(**shape): ...")
    config = RunConfig(model="models_of_identity:net*2,mlp*2")
    before = identity(config, 4)
    (tmp_path / "models_of_identity.py").write_text("def net(**shapes): ...")
    assert identity(config, 4) != before
    identity(RunConfig(model="no_such_module.at_all:net"), 4)  # building the model reports what is wrong
