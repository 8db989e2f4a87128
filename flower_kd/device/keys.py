"""Certificates for TLS and keys for nodes, made with the cryptography library that Flower uses."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flower_kd import folders
from flower_kd.errors import InputError

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")  # the SuperLink's own processes reach it there
YEARS = 10
EARLIER = timedelta(days=2)  # devices whose clocks are behind accept the certificates, too


@dataclass(frozen=True)
class Keys:
    """The files in a folder of keys.

    Parameters
    ----------
    folder : Path
        Where they are.
    """

    folder: Path

    @property
    def authority(self) -> Path:
        """The certificate by which nodes and `flwr run` know the SuperLink; not a secret."""
        return self.folder / "ca.crt"

    @property
    def certificate(self) -> Path:
        """The SuperLink's certificate; not a secret."""
        return self.folder / "superlink.crt"

    @property
    def key(self) -> Path:
        """The SuperLink's private key, for its machine alone."""
        return self.folder / "superlink.key"

    def of_node(self, vertex: int) -> Path:
        """Return a node's private key, for its device alone."""
        return self.folder / f"node-{vertex}.key"

    def public_of_node(self, vertex: int) -> Path:
        """Return a node's public key, with which it is registered."""
        return self.folder / f"node-{vertex}.pub"


def make(folder: Path, nodes: int, hosts: Sequence[str] = ()) -> Keys:
    """Make what is missing in a folder: certificates for a SuperLink, and a key for each node.

    Files that are there are kept. The key of the authority is not: nobody can make another certificate for it.

    Parameters
    ----------
    folder : Path
        Created for this user alone, if it does not exist.
    nodes : int
        Number of nodes.
    hosts : sequence of str
        Names or IP addresses by which nodes reach the SuperLink, beside those of this machine.

    Raises
    ------
    InputError
        If a host is neither a name nor an address, the certificates are incomplete or for other hosts, or the folder
        cannot be written.
    """
    keys = Keys(folders.expanded(folder).absolute())
    names = [_name(host) for host in dict.fromkeys((*hosts, *THIS_MACHINE))]
    try:
        keys.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        certificates = (keys.authority, keys.certificate, keys.key)
        missing = [path for path in certificates if not path.exists()]
        if len(missing) == len(certificates):
            _make_certificates(keys, names)
        elif missing:
            raise InputError(
                f"{str(missing[0])!r} is missing beside the other certificates: restore it, or remove them"
            )
        else:
            _check_hosts(keys.certificate, names)
        for vertex in range(nodes):
            if not keys.of_node(vertex).exists():
                _make_node_key(keys.of_node(vertex), keys.public_of_node(vertex))
    except OSError as error:
        raise InputError(f"{str(keys.folder)!r} cannot be written: {error.strerror}") from None
    return keys


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not all(part.replace("-", "").isalnum() and part.isascii() for part in host.split(".")):
        raise InputError(f"--host {host!r} is neither a host name nor an IP address")
    return x509.DNSName(host)


def _check_hosts(certificate: Path, names: Sequence[x509.GeneralName]) -> None:
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        known = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        raise InputError(f"{str(certificate)!r} is not a certificate of a SuperLink") from None
    for name in names:
        if name not in known:
            raise InputError(
                f"{str(certificate)!r} is not for the host {str(name.value)!r}: choose another folder, or remove the "
                "certificates, and give all nodes the new ca.crt"
            )


def _make_certificates(keys: Keys, names: Sequence[x509.GeneralName]) -> None:
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "flower-kd federation")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "flower-superlink")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    root = (
        _unsigned(authority, authority, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
    )
    server = (
        _unsigned(subject, authority, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    for builder, path in ((server, keys.certificate), (root, keys.authority)):
        certificate = builder.sign(authority_key, hashes.SHA256())
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_private(keys.key, key, serialization.PrivateFormat.PKCS8)


def _unsigned(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + timedelta(days=365 * YEARS))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _make_node_key(private: Path, public: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    openssh = serialization.PublicFormat.OpenSSH
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.OpenSSH, openssh) + b"\n")
    _write_private(private, key, serialization.PrivateFormat.OpenSSH)


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> None:
    """Write a private key that only this user can read."""
    content = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
