"""Every code block of the README and of the documentation runs as it stands, with one round instead of many."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from code_blocks import blocks
from typer.testing import CliRunner

from flower_kd.cli import commands, run_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Flower's own commands run in tests/engines; the others set up a machine.
ELSEWHERE = ("export", "flwr", "flower-superlink", "flower-supernode", "make", "pip", "ray", "uv")
# Minutes, or data that is not here.
TOO_LONG = (
    "flower-kd bench",
    "flower-kd federation",
    "flower-kd compare preset:mnist",
    "flower-kd compare preset:digits --num-nodes 8 --seeds",
    "flower-kd compare preset:privacy",
    "python sim/liars.py",
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    parse = run_config.parse
    monkeypatch.setattr(run_config, "parse", lambda *texts: parse(*texts) | {"num-server-rounds": 1})
    before, names = set(sys.modules), {"__name__": "__main__"}
    try:
        for block in blocks(page):
            if block.title:
                block.append_to(tmp_path)
            elif block.language == "python":
                exec(compile(block.text, f"{page.name}: python block", "exec"), names)
            elif block.language == "sh":
                for line in block.text.splitlines():
                    run_line(line)
            else:
                pytest.fail(f"{page.name}: a block of {block.language!r} neither runs nor has a title")
    finally:
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
                del sys.modules[name]


def run_line(line: str) -> None:
    words: list[Any] = shlex.split(line, comments=True)
    if not words or words[0] in ELSEWHERE or line.startswith(TOO_LONG):
        return
    assert words[0] == "flower-kd", f"no test runs {line!r}"
    result = CliRunner().invoke(commands.app, words[1:])
    assert result.exit_code == 0, f"{line}\n{result.output}"


def test_blocks_have_a_language() -> None:
    for page in PAGES:
        fences = re.findall(r"^ *```(.*)$", page.read_text(), re.M)
        assert all(opening for opening in fences[::2]), f"{page.name} has a block without a language"
