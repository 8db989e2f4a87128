"""The fingerprint of a reference set."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def fingerprint(reference: Tensor) -> str:
    """Return the SHA-256 of a reference set [rows, ...], in hexadecimal: including shape and dtype."""
    digest = hashlib.sha256(f"{tuple(reference.shape)} {reference.dtype}".encode())
    digest.update(reference.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
