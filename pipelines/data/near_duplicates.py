"""Near duplicates among the inputs, found by MinHash (Broder 1997) and locality-sensitive hashing (Leskovec et al., Mining of Massive
Datasets, section 3.4). In: inputs in corpus order. Out: for each, the earlier input that it nearly repeats, if there is one.

Two texts are as similar as the share of their word 3-grams that both have (Jaccard). Case and punctuation do not count, numbers are
words like any other: of two texts of w words that differ in one word in the middle, (w - 5) / (w + 1) of the 3-grams are shared. So
`Anne has 4 apples ...` and `Anne has 9 apples ...`, different problems in arithmetic, are 0.81 alike when they have 30 words and 0.67
when they have 17. Who wants to keep problems that differ in their numbers takes a threshold of 0.9 or more; a lower one is for corpora
in which a problem with other numbers is nothing new. (SVAMP's train split at 0.6: 25 of 800 go, of which 22 have another answer than
the one they repeat; at 0.8 none go.)

`signature` is called wherever a row is read, in any process: it depends on the text alone. `NearDuplicates` is one object in the
driver, asked in corpus order. `Neighbours` answers another question: which of some texts another text nearly repeats. Signatures are
datasketch's; its MinHashLSH is not used, since its tables hold a Python set for every band of every row: 6.4 KB and 60 us a row at
threshold 0.8 where these tables take 2.4 KB and 10 us (100,000 rows, one core).
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
"""The estimate of a similarity s has the standard deviation sqrt(s (1 - s) / 128): 0.035 at 0.8."""
SIGNATURE_BYTES = 4 * PERMUTATIONS
MIN_RECALL = 0.95
"""Of the pairs that are exactly as similar as the threshold at least so many are looked at; of more similar ones, more."""
MAX_BUCKET = 100
"""So many rows with the same band are remembered, which bounds the cost of a corpus where all rows are half alike."""

_SHINGLE_WORDS = 3
# Scripts without spaces: each character is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def signature(text: str) -> bytes:
    """The MinHash of a text: 128 little-endian uint32, 512 bytes. The same text has the same signature in every process.

    54 us each on one core, measured on 18,014 word problems and questions of 34 words on average: 18,000 rows/s.
    """
    sketch = _empty_sketch().copy()
    sketch.update_batch(sorted(shingles(text)))
    return bytes(np.asarray(sketch.hashvalues, dtype="<u4").tobytes())


def shingles(text: str) -> set[bytes]:
    """The word 3-grams of a text, UTF-8; of a text of fewer words the words, of a text without words the text itself."""
    folded = text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    words = _WORD.findall(folded)
    if len(words) < _SHINGLE_WORDS:
        return {word.encode() for word in words} or {text.encode()}
    return {" ".join(words[i : i + _SHINGLE_WORDS]).encode() for i in range(len(words) - _SHINGLE_WORDS + 1)}


def similarity(one: bytes, other: bytes) -> float:
    """The estimated Jaccard similarity of the texts of two signatures."""
    return float((np.frombuffer(one, dtype="<u4") == np.frombuffer(other, dtype="<u4")).mean())


@functools.cache
def bands(threshold: float) -> tuple[int, int]:
    """(bands, values in each): the longest bands with which a pair at the threshold shares one with probability MIN_RECALL."""
    for size in range(PERMUTATIONS // 2, 1, -1):
        count = PERMUTATIONS // size
        if 1 - (1 - threshold**size) ** count >= MIN_RECALL:
            return count, size
    return PERMUTATIONS, 1


class NearDuplicates:
    """The inputs that were kept so far.

    Measured with 50,000 rows on one core: at threshold 0.8 2.4 KB for each row kept, signature included, and 10 us (100,000 rows/s);
    at 0.9 1.6 KB and 6 us, at 0.5 4.6 KB and 26 us.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        count, size = bands(threshold)
        self._spans = [slice(4 * size * i, 4 * size * (i + 1)) for i in range(count)]
        # band -> the row that has it, or the rows. Python's own hash of bytes differs from process to process, but only decides
        # which pairs are compared: two different bands with one hash cost a comparison.
        self._tables: list[dict[int, int | tuple[int, ...]]] = [{} for _ in range(count)]
        self._kept: dict[int, bytes] = {}

    def earlier(self, position: int, signature: bytes) -> int | None:
        """The first kept row that this one nearly repeats; None where there is none: then this one is kept, and later ones meet it.

        A row that repeats only a row which was not kept itself is kept, so that every reject has its like among the kept.

        Args:
            position: of the row in the corpus. Rows come in corpus order: rising positions.
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
    """A fixed set of texts, asked which of them another text nearly repeats.

    All that share a band are compared, however many: for some thousand texts, past which any number of others is streamed.
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
        """The positions of the texts that are at least as similar as the threshold, rising."""
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
