"""Why a SuperLink does not take a node in, where Flower's SuperNode ends without saying so.

A node asks in another process, `python -m flower_kd.device.refusals`: what that imports would stay in its memory.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from flower_kd import folders
from flower_kd.device.options import NodeOptions

ANSWER_SECONDS = 10.0
# Flower's TIMESTAMP_TOLERANCE and SYSTEM_TIME_TOLERANCE; less a second, as clocks are compared in whole ones.
MOST_AHEAD, MOST_BEHIND = 5, 305
_NOT_YET_VALID, _EXPIRED = 9, 10  # OpenSSL's numbers
_SET = "set its clock (`timedatectl set-ntp true`), then start the node again"


@dataclass(frozen=True)
class Refusal:
    """Why a node was not taken in.

    Parameters
    ----------
    why : str
        In words, for the user.
    seconds : float, optional
        When it may try again; None if somebody has to do something first.
    """

    why: str
    seconds: float | None = None


def ask(options: NodeOptions) -> Refusal | None:
    """Return why the SuperLink does not take a node in, in a process of its own; None if that is not known."""
    files = (options.root_certificates, options.private_key)
    paths = ["" if file is None else str(folders.expanded(file).absolute()) for file in files]
    command = [sys.executable, "-m", __name__, options.superlink, *paths]
    done = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    found = json.loads(done.stdout) if done.returncode == 0 else None
    return None if found is None else Refusal(**found)


def refusal(address: str, certificate: Path | None, key: Path | None) -> Refusal | None:
    """Return why a SuperLink does not take a node in; None if that is not known.

    Parameters
    ----------
    address : str
        HOST:PORT.
    certificate : Path, optional
        That of the authority that signed the SuperLink's; None without TLS.
    key : Path, optional
        The node's private key.
    """
    return of_clock(address, certificate) or (None if key is None else of_key(address, certificate, key))


def of_clock(address: str, certificate: Path | None) -> Refusal | None:
    """Return the refusal of a node whose clock differs too much from the SuperLink's; None if it does not."""
    trusted = None if certificate is None else ssl.create_default_context(cafile=str(certificate))
    url = f"{'http' if trusted is None else 'https'}://{address}/health"
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS, context=trusted) as answer:
            there = parsedate_to_datetime(answer.headers["Date"]).timestamp() + 0.5
    except URLError as error:
        wrong = getattr(error.reason, "verify_code", 0)
        if wrong in (_NOT_YET_VALID, _EXPIRED):
            now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
            words = "not valid yet" if wrong == _NOT_YET_VALID else "no longer valid"
            return Refusal(
                f"the certificate of the SuperLink at {address} is {words} by the clock of this device ({now} UTC): if "
                f"that is wrong, {_SET}"
            )
        return None
    except (OSError, HTTPException, TypeError, ValueError):
        return None
    ahead = time.time() - there
    if 1 - MOST_BEHIND < ahead < MOST_AHEAD - 1:
        return None
    direction = "ahead of" if ahead > 0 else "behind"
    return Refusal(
        f"the clock of this device is {_duration(abs(ahead))} {direction} that of the SuperLink at {address}, and "
        f"Flower refuses nodes that are more than {MOST_AHEAD} s ahead or {MOST_BEHIND} s behind: {_SET}"
    )


def of_key(address: str, certificate: Path | None, key: Path) -> Refusal | None:
    """Return the refusal of a node whose key is unknown, or that counts as connected; None if neither is so."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    from flower_kd.device.superlink import connected
    from flower_kd.errors import InputError

    private = load_ssh_private_key(key.read_bytes(), None)
    assert isinstance(private, EllipticCurvePrivateKey)
    own = public_key_to_bytes(private.public_key())
    try:
        with connected(address, certificate) as superlink:
            known = [node for node in superlink.nodes() if node.public_key == own]
    except InputError:  # it does not tell everybody which nodes it knows
        return None
    if not known:
        return Refusal(
            f"the SuperLink at {address} does not know this node's key: register the public one there with "
            "`flwr supernode register`"
        )
    if known[0].status != "online":
        return None
    left = max(known[0].online_until - time.time(), 0.0) + 1.0
    return Refusal(
        "the SuperLink still counts this node as connected, as it does for up to 60 s after one was switched off", left
    )


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"about {seconds / length:.0f} {unit}"
    return f"about {seconds:.0f} s"


def main(address: str, certificate: str, key: str) -> None:
    """Print the refusal as JSON."""
    found = refusal(address, Path(certificate) if certificate else None, Path(key) if key else None)
    print(json.dumps(None if found is None else asdict(found)))


if __name__ == "__main__":
    main(*sys.argv[1:])
