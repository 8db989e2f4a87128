"""Certificates and keys."""

import ipaddress
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from cryptography.x509 import DNSName, IPAddress, SubjectAlternativeName, load_pem_x509_certificate
from flwr.supercore.primitives.asymmetric import uses_nist_ec_curve

from flower_kd.device import keys
from flower_kd.errors import InputError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> keys.Keys:
    return keys.make(tmp_path_factory.mktemp("keys") / "new", 2, ["kd.local", "192.168.1.10"])


def test_the_superlink_is_known_by_its_hosts_and_no_others(made: keys.Keys) -> None:
    for host, trusted, works in (
        ("kd.local", made.authority, True),
        ("192.168.1.10", made.authority, True),
        ("localhost", made.authority, True),
        ("elsewhere.local", made.authority, False),
        ("kd.local", keys.make(made.folder / "others", 0).authority, False),
    ):
        assert handshake(made, host, trusted) is works, host


def handshake(made: keys.Keys, host: str, trusted: Path) -> bool:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(made.certificate, made.key)
    client = ssl.create_default_context(cafile=str(trusted))
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does
    here, there = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(there, server_side=True).close()
        except OSError:
            there.close()

    with here:
        serving = threading.Thread(target=serve)
        serving.start()
        try:
            client.wrap_socket(here, server_hostname=host).close()
            return True
        except ssl.SSLCertVerificationError:
            return False
        finally:
            here.close()
            serving.join()


def test_hosts_are_names_and_addresses(made: keys.Keys) -> None:
    certificate = load_pem_x509_certificate(made.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    assert names.get_values_for_type(DNSName) == ["kd.local", "localhost"]
    assert ipaddress.ip_address("192.168.1.10") in names.get_values_for_type(IPAddress)


def test_each_node_has_a_key_that_flower_takes(made: keys.Keys) -> None:
    public = [load_ssh_public_key(made.public_of_node(vertex).read_bytes()) for vertex in range(2)]
    private = [load_ssh_private_key(made.of_node(vertex).read_bytes(), None) for vertex in range(2)]
    assert [key.public_key().public_numbers() for key in private] == [key.public_numbers() for key in public]
    assert public[0].public_numbers() != public[1].public_numbers()
    assert all(uses_nist_ec_curve(key) for key in public)


def test_private_keys_are_for_this_user_alone(made: keys.Keys) -> None:
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (made.key, made.of_node(0), made.of_node(1)))


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    first = keys.make(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    keys.make(tmp_path, 2)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"node-1.key", "node-1.pub"}
    with pytest.raises(InputError, match=r"superlink.crt' is not for the host 'kd.local'"):
        keys.make(tmp_path, 2, ["kd.local"])
    first.key.unlink()
    with pytest.raises(InputError, match=r"superlink.key' is missing beside the other certificates"):
        keys.make(tmp_path, 2)
    assert not first.key.exists()


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--host 'http://x' is neither a host name nor an IP address"):
        keys.make(tmp_path / "keys", 1, ["http://x"])
    assert not (tmp_path / "keys").exists()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        keys.make(tmp_path / "file" / "keys", 1)
