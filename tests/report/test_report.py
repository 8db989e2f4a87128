"""The page of a report, parsed as a browser would."""

import base64
import errno
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from typer.testing import CliRunner

from flower_kd.cli.commands import app
from flower_kd.errors import InputError
from flower_kd.report import report
from flower_kd.report.pages.page import Page as ReportPage
from flower_kd.runs import results

SHORT = "num-server-rounds=2 local-steps=2 samples-per-node=20 reference-size=40"
VOID = {"meta", "img", "br", "link"}
NASTY = "<script>alert('x')</script>&"


class Page(HTMLParser):
    """Parser of a page: its texts, tables and external resources; raises if a tag is not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.html = path.read_text("utf-8")
        self.feed(self.html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def flower_kd(*words: str | Path) -> None:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code in (0, 1), done.output


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("report")
    flower_kd("run", "-c", f"{SHORT} strategy='neighbor-kd'", "--num-nodes", 3, "--output-dir", root / "run")
    compare = ["compare", "--strategies", "silo,d-sgd,neighbor-kd", "--seeds", 2, "--num-nodes", 3]
    flower_kd(*compare, "-c", f"{SHORT} model='mlp,lenet5'", "--output-dir", root / "compare")  # in which d-sgd fails
    sweep = ["sweep", "--grid", "alpha=0.2,0.8", "--grid", "dissimilarity=kl,js", "--num-nodes", 2]
    flower_kd(*sweep, "-c", f"{SHORT} strategy='neighbor-kd'", "--output-dir", root / "sweep")
    for name in ("run", "compare", "sweep"):
        report.write(root / name)
    return {name: root / name for name in ("run", "compare", "sweep")}


@pytest.mark.parametrize("kind", ["run", "compare", "sweep"])
def test_a_page_needs_nothing_but_itself(folders: dict[str, Path], kind: str) -> None:
    page = Page(folders[kind] / "report.html")
    assert page.html.startswith("<!DOCTYPE html>")
    assert page.of("html")[0]["lang"] == "en"
    assert "http" not in re.sub(r"http-equiv", "", page.html)
    for attributes in (attributes for _, attributes in page.tags):
        assert "href" not in attributes
        assert str(attributes.get("src", "data:")).startswith("data:image/png;base64,") or "src" not in attributes
    [picture] = page.of("img")
    assert picture["alt"]
    png = base64.b64decode(str(picture["src"]).split(",")[1])
    name = {"run": "accuracy", "compare": "comparison", "sweep": "sweep"}[kind]
    assert png == (folders[kind] / f"{name}.png").read_bytes()
    assert "prefers-color-scheme: dark" in page.html
    assert "addEventListener" in page.html
    assert all("aria-sort" in header for header in page.of("th") if header.get("scope") == "col")


def test_the_page_of_a_run_has_its_figures(folders: dict[str, Path]) -> None:
    summary = results.read(folders["run"]).summary
    text = Page(folders["run"] / "report.html").text
    for accuracy in (*summary.accuracy["per_node"], summary.accuracy["mean"], summary.baseline["mean"]):
        assert f"{100 * accuracy:.1f}" in text
    assert "neighbor-kd on digits, ring of 3 nodes" in text
    assert "samples-per-node" in text
    assert 'topology = "ring"' in text


def test_the_page_of_a_run_separates_payload_and_frequency_and_lists_missed_exchanges(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    text = Page(folders["run"] / "report.html").text
    assert re.search(r"bytes per edge [\d.]+ [kM]B 1 message of [\d.]+ kB", text)
    assert re.search(
        r"D-SGD sends per edge [\d.]+ times as much at the same frequency; [\d.]+ times when sent in every step", text
    )
    assert "Note:" not in text
    folder = shutil.copytree(folders["run"], tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    summary["participation"][1] = {"due": 2, "taken": 1, "reasons": {NASTY: 1}}
    (folder / "summary.json").write_text(json.dumps(summary))
    text = Page(report.write(folder)).text
    assert f"Note: node 1 missed 1 of 2 exchanges: {NASTY} (1 time)" in text
    assert "1 of 2" in text


def test_the_page_of_a_comparison_says_what_nodes_send_and_what_is_missing(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    text = Page(folders["compare"] / "report.html").text
    for title in ("kB per message", "messages per edge", "MB per edge", "MB per node", "D-SGD same frequency, times"):
        assert title in text
    assert "exchanges missed" not in text
    folder = shutil.copytree(folders["compare"], tmp_path / "compare")
    runs = json.loads((folder / "comparison.json").read_text())
    runs[-1]["participation"][0] = {"due": 2, "taken": 0, "reasons": {"late": 2}}
    runs[-1]["diverged"] = [2]
    (folder / "comparison.json").write_text(json.dumps(runs))
    text = Page(report.write(folder)).text
    assert text.count("exchanges missed") == text.count("nodes diverged") == 2  # in the results and in the runs


def test_the_pages_have_the_number_of_nodes(folders: dict[str, Path]) -> None:
    for kind, nodes in (("run", 3), ("compare", 3), ("sweep", 2)):
        text = Page(folders[kind] / "report.html").text
        assert f"num-nodes {nodes} 0" in text  # changed from its default, 0
        assert "num-nodes = 0" not in text


def test_the_page_of_a_comparison_says_how_runs_differ(tmp_path: Path) -> None:
    runs = {
        "silo": "strategy = 'silo'\nrho = 9.0",
        "d-sgd": "strategy = 'd-sgd'\nalpha = 0.9",
        "kd": "strategy = 'neighbor-kd'\nrho = 2.0",
        "sharp": "strategy = 'neighbor-kd'\nrho = 2.0\nalpha = 0.7\nlearning-rate = 0.2",
    }
    (tmp_path / "e.toml").write_text("\n".join(f"[runs.{name}]\n{text}" for name, text in runs.items()))
    flower_kd("compare", tmp_path / "e.toml", "-c", SHORT, "--num-nodes", 2, "--output-dir", tmp_path / "compare")
    text = Page(report.write(tmp_path / "compare")).text
    assert "Runs have common initial weights: d-sgd; separate initial weights: silo, kd, sharp." in text
    differences = text.split("Where the runs differ")[1].split("Config: common")[0]
    assert re.findall(r"label|strategy|alpha|rho|learning-rate|temperature", differences.split(" silo ")[0]) == [
        "label", "strategy", "learning-rate", "alpha",
    ]  # fmt: skip
    assert 'd-sgd "d-sgd" 0.1 -' in differences
    assert 'sharp "neighbor-kd" 0.2 0.7' in differences
    assert "rho 2.0 4.0" in text.split("Config: common")[1]


def test_the_page_of_a_comparison_says_what_failed(folders: dict[str, Path]) -> None:
    text = Page(folders["compare"] / "report.html").text
    assert "Failed runs" in text
    assert "averages weights, so all nodes need one model" in text
    for run in json.loads((folders["compare"] / "comparison.json").read_text()):
        assert f"{100 * run['accuracy']['mean']:.1f}" in text
        assert run["folder"] in text


def test_the_page_of_a_sweep_has_its_best_setting(folders: dict[str, Path]) -> None:
    text = Page(folders["sweep"] / "report.html").text
    assert "Sweep of alpha, dissimilarity" in text
    assert re.search(r"highest accuracy [\d.]+ % alpha = 0\.[28], dissimilarity = (kl|js)", text)
    assert "4 0 failed" in text


def test_user_text_is_escaped(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["compare"], tmp_path / "compare")
    runs = json.loads((folder / "comparison.json").read_text())
    runs[0]["run"] = NASTY
    (folder / "comparison.json").write_text(json.dumps(runs))
    page = Page(report.write(folder))
    assert NASTY in page.text
    assert len(page.of("script")) == 1


def test_no_table_has_more_columns_than_a_page_is_wide(folders: dict[str, Path], tmp_path: Path) -> None:
    """At 1100 pixels: a column of numbers takes at least 75, one of texts 105 (its longest words wrap)."""
    folder = shutil.copytree(folders["compare"], tmp_path / "compare")
    runs = json.loads((folder / "comparison.json").read_text())
    runs[0]["participation"][0] = {"due": 2, "taken": 0, "reasons": {"late": 2}}
    runs[0]["diverged"] = [2]
    (folder / "comparison.json").write_text(json.dumps(runs))
    for path in (*(folders[kind] / "report.html" for kind in folders), report.write(folder)):
        tables = path.read_text("utf-8").split("<table>")[1:]
        assert len(tables) >= 3
        for table in tables:
            headers = re.findall(r'<th scope="col" class="(\w*)"', table.split("</thead>")[0])
            assert headers
            assert sum(75 if header == "number" else 105 for header in headers) < 1040


def test_the_page_of_a_run_that_did_not_finish_shows_its_rounds(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["run"], tmp_path / "run")
    (folder / "summary.json").unlink()
    history = (folder / "history.csv").read_text()
    whole = history.splitlines()[: 1 + 3]
    (folder / "history.csv").write_text("\n".join([*whole, "2,0,0.98765"]))  # killed while writing a line
    text = Page(report.write(folder)).text
    assert "neighbor-kd on digits, ring (unfinished)" in text
    assert "1 of 2" in text
    assert "can be continued with --resume" in text
    column = whole[0].split(",").index("test-accuracy")
    accuracies = [float(line.split(",")[column]) for line in whole[1:]]
    for accuracy in (*accuracies, sum(accuracies) / 3):
        assert f"{100 * accuracy:.1f}" in text
    assert "98.8" not in text
    assert "Config" in text


def test_a_run_that_stopped_while_nodes_trained_alone_has_a_page(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["run"], tmp_path / "run")
    (folder / "summary.json").unlink()
    (folder / "history.csv").unlink()
    text = Page(report.write(folder)).text
    assert "0 of 2" in text
    assert "alone, %" in text


def test_a_run_without_a_round_is_one_sentence(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["run"], tmp_path / "run")
    for name in ("summary.json", "history.csv", "history-silo.csv"):
        (folder / name).unlink()
    with pytest.raises(InputError, match="contains a run of which no round was finished"):
        report.write(folder)


def test_a_template_that_names_something_missing_fails() -> None:
    with pytest.raises(UndefinedError, match="headline"):
        ReportPage("sweep", "title", "lead").html()


def test_damaged_files_are_reported_in_one_sentence(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, content in {"json": "{", "list": "[1]", "keys": '[{"run": "a"}]'}.items():
        folder = shutil.copytree(folders["compare"], tmp_path / name)
        (folder / "comparison.json").write_text(content)
    (shutil.copytree(folders["sweep"], tmp_path / "csv") / "sweep.csv").write_text("a,b\n1,2\n")
    (shutil.copytree(folders["run"], tmp_path / "png") / "accuracy.png").write_text("no picture")
    for name in ("empty", "nowhere", "json", "list", "keys", "csv", "png"):
        with pytest.raises(InputError) as refusal:
            report.write(tmp_path / name)
        assert "\n" not in str(refusal.value)
        assert str(tmp_path / name) in str(refusal.value)


def test_a_full_disk_leaves_the_earlier_page(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(folders["run"], tmp_path / "run")
    before = (folder / "report.html").read_text()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        report.write(folder)
    assert (folder / "report.html").read_text() == before
    assert not list(folder.glob(".*.partial"))
