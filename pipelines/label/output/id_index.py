"""Sets of example ids in 16 bytes each: sorted arrays of 128-bit hashes.

Two of 10^9 ids have the same hash with probability 10^-21.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

KEY_BYTES = 16
Keys = npt.NDArray[np.bytes_]
"""(n,) of S16. Numpy compares them as bytes, whole: all have the same length."""


def id_digest(example_id: str) -> bytes:
    """128 bits of the id's hash."""
    return hashlib.blake2b(example_id.encode(), digest_size=KEY_BYTES).digest()


def id_keys(ids: Iterable[str]) -> Keys:
    """(n,) hashes, in the order of the ids."""
    return np.frombuffer(b"".join(map(id_digest, ids)), dtype=f"S{KEY_BYTES}")


def key_set(parts: Iterator[Keys], total: int) -> Keys:
    """The sorted union of arrays of keys with `total` keys in all; sorted in place, so that nothing is held twice."""
    keys = np.empty(total, dtype=f"S{KEY_BYTES}")
    filled = 0
    for part in parts:
        keys[filled : filled + len(part)] = part
        filled += len(part)
    keys = keys[:filled]
    keys.sort()
    return keys


def contains(index: Keys, keys: Keys) -> npt.NDArray[np.bool_]:
    """(len(keys),) whether each key is in the sorted index."""
    if not len(index):
        return np.zeros(len(keys), dtype=bool)
    places = np.minimum(np.searchsorted(index, keys), len(index) - 1)
    found: npt.NDArray[np.bool_] = index[places] == keys
    return found
