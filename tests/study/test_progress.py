import io

import pytest
from rich.console import Console

from flower_kd.config import RunConfig
from flower_kd.study import progress
from flower_kd.study.progress import Bars, Lines, ProgressEvent, RoundCounter


def test_rounds_of_the_nodes_alone_count_too() -> None:
    events: list[ProgressEvent] = []
    counter = RoundCounter(RunConfig(strategy="d-dist", num_server_rounds=2), events.append)
    for stage in ("alone", "d-dist"):
        counter.on_stage(stage)
        for server_round in (1, 2):
            counter.on_exchange(server_round, "train", {0: {"train-loss": 1.0}})
            counter.on_exchange(server_round, "evaluate", {0: {"accuracy": 0.25}, 1: {"accuracy": 0.75}})
    assert [event.done for event in events] == [0, 1, 1, 2, 2, 3, 3, 4]
    assert {event.rounds for event in events} == {4}
    assert [event.accuracy for event in events] == [None, 0.5, 0.5, 0.5, None, 0.5, 0.5, 0.5]
    assert events[-1].fraction == 1.0


def test_without_a_terminal_there_are_occasional_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    text = io.StringIO()
    with progress.display(console=Console(file=text)) as shown:
        assert isinstance(shown, Lines)
        shown.begin("run")
        for done in range(1, 1001):
            clock[0] += 1.0
            shown.update("run", ProgressEvent(done, 1000, 0.5))
        shown.warn("run", "node 3 is gone")
        shown.end("run")
    lines = text.getvalue().splitlines()
    assert lines[-1] == "run: node 3 is gone"
    assert 10 <= len(lines) <= 11  # shares are floats
    assert lines[0] == "run: round 100 of 1000, accuracy 0.500, 0:15:00 left"


def test_lines_of_many_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    text = io.StringIO()
    with progress.display(4, 2, Console(file=text)) as shown:
        shown.begin("a")
        clock[0] = 60.0
        shown.update("a", ProgressEvent(1, 2))
        shown.end("a")
    assert text.getvalue() == "2 of 4 runs, a: round 1 of 2, 0:03:00 left\n"


def test_a_terminal_shows_bars() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    with progress.display(3, 1, console) as shown:
        assert isinstance(shown, Bars)
        shown.begin("d-dist-seed0")
        shown.update("d-dist-seed0", ProgressEvent(5, 20, 0.912))
        shown.warn("d-dist-seed0", "round 5 continues without node 3")
    output = text.getvalue()
    for words in ("1 of 3 runs", "round 5 of 20", "accuracy 0.912", "d-dist-seed0: round 5 continues without node 3"):
        assert words in output
