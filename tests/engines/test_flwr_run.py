"""The app in Flower's own processes: the simulation engine, and SuperLink with SuperNodes."""

import io
import json
import os
import signal
import subprocess
import threading
import time
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import torch
from code_blocks import blocks
from installing import install
from processes import ROOT, as_run_config

from flower_kd import data, load_model, sim, strategies
from flower_kd.device import federation as federations
from flower_kd.device import loopback
from flower_kd.device.loopback import flwr_run
from flower_kd.parts.registry import forget_installed
from flower_kd.runs import results

SHORT: dict[str, object] = {
    "model": "mlp,lenet5",
    "strategy": "neighbor-kd",
    "baseline": "none",
    "num-server-rounds": 2,
    "local-steps": 4,
    "samples-per-node": 40,
    "reference-size": 60,
    "evaluate-every": 2,
    "momentum": 0.9,
}


PATIENCE = 900.0  # seconds: a start takes 15, and ten times as many on a busy machine
# Parts of an installed package, tests/plugins: one of each kind in some run here; two of them in
# every_strategy, consensus and compression.
PLUGGED: dict[str, object] = {
    "dissimilarity": "renyi(order=0.7)",
    "topology": "chords(step=2)",
    "pooling": "sharpened(power=1.5)",
    "wire": "top-classes(keep=3)",
    "partition": "size-skew(growth=1.1)",
    "model": "tiny(width=12),lenet5",
    "schedule": "triangle(start=0.4)",
    "augment": "patches(size=2)",
    "reference-augment": "shift(pixels=1)",
}


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory):
    """Install the package of plugins, for this process and all that it starts."""
    folder = str(install(ROOT / "tests" / "plugins", tmp_path_factory.mktemp("plugins")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", folder, prepend=os.pathsep)
        patch.syspath_prepend(folder)
        forget_installed()
        yield
    forget_installed()


@pytest.fixture(scope="module")
def simulation(plugins, tmp_path_factory: pytest.TempPathFactory):
    """Return what runs the app in Flower's simulation engine."""
    with loopback.simulation(tmp_path_factory.mktemp("simulation")) as env:

        def run(app: Path, *options: str) -> str:
            return flwr_run(app, env, *options, timeout=PATIENCE)

        run.port = env["FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"]  # type: ignore[attr-defined]
        yield run


@pytest.fixture
def own_project(tmp_path: Path) -> Path:
    """Return the documentation's project: flower-kd's apps with a module of one's own, and a few keys."""
    project = tmp_path / "project"
    for block in blocks(ROOT / "docs" / "extending.md"):
        if block.title in ("pyproject.toml", "my_runs/pieces.py"):
            block.append_to(project)
    (project / "my_runs" / "__init__.py").touch()
    (project / "LICENSE").write_text("Apache-2.0")
    return project


def test_flowers_simulation_engine_gives_the_figures_of_the_process(
    simulation, own_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = simulation(own_project, "--run-config", "rho=2.0")
    assert "[code: 15] Invalid run configuration." in output  # it is not in [tool.flwr.app.config]
    dissimilarity = "my_runs.pieces:chebyshev(power=2)"
    config = SHORT | PLUGGED | {"dissimilarity": dissimilarity, "validation-share": 0.2, "evaluate-every": 1}
    config |= {"learning-rate": 0.6}
    with (own_project / "pyproject.toml").open("a") as project:
        listed = tomllib.loads((own_project / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
        project.writelines(f"{as_run_config({key: config[key]})}\n" for key in config if key not in listed)
    given = {key: value for key, value in config.items() if key in listed} | {"output-dir": str(tmp_path / "flower")}
    options = ("--federation-config", "num-supernodes=4", "--run-config", as_run_config(given))
    output = simulation(own_project, *options)
    assert (tmp_path / "flower" / "summary.json").exists(), output
    assert results.read(tmp_path / "flower").config.dissimilarity == dissimilarity
    flower = json.loads((tmp_path / "flower" / "summary.json").read_text())
    monkeypatch.syspath_prepend(own_project)
    here = sim.run(config, 4, tmp_path / "here")
    assert flower["accuracy"]["per_node"] == pytest.approx(here.accuracy["per_node"], abs=1e-6)
    assert flower["bytes"] == here.bytes
    inputs, labels = data.load(results.read(tmp_path / "flower").config.data_spec(4)).test
    for vertex, accuracy in enumerate(flower["accuracy"]["per_node"]):
        model = load_model(tmp_path / "flower", node=vertex)
        assert (model(inputs).argmax(-1) == labels).double().mean().item() == pytest.approx(accuracy, abs=1e-6)
        weights = load_model(tmp_path / "here", node=vertex).state_dict()
        torch.testing.assert_close(model.state_dict(), weights, rtol=1e-4, atol=1e-5)
        best, expected = (load_model(tmp_path / run, vertex, best=True).state_dict() for run in ("flower", "here"))
        torch.testing.assert_close(best, expected, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "flower" / "accuracy.png").stat().st_size > 1000
    assert "mean" in output  # the table
    assert "Traceback" not in output


def test_every_strategy_has_the_same_figures_in_flower_and_in_process(simulation, tmp_path: Path, monkeypatch) -> None:
    app = Path(__file__).parent / "every_strategy"
    monkeypatch.syspath_prepend(app)
    from every_strategy.server import RUNS
    from every_strategy.server import app as server_app

    output = simulation(
        app,
        "--federation-config",
        "num-supernodes=4",
        "--run-config",
        as_run_config({"output-dir": str(tmp_path / "flower")}),
    )
    assert (tmp_path / "flower" / "figures.json").exists(), output
    flower = json.loads((tmp_path / "flower" / "figures.json").read_text())
    config = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    sim.run_apps(server_app, "flower_kd.client_app:app", 4, config | {"output-dir": str(tmp_path / "here")})
    here = json.loads((tmp_path / "here" / "figures.json").read_text())
    assert set(here) == set(flower) == set(RUNS)
    assert {keys["strategy"].split("(")[0] for keys in RUNS.values()} == set(strategies.STRATEGIES.own_names())
    for name in RUNS:
        assert flower[name]["accuracy"] == pytest.approx(here[name]["accuracy"], abs=1e-6), name
        assert flower[name]["bytes"] == here[name]["bytes"], name
    assert len({str(figures["accuracy"]) for figures in here.values()}) == len(RUNS)


@pytest.mark.slow  # two more starts of Flower's engine: a minute or two
def test_a_run_killed_in_flower_can_be_resumed_in_flower(simulation, tmp_path: Path) -> None:
    config = SHORT | {"num-server-rounds": 16, "evaluate-every": 8}
    options = as_run_config(config | {"output-dir": str(tmp_path / "flower"), "resume": True})
    command = ("--federation-config", "num-supernodes=4", "--run-config", options)
    killed: list[str] = []

    def kill_in_the_middle() -> None:
        history = tmp_path / "flower" / "history.csv"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and (not history.exists() or history.read_text().count("\n") < 13):
            time.sleep(0.02)
        processes = subprocess.run(
            ["ps", "-eww", "-o", "pid=,args="], capture_output=True, text=True, check=True
        ).stdout
        for line in processes.splitlines():
            if "flwr-simulation" in line and f"127.0.0.1:{simulation.port}" in line:
                os.kill(int(line.split()[0]), signal.SIGKILL)
                killed.append(history.read_text())

    killer = threading.Thread(target=kill_in_the_middle)
    killer.start()
    first = simulation(ROOT, *command)
    killer.join()
    assert killed, first
    assert not (tmp_path / "flower" / "summary.json").exists(), first
    again = simulation(ROOT, *command)
    assert "resuming after round" in again
    flower = json.loads((tmp_path / "flower" / "summary.json").read_text())
    here = sim.run(config, 4, tmp_path / "here")
    assert flower["accuracy"]["per_node"] == pytest.approx(here.accuracy["per_node"], abs=1e-6)
    assert flower["bytes"] == here.bytes
    history = pd.read_csv(tmp_path / "flower" / "history.csv")
    assert len(history) == 16 * 4
    # Rounds of the first process are there as it left them, with the seconds that they took.
    kept = pd.read_csv(io.StringIO(killed[0])).merge(history, on=["round", "vertex", "seconds"])
    assert len(kept) >= 8


def test_the_documentations_own_app(simulation, tmp_path: Path) -> None:
    for block in blocks(ROOT / "docs" / "your-app.md"):
        if block.title:
            block.append_to(tmp_path)
    (tmp_path / "LICENSE").write_text("Apache-2.0")
    options = as_run_config({"models": str(tmp_path / "models")})
    output = simulation(tmp_path, "--federation-config", "num-supernodes=4", "--run-config", options)
    assert "Traceback" not in output
    assert "final accuracy" in output
    final, first = (float(output.split(f"{word} accuracy ")[1].split()[0]) for word in ("final", "first"))
    assert final > first + 0.05
    states = sorted(path.name for path in tmp_path.glob("models/*/node-3/*"))
    assert states == [f"round-{number}.safetensors" for number in (6, 7, 8)]


@pytest.fixture(scope="module")
def devices(plugins, tmp_path_factory: pytest.TempPathFactory):
    """Return what runs this repository's app on a SuperLink and two nodes, processes as on devices."""
    with federations.temporary(tmp_path_factory.mktemp("devices") / "federation", 2, tls=False) as federation:

        def run(config: dict[str, object]) -> str:
            env = federation.environment()
            output = flwr_run(ROOT, env, "--run-config", as_run_config(config), timeout=PATIENCE)
            return output + "".join(path.read_text(errors="replace") for path in federation.folder.glob("*/*.log"))

        yield run


def test_superlink_and_supernodes_on_loopback(devices, tmp_path: Path) -> None:
    """The logits of two nodes with different networks meet in the SuperLink."""
    config = SHORT | PLUGGED | {"strategy": "confident(sharpness=2.0)", "topology": "ring", "pooling": "mean"}
    output = devices(config | {"output-dir": str(tmp_path / "flower"), "num-nodes": 2})
    assert (tmp_path / "flower" / "summary.json").exists(), output
    flower = json.loads((tmp_path / "flower" / "summary.json").read_text())
    here = sim.run(config, 2, tmp_path / "here")
    assert flower["models"] == ["tiny(width=12)", "lenet5"]
    assert "flower-kd: " not in output  # each message had a warm start, with the modules imported before
    assert flower["accuracy"]["per_node"] == pytest.approx(here.accuracy["per_node"], abs=1e-6)
    assert flower["bytes"] == here.bytes


def test_a_users_mistake_is_one_sentence_in_flower_too(devices, tmp_path: Path) -> None:
    output = devices({"topology": "torus", "temperature": -1.0, "output-dir": str(tmp_path / "none")})
    assert "flower-kd: temperature = -1.0 must be above 0" in output
    assert "Traceback" not in output
    assert not (tmp_path / "none").exists()
