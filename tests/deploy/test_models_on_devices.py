"""A device's model after the run, in its own folder: the commands work there."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import Result
from flwr.app import Message
from typer.testing import CliRunner

from flower_kd import data, load_card, load_model, sim
from flower_kd.cli.commands import app
from flower_kd.clients.training import evaluate
from flower_kd.runs import results
from flower_kd.sim import InProcessGrid, engine


def flower_kd(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def devices(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a finished run of three devices, the second with images and a model of its own."""
    for name in ("cat", "dog"):
        shutil.copytree(pictures / "train" / name, tmp_path / "photos" / name)
    own = {1: {"data-dir": str(tmp_path / "photos"), "model": "lenet5", "name": "cam-1"}}

    class Devices(InProcessGrid):
        def _call(self, message: Message) -> Message:
            config = self.contexts[message.metadata.dst_node_id].node_config
            folder = tmp_path / f"device-{config['partition-id']}"
            folder.mkdir(exist_ok=True)
            config |= {"state-dir": str(folder)} | own.get(config["partition-id"], {})
            return super()._call(message)

    monkeypatch.setattr(engine, "InProcessGrid", Devices)
    config = {
        "dataset": str(pictures), "image-size": 28, "strategy": "neighbor-kd", "model": "mlp", "learning-rate": 0.05,
        "num-server-rounds": 4, "local-steps": 5, "samples-per-node": 20, "reference-size": 20, "validation-share": 0.2,
        "baseline": "silo",
    }  # fmt: skip
    sim.run(config, 3, tmp_path / "run")
    return tmp_path


def test_each_device_has_the_model_that_the_run_evaluated(devices: Path) -> None:
    run = results.read(devices / "run")
    assert run.summary.models == ["mlp", "lenet5", "mlp"]
    assert not (devices / "run" / "models").exists()
    corpus = data.load(run.config.data_spec(3))
    for vertex in range(3):
        rows = run.history[run.history["vertex"] == vertex].set_index("round")
        kept = [load_model(devices / f"device-{vertex}", vertex, best=best) for best in (False, True)]
        found = [evaluate(model, [corpus.test]) for model in kept]
        assert found[0]["accuracy"] == pytest.approx(rows.loc[4, "test-accuracy"], abs=1e-6)
        best = rows.loc[rows["validation-loss"].idxmin()]
        assert found[1]["accuracy"] == pytest.approx(best["test-accuracy"], abs=1e-6)


def test_predict_and_export_on_a_device(devices: Path, pictures: Path) -> None:
    folder, image = devices / "device-1", pictures / "test" / "cat" / "0.png"
    for node in ("cam-1", "1"):
        predicted = flower_kd("predict", folder, "--node", node, "--best", "--json", "--top", 1, image)
        assert predicted.exit_code == 0, predicted.output
    card = load_card(folder, "cam-1")
    assert card.factory == "lenet5"
    [entry] = json.loads(predicted.stdout)
    assert entry["labels"][0]["label"] in card.labels
    target = devices / "cam-1.pt"
    exported = flower_kd("export", folder, "--node", "cam-1", "--format", "torchscript", "--output", target)
    assert exported.exit_code == 0, exported.output
    images = torch.rand(2, 3, 28, 28)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (card.mean, card.std))
    expected = load_model(folder, 1)((images - mean) / std)
    torch.testing.assert_close(torch.jit.load(target)(images), expected, rtol=1e-4, atol=1e-4)
