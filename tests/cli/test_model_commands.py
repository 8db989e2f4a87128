"""`flower-kd predict` and `flower-kd export`."""

import json
from pathlib import Path

import PIL.Image
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from flower_kd import load_card, load_model, sim
from flower_kd.cli.commands import app
from flower_kd.deploy import prediction
from flower_kd.deploy.export import FORMATS


def flower_kd(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_labels_and_probabilities(trained, pictures: Path) -> None:
    folder, image = trained[0], pictures / "test" / "cat" / "0.png"
    as_json = flower_kd("predict", folder, "--node", 1, "--json", "--top", 2, image, pictures / "test" / "dog")
    assert as_json.exit_code == 0, as_json.output
    found = json.loads(as_json.stdout)
    assert [Path(entry["image"]).parent.name for entry in found] == ["cat"] + ["dog"] * 8
    model, card = load_model(folder, 1), load_card(folder, 1)
    expected = prediction.predict(model, card, [image])[0]
    assert [pair["label"] for pair in found[0]["labels"]] == [card.labels[k] for k in expected.topk(2).indices]
    shares = [pair["probability"] for pair in found[0]["labels"]]
    assert shares == pytest.approx(expected.topk(2).values.tolist())
    table = flower_kd("predict", folder, image, "--node", 1, "--top", 9).stdout
    assert f"{found[0]['labels'][0]['label']}  {shares[0]:.1%}" in table
    assert all(label in table for label in card.labels)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--node", "9"], "has no model of node 9 (allowed: 0 to 3)"),
        (["--node", "0", "nowhere.png"], "image 'nowhere.png' does not exist"),
        ([], "Missing option '--node'"),
        (["--node", "0", "--top", "0"], "0 is not in the range x>=1"),
    ],
)
def test_mistakes_are_one_sentence(trained, pictures: Path, words: list[str], sentence: str) -> None:
    result = flower_kd("predict", trained[0], pictures / "test" / "cat" / "0.png", *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("flower-kd: ")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_model_is_exported_to_a_file(trained, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = flower_kd("export", trained[0], "--node", 0, "--format", "torchscript")
    assert result.exit_code == 0, result.output
    assert f"exported: {tmp_path / 'node-0.pt'}" in result.stdout
    assert 'labels: ["blue fish", "cat", "dog"]' in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["node-0.pt"]
    card, images = load_card(trained[0], 0), torch.rand(3, 3, 8, 8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (card.mean, card.std))
    exported = FORMATS["torchscript"].read((tmp_path / "node-0.pt").read_bytes())
    torch.testing.assert_close(exported(images), load_model(trained[0], 0)((images - mean) / std), rtol=1e-4, atol=1e-4)


def test_an_existing_file_is_replaced_only_if_asked(trained, tmp_path: Path) -> None:
    kept = tmp_path / "kept.pt2"
    kept.write_text("mine")
    command = ("export", trained[0], "--node", 0, "--format", "pt2", "--output")
    refused = flower_kd(*command, kept)
    assert refused.exit_code == 2
    assert "already exists: choose another file, or replace it with --overwrite" in refused.stderr
    assert kept.read_text() == "mine"
    assert flower_kd(*command, kept, "--overwrite").exit_code == 0
    assert kept.stat().st_size > 1000
    assert "is a directory, but must be a file" in flower_kd(*command, tmp_path).stderr
    assert "is not a folder" in flower_kd(*command, kept / "below.pt2").stderr


def test_an_unknown_format_is_refused_before_anything_is_loaded() -> None:
    result = flower_kd("export", "nowhere", "--node", 0, "--format", "onxx")
    assert result.exit_code == 2
    assert "unknown format 'onxx', did you mean 'onnx'? (allowed: onnx, pt2, torchscript)" in result.stderr


def test_the_best_model_is_used_if_asked(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = {
        "strategy": "silo", "num-server-rounds": 3, "local-steps": 4, "samples-per-node": 20, "reference-size": 40,
        "momentum": 0.9, "learning-rate": 0.6, "validation-share": 0.2,
    }  # fmt: skip
    sim.run(config, 2, tmp_path / "run")
    PIL.Image.linear_gradient("L").save("image.png")
    image, card = tmp_path / "image.png", load_card("run", 1)
    final, best = (prediction.predict(load_model("run", 1, best=best), card, [image])[0] for best in (False, True))
    assert not torch.allclose(final, best, atol=1e-3)
    command = ("predict", "run", "--node", 1, "--json", "--top", 1, image)
    for options, expected in (((), final), (("--best",), best)):
        found = json.loads(flower_kd(*command, *options).stdout)
        assert found[0]["labels"][0]["probability"] == pytest.approx(expected.max().item())
    result = flower_kd("export", "run", "--node", 1, "--format", "torchscript", "--best")
    assert f"exported: {tmp_path / 'node-1-best.pt'}" in result.stdout
    images = torch.rand(3, *card.shape)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (card.mean, card.std))
    exported = FORMATS["torchscript"].read((tmp_path / "node-1-best.pt").read_bytes())
    expected = load_model("run", 1, best=True)((images - mean) / std)
    torch.testing.assert_close(exported(images), expected, rtol=1e-4, atol=1e-4)


def test_a_run_without_best_models_is_one_sentence(trained, pictures: Path, tmp_path: Path) -> None:
    image, exported = pictures / "test" / "cat" / "0.png", tmp_path / "x.pt"
    for command in (
        ("predict", trained[0], image, "--node", 0, "--best"),
        ("export", trained[0], "--node", 0, "--best", "--format", "torchscript", "--output", exported),
    ):
        result = flower_kd(*command)
        assert result.exit_code == 2
        assert "has no best model of node 0: nodes keep one if validation-share is above 0\n" in result.stderr
    assert not exported.exists()
