"""How sure a student is of the label that it wrote, among the labels that there are.

In: a closed label set as token sequences, what was written, and scores of the tokens at which the labels part. Out: the probability of the
written label, renormalised token by token over the tokens with which some label of the set goes on:

    labels    `a b </s>`, `a c </s>`, `d </s>`
    written   `a c </s>`
    1st token P(a) / (P(a) + P(d))    2nd token P(c) / (P(b) + P(c))    3rd token 1, nothing else is left

Over the set these sum to 1. No label is written or scored for it that the student did not write.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

from pipelines.methods import Part
from pipelines.students.decoding.tokens import encode_targets, tokens_within

STATEMENT = "answer is"
"""What a text of rationale and label says before the label."""

Scores = Callable[[int], Sequence[float]]
"""Step -> the log-probabilities of a set's watched tokens at that step, all of them up to the same constant."""
LabelSets = Callable[[Part, tuple[str, ...]], "LabelSet | None"]
_Trie = dict[int, "_Trie"]


@dataclass(frozen=True)
class LabelSet:
    """Every label of an example, as the student was trained to write it."""

    sequences: tuple[tuple[int, ...], ...]
    """Token ids, each one once: of a label, or of a text from `answer is` on; to the end-of-sequence token."""
    at_end: bool = False
    """Whether a rationale may stand before it."""

    @cached_property
    def watched(self) -> tuple[int, ...]:
        """The tokens at which labels part."""
        found: set[int] = set()
        nodes = [self._trie]
        while nodes:
            node = nodes.pop()
            found.update(node if len(node) > 1 else ())
            nodes += node.values()
        return tuple(sorted(found))

    def log_prob(self, ids: Sequence[int], scores: Scores) -> float | None:
        """Natural logarithm of the probability of the label that the tokens are, or end with.

        None where they are none as the student was trained to write it: cut off, free, or of the same meaning (other case, other tokens).
        """
        first = self._first(ids)
        if first is None:
            return None
        node, terms = self._trie, []
        for step in range(first, len(ids)):
            if len(node) > 1:
                at = dict(zip(self.watched, scores(step), strict=True))
                terms.append(at[ids[step]] - _log_sum_exp([at[token] for token in node]))
            node = node[ids[step]]
        return min(math.fsum(terms), 0.0)

    @cached_property
    def _trie(self) -> _Trie:
        root: _Trie = {}
        for sequence in self.sequences:
            node = root
            for token in sequence:
                node = node.setdefault(token, {})
        return root

    def _first(self, ids: Sequence[int]) -> int | None:
        """Where the label begins. Of labels that end alike the longest counts."""
        written = tuple(ids)
        if not self.at_end:
            return 0 if written in self.sequences else None
        lengths = [len(sequence) for sequence in self.sequences if written[-len(sequence) :] == sequence]
        return len(written) - max(lengths) if lengths else None


def label_set(tokenizer: Any, part: Part, labels: tuple[str, ...]) -> LabelSet | None:
    """The closed set of one part of an answer; None where the part holds no label or the label is free.

    Args:
        labels: as methods.written_labels gives them.
    """
    if part == "rationale" or not labels:
        return None
    sequences = encode_targets(tokenizer, labels)
    if part == "text":
        starts = [text.find(STATEMENT) for text in labels]
        if min(starts) < 0:
            return None
        sequences = [ids[tokens_within(ids, at, tokenizer) :] for ids, at in zip(sequences, starts, strict=True)]
    return LabelSet(tuple(dict.fromkeys(map(tuple, sequences))), at_end=part == "text")


def label_sets(tokenizer: Any) -> LabelSets:
    """`label_set` of one tokenizer. The sets that were asked for last are kept: many tasks have one set for all examples."""
    return lru_cache(maxsize=128)(partial(label_set, tokenizer))


def _log_sum_exp(values: Sequence[float]) -> float:
    most = max(values)
    return most + math.log(math.fsum(math.exp(value - most) for value in values))
