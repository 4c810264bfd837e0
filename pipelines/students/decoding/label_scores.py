"""Probability of a generated label within a closed label set.

In: the label set as token sequences, the generated tokens, and the scores of the tokens at which labels differ. Out: the probability of
the generated label. Each token's probability is renormalised over the tokens that continue some label of the set:

    labels      `a b </s>`, `a c </s>`, `d </s>`
    generated   `a c </s>`
    1st token P(a) / (P(a) + P(d))    2nd token P(c) / (P(b) + P(c))    3rd token 1, the only continuation

The probabilities of the set sum to 1. No other label is generated or scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any

from pipelines.methods import Part
from pipelines.students.decoding.tokens import encode_targets, tokens_within

STATEMENT = "answer is"
"""Words before the label in a text of rationale and label."""

Scores = Callable[[int], Sequence[float]]
"""Step -> log-probabilities of the watched tokens at that step, up to a common constant."""
LabelSets = Callable[[Part, tuple[str, ...]], "LabelSet | None"]
Trie = dict[int, "Trie"]


@dataclass(frozen=True)
class LabelSet:
    """All labels of an example, as the student was trained to write them."""

    sequences: tuple[tuple[int, ...], ...]
    """Token ids without duplicates: of a label, or of a text from `answer is` on, with the end-of-sequence token."""
    at_end: bool = False
    """True if a rationale may precede the label."""
    texts: tuple[str, ...] = field(default=(), compare=False)
    """The label of each sequence. Of labels that the tokenizer writes alike, the first."""
    lead: tuple[int, ...] = field(default=(), compare=False)
    """Tokens between a rationale and the sequence, such as ` The`. Empty unless `at_end`."""

    @cached_property
    def watched(self) -> tuple[int, ...]:
        """Tokens at which labels differ; their scores are needed at each step."""
        tokens: set[int] = set()
        nodes = [self.trie]
        while nodes:
            node = nodes.pop()
            tokens.update(node if len(node) > 1 else ())
            nodes += node.values()
        return tuple(sorted(tokens))

    def log_prob(self, ids: Sequence[int], scores: Scores) -> float | None:
        """Natural logarithm of the probability of the label that the tokens spell or end with.

        None if they match no label exactly as trained: truncated, free text, or the same label in another case or tokenization.
        """
        first = self.first(ids)
        if first is None:
            return None
        node, terms = self.trie, []
        for step in range(first, len(ids)):
            if len(node) > 1:
                by_token = dict(zip(self.watched, scores(step), strict=True))
                terms.append(by_token[ids[step]] - log_sum_exp([by_token[token] for token in node]))
            node = node[ids[step]]
        return min(math.fsum(terms), 0.0)

    @cached_property
    def trie(self) -> Trie:
        """The sequences as nested mappings from a token to all that may follow it."""
        root: Trie = {}
        for sequence in self.sequences:
            node = root
            for token in sequence:
                node = node.setdefault(token, {})
        return root

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(map(len, self.sequences))

    def text_of(self, ids: Sequence[int]) -> str:
        """The label that the tokens spell. Raises ValueError if they spell none."""
        return self.texts[self.sequences.index(tuple(ids))]

    def first(self, ids: Sequence[int]) -> int | None:
        """Index of the label's first token; None if the tokens are no label. The longest of several matching labels counts."""
        tokens = tuple(ids)
        if not self.at_end:
            return 0 if tokens in self.sequences else None
        lengths = [len(sequence) for sequence in self.sequences if tokens[-len(sequence) :] == sequence]
        return len(tokens) - max(lengths) if lengths else None


def label_set(tokenizer: Any, part: Part, labels: tuple[str, ...]) -> LabelSet | None:
    """Label set of one part of an answer. None if the part holds no label, or a free one.

    Args:
        labels: from methods.written_labels.
    """
    if part == "rationale" or not has_label_set(part, labels):
        return None
    sequences = encode_targets(tokenizer, labels)
    lead: list[int] = []
    if part == "text":
        starts = [
            tokens_within(ids, text.find(STATEMENT), tokenizer) for ids, text in zip(sequences, labels, strict=True)
        ]
        lead = sequences[0][tokens_within(sequences[0], labels[0].find(".") + 1, tokenizer) : starts[0]]
        sequences = [ids[start:] for ids, start in zip(sequences, starts, strict=True)]
    texts: dict[tuple[int, ...], str] = {}
    for ids, text in zip(sequences, labels, strict=True):
        texts.setdefault(tuple(ids), text)
    return LabelSet(tuple(texts), at_end=part == "text", texts=tuple(texts.values()), lead=tuple(lead))


def has_label_set(part: Part, labels: Sequence[str]) -> bool:
    """True if the labels, from methods.written_labels, make a label set: a text must state its label with `answer is`."""
    return bool(labels) and (part == "label" or all(STATEMENT in text for text in labels))


def label_sets(tokenizer: Any) -> LabelSets:
    """`label_set` for one tokenizer, with a cache: in many tasks all examples share one set."""
    return lru_cache(maxsize=128)(partial(label_set, tokenizer))


def log_sum_exp(values: Sequence[float]) -> float:
    """Natural logarithm of the sum of the exponentials."""
    most = max(values)
    return most + math.log(math.fsum(math.exp(value - most) for value in values))
