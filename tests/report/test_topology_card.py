from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flower_kd import sim
from flower_kd.cli.commands import app
from flower_kd.config import RunConfig
from flower_kd.report.topology_card import card, picture, shown_name, table

SHORT = {"num-server-rounds": 2, "local-steps": 4, "samples-per-node": 20, "reference-size": 40, "baseline": "none"}


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({"strategy": "neighbor-kd"}, "logits_bytes"),
        ({"strategy": "neighbor-kd", "wire": "uint8", "exchange-rows": 10}, "logits_bytes"),
        ({"strategy": "d-dist", "exchange-every": 2, "exchange-rows": 10, "model": "mlp,lenet5"}, "logits_bytes"),
        ({"strategy": "d-sgd", "exchange-every": 1}, "weights_bytes"),
    ],
)
def test_the_bytes_of_the_card_are_those_of_a_run(keys: dict, kind: str, tmp_path: Path) -> None:
    config = SHORT | keys
    found = card(RunConfig.parse(config), 3)
    sent = sim.run(config, 3, tmp_path / "run").bytes["per_edge"]
    exchanges = config["num-server-rounds"] * found.exchanges - (kind == "logits_bytes")  # the last has none
    assert sent / exchanges == pytest.approx(getattr(found, kind), abs=4)


def test_mixed_networks_have_the_mean_of_their_weights() -> None:
    both, mlp, lenet5 = (card(RunConfig.parse({"model": m}), 4).weights_bytes for m in ("mlp,lenet5", "mlp", "lenet5"))
    assert both == pytest.approx((mlp + lenet5) / 2)
    assert lenet5 > mlp


def test_the_table_tells_degree_diameter_and_gap() -> None:
    console = Console(record=True, width=120)
    console.print(table(card(RunConfig.parse({"topology": "torus"}), 16), "torus"))
    words = console.export_text()
    for row in ("torus of 16 nodes", "edges", "32", "diameter", "spectral gap", "0.4", "400 rows of 10 classes"):
        assert row in words
    console.print(table(card(RunConfig.parse({"topology": "random-directed", "exchange-every": 5}), 12), "directed"))
    assert "(directed)" in (words := console.export_text())
    assert "per round of 5 exchanges" in words


def test_the_command_draws_the_graph(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "torus.png"
    result = CliRunner().invoke(app, ["topology", "torus", "--num-nodes", "9", "--picture", str(path)])
    assert result.exit_code == 0, result.output
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == ["torus.png"]
    assert str(path) in result.output


@pytest.mark.parametrize("words", [[], ["--picture", "results/topology/ring-4"]])
def test_without_an_ending_it_is_drawn_in_every_format(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["topology", "ring", "--num-nodes", "4", *words])
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "results" / "topology").iterdir()}
    assert names == {"ring-4.png", "ring-4.pdf", "ring-4.svg"}
    assert all(name in result.output for name in names)


@pytest.mark.parametrize(("strategy", "centers"), [("fedavg", 1), ("d-dist", 0), ("silo", 0)])
def test_a_strategy_with_a_server_is_drawn_as_a_star_around_it(strategy: str, centers: int) -> None:
    drawn = picture(card(RunConfig.parse({"strategy": strategy}), 5), "ring").axes[0]
    assert [text.get_text() for text in drawn.texts].count("server") == centers
    assert drawn.get_title() == ("fedavg, 5 nodes" if centers else "ring, 5 nodes")


def test_titles_show_a_file_by_its_name_and_other_texts_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "my.house.graphml"
    path.touch()
    assert shown_name(str(path)) == "my.house"
    for text in ("ring", "erdos-renyi(edge_probability=0.3)", "my.parts:Tree(branches=2)"):
        assert shown_name(text) == text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ring", "--picture", "."], "--picture '.' is a directory"),
        (["torus", "--num-nodes", "7"], "torus needs at least 3 rows and 3 columns, and 7 nodes"),
        (["rign"], "unknown topology 'rign', did you mean 'ring'"),
        (["./nowhere.graphml"], "nowhere.graphml"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], sentence: str) -> None:
    result = CliRunner().invoke(app, ["topology", *words])
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
