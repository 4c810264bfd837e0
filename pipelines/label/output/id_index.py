"""Sets of example ids at 16 bytes per id: sorted arrays of 128-bit hashes.

Two of 10^9 ids share a hash with probability 10^-21.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

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


def key_set(parts: Iterator[Keys], total: int) -> Keys:
    """Sorted union of arrays that hold at most `total` keys. Sorts in place, so nothing is in memory twice."""
    keys = np.empty(total, dtype=f"S{KEY_BYTES}")
    filled = 0
    for part in parts:
        keys[filled : filled + len(part)] = part
        filled += len(part)
    keys = keys[:filled]
    keys.sort()
    return keys


def contains(index: Keys, keys: Keys) -> npt.NDArray[np.bool_]:
    """(len(keys),) True if the sorted index has the key."""
    if not len(index):
        return np.zeros(len(keys), dtype=bool)
    places = np.minimum(np.searchsorted(index, keys), len(index) - 1)
    found: npt.NDArray[np.bool_] = index[places] == keys
    return found
