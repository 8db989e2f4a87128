import tomllib
from pathlib import Path

import pytest

from flower_kd.cli import presets, run_config
from flower_kd.errors import InputError


def test_pairs_override_files_and_later_files_earlier_ones(tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text("seed = 1\nrho = 2.0\nalpha = 0.1\n")
    second.write_text("seed = 2\nrho = 3.0\n")
    parsed = run_config.parse(["seed=5 wire='uint8'", str(first), str(second)])
    assert parsed == {"seed": 5, "rho": 3.0, "alpha": 0.1, "wire": "uint8"}


def test_a_preset_and_pairs(tmp_path: Path) -> None:
    alone = run_config.parse(["preset:d-dist"])
    assert alone == tomllib.loads(presets.get("d-dist").path.read_text())
    assert run_config.parse(["seed=3 preset:d-dist rho=1.0"]) == {**alone, "seed": 3, "rho": 1.0}


def test_values_may_have_spaces_and_parentheses() -> None:
    assert run_config.parse(["topology='regular(degree=4)' output-dir=\"a b\""]) == {
        "topology": "regular(degree=4)",
        "output-dir": "a b",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("preset:d-dst", "unknown preset 'd-dst', did you mean 'd-dist'"),
        ("preset:digits", "'preset:digits' is for another command: flower-kd compare preset:digits"),
        ("seed=1 seed=2", "each key once"),
        ("seed=1 oops", "'oops' is neither key=value nor preset:NAME nor the path of a .toml file"),
    ],
)
def test_mistakes(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        run_config.parse([text])
