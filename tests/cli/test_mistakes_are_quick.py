"""A mistake on the command line is reported before anything slow is imported."""

import json
import subprocess
import sys
from pathlib import Path

SLOW = {"torch", "datasets", "flwr_datasets", "pandas", "scipy", "networkx", "matplotlib", "sklearn", "ray"}
COMMANDS = [
    (["--help"], ""),
    (["run", "--nope"], "No such option '--nope'"),
    (["run", "-c", "gama=3.0", "--workers", "2"], "unknown key 'gama', did you mean 'gamma'?"),
    (["run", "-c", "preset:d-dist", "-c", "rho=-1.0"], "rho = -1.0"),
    (["run", "-c", "nowhere.toml"], "'nowhere.toml' cannot be read"),
    (["run", "-c", "preset:nope"], "unknown preset 'nope'"),
    (["compare", "-c", "gama=3.0", "--jobs", "2"], "unknown key 'gama'"),
    (["compare", "nowhere.toml"], "'nowhere.toml' cannot be read"),
    (["compare", "preset:digits", "--only", "nope"], "unknown run 'nope'"),
    (["sweep", "--grid", "gama=1,2"], "unknown key 'gama'"),
    (["sweep", "--grid", "gamma=1,2", "-c", "alpha='much'"], "alpha = 'much'"),
    (["topology", "ring", "-c", "gama=3.0"], "unknown key 'gama'"),
    (["settings", "gama"], "unknown key 'gama', did you mean 'gamma'?"),
    (["report", "nowhere"], "'nowhere' is not a folder"),
    (["node", "--superlink", "kd", "--name", "a"], "--superlink 'kd' must be HOST:PORT"),
    (["node", "--superlink", "kd:1", "--name", "a"], "--root-certificates FILE is missing"),
    (["keys", "keys", "--nodes", "0"], "Invalid value for '--nodes'"),
    (["federation", "nope"], "No such command 'nope'"),
]
SCRIPT = """
import contextlib, io, json, sys
from flower_kd.cli.commands import app
for command in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            app(command)
        except SystemExit as end:
            status = end.code
    slow = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    print(json.dumps([status, said.getvalue(), slow]))
"""


def test_mistakes_are_reported_before_slow_imports(tmp_path: Path) -> None:
    commands = [words for words, _ in COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands), json.dumps(sorted(SLOW))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(answers) == len(COMMANDS)
    for (words, sentence), (status, said, slow) in zip(COMMANDS, answers, strict=True):
        assert status == (2 if sentence else 0), words
        assert sentence in said
        assert said.count("\n") == (1 if sentence else 0)
        assert slow == [], f"{' '.join(words)} imports {', '.join(slow)}"
