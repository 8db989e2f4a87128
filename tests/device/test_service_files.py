"""The systemd unit and the container files, as far as they can be checked without either: what they copy and call."""

import re
import shlex
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flower_kd.cli.commands import app
from flower_kd.device import node
from flower_kd.device.options import NodeOptions

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "clients"
SERVICES = yaml.safe_load((CLIENTS / "compose.yaml").read_text())["services"]
UNIT = re.sub(r"\\\n\s*", "", (CLIENTS / "flower-kd-node.service").read_text())
(STARTED,) = (line.partition("=")[2] for line in UNIT.splitlines() if line.startswith("ExecStart="))
NODES = [
    *(shlex.split(service["command"]) for name, service in SERVICES.items() if name.startswith("node-")),
    shlex.split(STARTED)[1:],
]


@pytest.mark.parametrize("words", NODES, ids=["compose-0", "compose-1", "unit"])
def test_nodes_are_started_with_options_that_exist(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[NodeOptions] = []

    def run(options: NodeOptions, *, warm_start: bool) -> int:
        assert warm_start
        given.append(options)
        return 0

    monkeypatch.setattr(node, "run", run)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    (options,) = given
    options._check_vertex()
    assert options.num_partitions == 2
    assert options.state_dir is not None
    assert options.root_certificates is not None
    assert options.private_key is not None
    assert options.private_key.name == f"node-{options.partition_id}.key"


def test_what_nodes_of_the_compose_file_read_is_mounted() -> None:
    for name, service in SERVICES.items():
        mounted = {volume.split(":")[1] for volume in service["volumes"]}
        for word in shlex.split(service["command"]):
            if word.startswith("/"):
                assert {word, *map(str, Path(word).parents)} & mounted, f"{name}: {word}"


def test_the_superlink_is_started_with_options_that_exist() -> None:
    flower_superlink = import_module("flwr.superlink.cli.flower_superlink")  # the package has a function of that name
    words = shlex.split(SERVICES["superlink"]["command"])
    parsed = flower_superlink._parse_args_run_superlink().parse_args(words)
    assert SERVICES["superlink"]["entrypoint"] == ["flower-superlink"]
    assert (parsed.enable_supernode_auth, parsed.ssl_certfile) == (True, "/keys/superlink.crt")


def test_the_image_has_all_that_the_package_is_made_of() -> None:
    lines = (CLIENTS / "Containerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    files = [*wheel["packages"], *wheel["force-include"], project["project"]["readme"], "LICENSE", "pyproject.toml"]
    assert {Path(file).parts[0] for file in files} <= copied
    assert 'ENTRYPOINT ["flower-kd"]' in lines
