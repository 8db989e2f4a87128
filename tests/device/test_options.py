"""What a user says about a node."""

from pathlib import Path

import pytest
from flwr.common.config import parse_config_args

from flower_kd.device import keys, node, options
from flower_kd.device.options import NodeOptions
from flower_kd.errors import InputError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> keys.Keys:
    return keys.make(tmp_path_factory.mktemp("keys"), 1)


def test_the_command_is_that_of_flowers_supernode(made: keys.Keys, tmp_path: Path) -> None:
    given = NodeOptions(
        "kd.local:9092",
        partition_id=1,
        num_partitions=3,
        name="cam 3",
        data_dir=tmp_path,
        state_dir=tmp_path / "it's \\ here",
        model="tiny:net(kind='b')",
        root_certificates=made.authority,
        private_key=made.of_node(0),
    )
    command = given.supernode_command(4000)
    config = command.pop()
    assert command == [
        "flower-supernode", "--superlink", "kd.local:9092", "--host", "127.0.0.1", "--port", "4000",
        "--root-certificates", str(made.authority), "--auth-supernode-private-key", str(made.of_node(0)),
        "--node-config",
    ]  # fmt: skip
    assert parse_config_args([config]) == {
        "partition-id": 1,
        "num-partitions": 3,
        "name": "cam 3",
        "data-dir": str(tmp_path),
        "state-dir": str(tmp_path / "it's \\ here"),
        "model": "tiny:net(kind='b')",
    }


def test_a_node_without_tls_needs_no_files() -> None:
    given = NodeOptions("[::1]:9092", 0, 2, insecure=True)
    given.check()
    assert "--insecure" in given.supernode_command(4000)
    assert given.supernode_command(4000)[-1] == "partition-id=0 num-partitions=2"
    NodeOptions("localhost:1", name='the "front" door', insecure=True).check()


@pytest.mark.parametrize(
    "address", ["", "host", "host:", "host:0", "host:65536", "http://host:80", "a b:80", ":80", "::1:80", "h:8o", "h:²"]
)
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(InputError, match="must be HOST:PORT"):
        NodeOptions(address, 0, 2, insecure=True).check()


def test_mistakes_are_one_sentence(made: keys.Keys, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no key")
    secure = {"root_certificates": made.authority}
    mistakes: list[tuple[dict[str, object], str]] = [
        ({}, "--root-certificates FILE is missing"),
        ({"root_certificates": tmp_path / "nope"}, "--root-certificates '.*nope' does not exist"),
        ({"root_certificates": tmp_path}, "cannot be read: Is a directory"),
        ({"root_certificates": tmp_path / "file"}, "is not a certificate in PEM"),
        ({"insecure": True, **secure}, "--insecure and --root-certificates cannot be used together"),
        ({"insecure": True, "private_key": made.of_node(0)}, "needs TLS"),
        ({"private_key": tmp_path / "nope", **secure}, "--auth-supernode-private-key '.*nope' does not exist"),
        ({"private_key": tmp_path / "file", **secure}, "is not an elliptic-curve private key"),
        ({"private_key": made.public_of_node(0), **secure}, "is not an elliptic-curve private key"),
        ({"num_partitions": None, **secure}, "must be given together"),
        ({"num_partitions": None, "partition_id": None, **secure}, "or --name"),
        ({"num_partitions": 0, **secure}, "--num-partitions 0 must be at least 1"),
        ({"partition_id": 2, **secure}, "--partition-id 2 must be from 0 to 1"),
        ({"data_dir": tmp_path / "nope", **secure}, "--data-dir '.*nope' is not a folder"),
        ({"state_dir": tmp_path / "file" / "state", **secure}, "--state-dir '.*state' is not a folder: make it"),
        ({"name": "both \" and '", **secure}, "has both kinds of quotes"),
        ({"name": "two\nlines", **secure}, "cannot be printed"),
    ]
    for given, sentence in mistakes:
        with pytest.raises(InputError, match=sentence):
            NodeOptions(**{"superlink": "host:1", "partition_id": 0, "num_partitions": 2, **given}).check()  # type: ignore[arg-type]


def test_an_unknown_model_is_named() -> None:  # a process that imports torch: seconds
    with pytest.raises(InputError, match=r"--model: unknown model 'resnet9', did you mean 'resnet8'\?"):
        NodeOptions("host:1", 0, 2, insecure=True, model="resnet9").check()


def test_a_node_says_if_flower_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.loopback, "commands_first", lambda env: {"PATH": "/nowhere"})
    with pytest.raises(InputError, match="not in PATH"):
        node.run(NodeOptions("host:1", 0, 2, insecure=True))


@pytest.mark.parametrize("address", ["192.168.1.10:8000", "[fe80::1%eth0]:8000", "pi-3.local:1", "h:65535"])
def test_addresses(address: str) -> None:
    options.check_address(address)
