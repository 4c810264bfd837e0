"""Near duplicates among the inputs. In: inputs in corpus order. Out: for each, the earlier input that it nearly repeats, if any.

Method: MinHash (Broder 1997) and locality-sensitive hashing (Leskovec et al., Mining of Massive Datasets, section 3.4). The similarity
of two texts is the share of their word 3-grams that both have (Jaccard). Case and punctuation are ignored, and a number is a word.

Two texts of w words that differ in one word in the middle share (w - 5) / (w + 1) of their 3-grams. `Anne has 4 apples ...` and
`Anne has 9 apples ...` are different problems in arithmetic. Their similarity is 0.81 at 30 words and 0.67 at 17. A threshold of 0.9 or
more keeps problems that differ in their numbers. On SVAMP's train split 0.6 drops 25 of 800 rows, 22 of them with another answer than
the row that they repeat; 0.8 drops none.

`signature` depends on the text alone and may be computed in any process. `NearDuplicates` is one object, called in corpus order.
`Neighbours` finds all texts of a fixed set that another text nearly repeats. datasketch makes the signatures; its MinHashLSH holds a
Python set per band and row: 6.4 KB and 60 us a row at threshold 0.8, where these tables take 2.4 KB and 10 us (100,000 rows, one core).
"""

from __future__ import annotations

import functools
import re
import unicodedata
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

PERMUTATIONS = 128
"""The estimate of a similarity s has a standard deviation of sqrt(s (1 - s) / 128): 0.035 at 0.8."""
SIGNATURE_BYTES = 4 * PERMUTATIONS
MIN_RECALL = 0.95
"""Share of pairs with exactly the threshold's similarity that are compared, at least. Of more similar pairs it is higher."""
MAX_BUCKET = 100
"""Rows remembered per band, at most. Bounds the cost of a corpus whose rows all share a part."""

_SHINGLE_WORDS = 3
# In scripts without spaces each character is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def signature(text: str) -> bytes:
    """The MinHash of a text: 128 little-endian uint32, 512 bytes. The same in every process.

    Takes 54 us on one core (18,014 texts of 34 words on average).
    """
    sketch = _empty_sketch().copy()
    sketch.update_batch(sorted(shingles(text)))
    return bytes(np.asarray(sketch.hashvalues, dtype="<u4").tobytes())


def shingles(text: str) -> set[bytes]:
    """The word 3-grams of a text in UTF-8. A text of one or two words gives its words, a text without words gives itself."""
    folded = text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    words = _WORD.findall(folded)
    if len(words) < _SHINGLE_WORDS:
        return {word.encode() for word in words} or {text.encode()}
    return {" ".join(words[i : i + _SHINGLE_WORDS]).encode() for i in range(len(words) - _SHINGLE_WORDS + 1)}


def similarity(one: bytes, other: bytes) -> float:
    """Estimated Jaccard similarity of two texts, by their signatures."""
    return float((np.frombuffer(one, dtype="<u4") == np.frombuffer(other, dtype="<u4")).mean())


@functools.cache
def bands(threshold: float) -> tuple[int, int]:
    """(bands, values per band): the longest bands of which a pair at the threshold shares one with probability MIN_RECALL."""
    for size in range(PERMUTATIONS // 2, 1, -1):
        count = PERMUTATIONS // size
        if 1 - (1 - threshold**size) ** count >= MIN_RECALL:
            return count, size
    return PERMUTATIONS, 1


class NearDuplicates:
    """The inputs that are kept so far.

    Costs per kept row, signature included (50,000 rows, one core): 2.4 KB and 10 us at threshold 0.8, 1.6 KB and 6 us at 0.9,
    4.6 KB and 26 us at 0.5.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        count, size = bands(threshold)
        self._spans = [slice(4 * size * i, 4 * size * (i + 1)) for i in range(count)]
        # Band -> the row with this band, or its rows. The key is Python's hash of the band, which differs between processes. It only
        # selects the pairs that are compared: two bands with the same hash cost one comparison.
        self._tables: list[dict[int, int | tuple[int, ...]]] = [{} for _ in range(count)]
        self._kept: dict[int, bytes] = {}

    def earlier(self, position: int, signature: bytes) -> int | None:
        """Position of the first kept row that this row nearly repeats. None: there is none, and this row is kept.

        Only kept rows count, so every dropped row resembles a row that stays.

        Args:
            position: of the row in the corpus, rising from call to call.
            signature: `signature(input)`.
        """
        keys = [hash(signature[span]) for span in self._spans]
        for candidate in sorted(self._candidates(keys)):
            if similarity(self._kept[candidate], signature) >= self._threshold:
                return candidate
        self._kept[position] = signature
        for table, key in zip(self._tables, keys, strict=True):
            rows = table.get(key)
            if rows is None:
                table[key] = position
            elif isinstance(rows, int):
                table[key] = (rows, position)
            elif len(rows) < MAX_BUCKET:
                table[key] = (*rows, position)
        return None

    def _candidates(self, keys: list[int]) -> set[int]:
        found: set[int] = set()
        for table, key in zip(self._tables, keys, strict=True):
            rows = table.get(key)
            if rows is not None:
                found.update((rows,) if isinstance(rows, int) else rows)
        return found


class Neighbours:
    """A fixed set of some thousand texts, in which near duplicates of any number of other texts are found.

    Unlike NearDuplicates it compares all texts that share a band, however many.
    """

    def __init__(self, signatures: Sequence[bytes], threshold: float) -> None:
        self._threshold = threshold
        count, size = bands(threshold)
        self._spans = [slice(4 * size * i, 4 * size * (i + 1)) for i in range(count)]
        self._values = np.frombuffer(b"".join(signatures), dtype="<u4").reshape(len(signatures), PERMUTATIONS)
        self._tables: list[dict[bytes, list[int]]] = [{} for _ in range(count)]
        for position, one in enumerate(signatures):
            for table, span in zip(self._tables, self._spans, strict=True):
                table.setdefault(one[span], []).append(position)

    def of(self, signature: bytes) -> list[int]:
        """Positions of the texts with at least the threshold's similarity, rising."""
        found: set[int] = set()
        for table, span in zip(self._tables, self._spans, strict=True):
            found.update(table.get(signature[span], ()))
        if not found:
            return []
        candidates = np.array(sorted(found))
        alike = (self._values[candidates] == np.frombuffer(signature, dtype="<u4")).mean(axis=1) >= self._threshold
        return [int(position) for position in candidates[alike]]


@functools.cache
def _empty_sketch() -> Any:
    from datasketch import MinHash

    return MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=zlib.crc32, scheme="affine32")
