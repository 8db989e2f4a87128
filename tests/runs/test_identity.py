from pathlib import Path

import pytest
from outside_parts import TEXTS, installed, module

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
    assert identity(RunConfig(validation_share=0.1), 4) != plain


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


@pytest.mark.parametrize("kind", TEXTS)
def test_the_module_of_a_part_of_any_kind_counts(kind: str, tmp_path: Path) -> None:
    with module(tmp_path, "parts_of_identity") as name:
        config, plain = RunConfig(**{kind: f"{name}:{TEXTS[kind][0]}"}), identity(RunConfig(), 4)
        before = identity(config, 4)
        assert identity(config, 4) == before
        assert identity(RunConfig(**{kind: f"{name}:{TEXTS[kind][0].split('(')[0]}"}), 4) != before
        (tmp_path / "parts_of_identity.py").write_text("# shorter")
        assert identity(config, 4) != before
        assert identity(RunConfig(), 4) == plain


def test_the_module_of_the_graph_that_varies_counts(tmp_path: Path) -> None:
    with module(tmp_path, "parts_of_identity") as name:
        config = RunConfig(topology=f"varying(graph='{name}:{TEXTS['topology'][0]}')")
        before = identity(config, 4)
        (tmp_path / "parts_of_identity.py").write_text("# shorter")
        assert identity(config, 4) != before


def test_spaces_and_quotes_in_the_text_of_a_part_do_not_count(tmp_path: Path) -> None:
    texts = {
        "topology": ("regular(degree=4)", " regular( degree = 4, )"),
        "model": ("resnet14*2,mlp*2", "resnet14() * 2, mlp*2"),
        "wire": ("uint8", "uint8()"),
    }
    for kind, (one, other) in texts.items():
        assert identity(RunConfig(**{kind: one}), 4) == identity(RunConfig(**{kind: other}), 4)
    for name in ("a b.csv", "a  b.csv"):
        (tmp_path / name).write_text("0 1")
    assert len({identity(RunConfig(topology=str(path)), 2) for path in tmp_path.iterdir()}) == 2


def test_all_modules_of_a_package_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "package_of_identity").mkdir()
    (tmp_path / "package_of_identity" / "__init__.py").write_text("from package_of_identity.networks import net")
    (tmp_path / "package_of_identity" / "networks.py").write_text("def net(**shape): ...")
    config = RunConfig(model="package_of_identity:net")
    before = identity(config, 4)
    (tmp_path / "package_of_identity" / "networks.py").write_text("def net(**shapes): ...")
    assert identity(config, 4) != before


def test_the_version_of_a_part_counts_whose_name_has_another_kind_too(tmp_path: Path) -> None:
    points = "[flower_kd.dissimilarities]\nmean = mine:mean\n"  # flower-kd's own pooling has this name
    found = set()
    for version in ("1.2", "1.3"):
        with installed(tmp_path / version, "means-of-mine", points, version):
            found.add(identity(RunConfig(dissimilarity="mean", pooling="mean"), 4))
    assert len(found) == 2


def test_the_version_of_an_installed_part_counts(tmp_path: Path) -> None:
    points = "[flower_kd.poolings]\nfirst = mine:first\n"
    found = set()
    for version in ("1.2", "1.3"):
        with installed(tmp_path / version, "poolings-of-mine", points, version):
            found.add(identity(RunConfig(pooling="first"), 4))
    assert len(found) == 2
