"""Text of users and nodes is shown verbatim in tables: rich would parse [/b] as markup."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console, RenderableType

from flower_kd.config import RunConfig
from flower_kd.report import run_table, topology_card
from flower_kd.runs.results import Summary
from flower_kd.study import compare, sweep
from flower_kd.study.job import Job, Outcome

ODD = r"a[/b] [red]c\[d] :smile: $x_$"
SUMMARY = Summary(
    strategy="silo",
    num_nodes=2,
    rounds=1,
    seed=0,
    accuracy={"mean": 0.5, "std": 0.0, "per_node": [0.5, 0.5]},
    bytes={
        "total": 1,
        "per_edge": 0.0,
        "uplink_per_node": 1.0,
        "messages_per_edge": 0.0,
        "per_message": 0.0,
        "per_node": 0.0,
        "d_sgd_per_message": 1.0,
        "d_sgd_same_frequency_per_edge": 0.0,
        "d_sgd_per_edge": 1.0,
    },
    seconds={"total": 1.0, "per_round": 1.0},
    models=[ODD, "mlp"],
    topology="[/t]",
    dataset="[/d]",
)


def shown(table: RenderableType) -> str:
    console = Console(width=300, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_the_table_of_a_run() -> None:
    text = shown(run_table.table(SUMMARY))
    assert "silo on [/d], [/t] of 2 nodes" in text
    assert ODD in text


def test_the_table_of_a_comparison() -> None:
    jobs = [Job(label, {"seed": 0}, 2, Path("x")) for label in (ODD, f"failed {ODD}")]
    outcomes = [Outcome(jobs[0], SUMMARY), Outcome(jobs[1], None, "it failed")]
    text = shown(compare.screen(SimpleNamespace(outcomes=outcomes)))  # type: ignore[arg-type]
    assert f" {ODD} " in text
    assert f" failed {ODD} " in text


def test_the_table_of_a_sweep(tmp_path: Path) -> None:
    swept = sweep.Sweep({}, {"weights-file": [ODD]}, "1", 4, tmp_path)
    swept._record(Outcome(swept.jobs[0], SUMMARY))
    assert ODD in shown(swept.best())


def test_the_table_of_a_graph() -> None:
    card = replace(topology_card.card(RunConfig(), 4), model=ODD)
    text = shown(topology_card.table(card, ODD))
    assert f"{ODD} of 4 nodes" in text
    assert f": {ODD} " in text
