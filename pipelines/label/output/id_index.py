"""Example ids at 16 bytes per id: arrays of 128-bit hashes.

Two of 10^9 ids share a hash with probability 10^-21.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

KEY_BYTES = 16
Keys = npt.NDArray[np.bytes_]
"""(n,) of dtype S16. All keys have the same length, so numpy compares them in full."""


def id_digest(example_id: str) -> bytes:
    """128-bit hash of an id."""
    return hashlib.blake2b(example_id.encode(), digest_size=KEY_BYTES).digest()


def id_keys(ids: Iterable[str]) -> Keys:
    """(n,) hashes, in the order of the ids."""
    return np.frombuffer(b"".join(map(id_digest, ids)), dtype=f"S{KEY_BYTES}")
