"""Which ids were seen before: a hash table of 126-bit hashes in files that the kernel may drop from memory.

A table is cut into 64 parts by the first bits of the hash. Each part is an open-addressing table of 16-byte entries in a file without a
name, which doubles when it is 60% full. A process that is killed leaves no file. 10^8 ids take 1.9 to 3.7 GB on disk; the memory of the
process that does not belong to the page cache stays small.
"""

from __future__ import annotations

import tempfile

import numpy as np
import numpy.typing as npt

from pipelines.label.output.id_index import KEY_BYTES, Keys

Codes = npt.NDArray[np.uint8]
"""(n,) of FIRST, FINISHED and REPEATED."""
FIRST = 0
"""No earlier row has this id."""
FINISHED = 1
"""No earlier row of this run has this id, and an earlier run has labelled it."""
REPEATED = 2

_PARTS = 64
_PART_BITS = 6
_FIRST_CAPACITY = 1 << 10
_MAX_LOAD = 0.6
_WAITS = np.uint64(1)
"""Bit of an entry that was added by `finish`, and that no row has used yet."""
_USED = np.uint64(2)
"""Bit of every entry. An empty slot is 0."""
_Entries = npt.NDArray[np.uint64]
"""(n, 2)."""


class IdTable:
    """The ids of one data split."""

    def __init__(self) -> None:
        self._parts = [_Part() for _ in range(_PARTS)]

    def finish(self, keys: Keys) -> None:
        """Add ids that earlier runs have labelled. Call it before the first `take`."""
        entries = _entries(keys)
        entries[:, 1] |= _WAITS
        for part, rows in self._by_part(entries):
            part.add(entries[rows])

    def take(self, keys: Keys) -> Codes:
        """(len(keys),) what is known of these ids, which are in corpus order. From now on they are seen."""
        entries = _entries(keys)
        codes = np.empty(len(keys), dtype=np.uint8)
        for part, rows in self._by_part(entries):
            codes[rows] = part.take(entries[rows])
        return codes

    def _by_part(self, entries: _Entries) -> list[tuple[_Part, npt.NDArray[np.intp]]]:
        numbers = (entries[:, 0] >> np.uint64(64 - _PART_BITS)).astype(np.intp)
        order = np.argsort(numbers, kind="stable")
        ends = np.searchsorted(numbers[order], np.arange(_PARTS + 1))
        return [(self._parts[i], order[ends[i] : ends[i + 1]]) for i in range(_PARTS) if ends[i] < ends[i + 1]]


class _Part:
    """Open addressing with linear probing, many keys at a time."""

    def __init__(self) -> None:
        self.used = 0
        self._slots = _new_slots(_FIRST_CAPACITY)

    def add(self, entries: _Entries) -> None:
        """Add entries. One that is there already stays."""
        distinct, _ = _distinct(entries)
        self._make_room(len(distinct))
        self._place(distinct)

    def take(self, entries: _Entries) -> Codes:
        """Codes of entries without _WAITS, in their order. Adds them."""
        distinct, first = _distinct(entries)
        self._make_room(len(distinct))
        slots, found = self._place(distinct)
        there = self._slots[slots, 1]
        waited = (there & _WAITS) != 0
        self._slots[slots, 1] = there & ~_WAITS
        codes = np.full(len(entries), REPEATED, dtype=np.uint8)
        codes[first] = np.where(waited, FINISHED, np.where(found, REPEATED, FIRST))
        return codes

    def _place(self, entries: _Entries) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """The slots of distinct entries, and which of them were there. Adds the others."""
        mask = len(self._slots) - 1
        slots = (entries[:, 0] & np.uint64(mask)).astype(np.intp)
        found = np.zeros(len(entries), dtype=bool)
        left = np.arange(len(entries))
        while len(left):
            there = self._slots[slots[left]]
            same = _same(there, entries[left])
            found[left[same]] = True
            free = np.flatnonzero(there[:, 1] == 0)
            wanting = left[free]
            # Several entries may want one empty slot: the last write wins, and the others try the next slot.
            self._slots[slots[wanting]] = entries[wanting]
            won = free[_same(self._slots[slots[wanting]], entries[wanting])]
            self.used += len(won)
            settled = same
            settled[won] = True
            left = left[~settled]
            slots[left] = (slots[left] + 1) & mask
        return slots, found

    def _make_room(self, more: int) -> None:
        capacity = len(self._slots)
        while self.used + more > _MAX_LOAD * capacity:
            capacity *= 2
        if capacity > len(self._slots):
            old, self._slots, self.used = self._slots, _new_slots(capacity), 0
            self._place(np.array(old[old[:, 1] != 0]))


def _new_slots(capacity: int) -> _Entries:
    with tempfile.TemporaryFile(prefix="raystill-ids-") as file:
        file.truncate(16 * capacity)
        return np.memmap(file, dtype=np.uint64, mode="r+", shape=(capacity, 2))


def _entries(keys: Keys) -> _Entries:
    entries = np.frombuffer(keys.tobytes(), dtype=np.uint64).reshape(-1, 2).copy()
    entries[:, 1] = (entries[:, 1] & ~_WAITS) | _USED
    return entries


def _same(one: _Entries, other: _Entries) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (one[:, 0] == other[:, 0]) & ((one[:, 1] | _WAITS) == (other[:, 1] | _WAITS))
    return found


def _distinct(entries: _Entries) -> tuple[_Entries, npt.NDArray[np.intp]]:
    """Each entry once, and the index of its first occurrence."""
    _, first = np.unique(entries.view(f"S{KEY_BYTES}").reshape(-1), return_index=True)
    return entries[first], first
