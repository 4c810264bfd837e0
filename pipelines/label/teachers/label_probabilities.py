"""The teacher's distribution over a closed label set, from the log-probabilities of the tokens that state the label of an answer.

    ... So the answer is (c) basket.          at `c` the teacher's likeliest tokens were   c 0.6   b 0.2   d 0.1   the 0.05
                          ^ label place       -> basket 0.67, lamp 0.22, library 0.11

At the label place a token counts for a label if it begins the label's spelling. It also counts if it is the whole spelling and continues
with no letter or digit (`c)`). Case is ignored. Tokens that count for no label are left out, and the rest is divided by its sum.

Several labels may begin with the same token (`sea`, `seaside`; `not spam`, `not sure`). If the sampled token counts for several labels,
the walk follows the sampled path to the next token. Masses there are weighted with the probability of the path so far. A token off the
path that counts for several labels is left out, because its continuation is unknown. Such labels come out too low.

Tokens beyond the likeliest 20 count as 0. An answer without a label place, or whose tokens do not spell its text, has no distribution;
then its vote counts.

Engines compute logits in the model's dtype. In bfloat16, logits between 16 and 32 are multiples of 1/8, so labels of nearly the same
probability often get exactly the same one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.label.teachers.base import Sample
from pipelines.tasks import Answer, Task
from pipelines.tasks.parsing.label_patterns import LabelPlace

LIKELIEST = 20
"""Tokens per position that are requested."""

_CUT_CHARACTER = "\ufffd"
"""Decoded form of a character whose bytes are not complete."""
_WINDOW = 6
"""Tokens before a token that make a tokenizer decode it as it does within the text."""

Distribution = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class AnswerTokens:
    """An answer as tokens."""

    ids: Sequence[int]
    """(T,) sampled."""
    before: Sequence[int]
    """The last tokens of the prompt, since some tokenizers decode the first token of a text differently."""
    likeliest: Callable[[int], Mapping[int, float]]
    """Position -> {token: log-probability} of the likeliest tokens and the sampled one."""
    decode: Callable[[Sequence[Sequence[int]]], list[str]]
    """Token sequences -> their texts, without special tokens."""

    def length_of(self, count: int) -> int:
        """Characters in the text of the first `count` tokens, complete ones only."""
        base, text = self.decode([self.before, [*self.before, *self.ids[:count]]])
        return len(text.rstrip(_CUT_CHARACTER)) - len(base)

    def position_of(self, offset: int) -> int:
        """Position of the token with the character at this offset."""
        low, high = 0, len(self.ids)
        while low < high:
            middle = (low + high) // 2
            if self.length_of(middle + 1) > offset:
                high = middle
            else:
                low = middle + 1
        return low

    def pieces(self, position: int, tokens: Sequence[int]) -> list[str]:
        """The text that each of the tokens would add at this position. `\\ufffd` at its end: an incomplete character."""
        window = [*self.before, *self.ids[:position]][-_WINDOW:]
        base, *texts = self.decode([window, *([*window, token] for token in tokens)])
        return [text[len(base.rstrip(_CUT_CHARACTER)) :] for text in texts]


def label_probabilities(tokens: AnswerTokens, text: str, place: LabelPlace) -> Distribution | None:
    """(label, probability) for every label of `place`, likeliest first, summing to 1.

    Args:
        tokens: of the answer; they decode to `text`, or to more if a stop string was cut off.
        text: the answer.
        place: the label place in `text`.

    Returns:
        None if the tokens do not spell the text up to the label.
    """
    position = tokens.position_of(place.start)
    if position >= len(tokens.ids):
        return None
    lead = text[tokens.length_of(position) : place.start]
    rests = [((lead + spelling).casefold(), name) for spelling, name in place.spellings]
    masses = _walk(tokens, position, rests, place.label)
    if masses is None:
        return None
    total = sum(masses.values())
    return tuple(sorted(((name, mass / total) for name, mass in masses.items()), key=lambda pair: -pair[1]))


def mean_distribution(samples: Sequence[Sample], answers: Sequence[Answer | None], task: Task) -> Distribution | None:
    """The mean over the parsed samples, likeliest first. A sample without a distribution is one whole vote for its label.

    None if no sample has a distribution.
    """
    parsed = [(sample, answer) for sample, answer in zip(samples, answers, strict=True) if answer is not None]
    given = next((sample.label_probabilities for sample, _ in parsed if sample.label_probabilities), None)
    if given is None:
        return None
    names = {task.key(name): name for name, _ in given}
    masses = dict.fromkeys(names.values(), 0.0)
    for sample, answer in parsed:
        vote = ((answer.label, 1.0),)
        for label, probability in sample.label_probabilities or vote:
            name = names.setdefault(task.key(label), label)
            masses[name] = masses.get(name, 0.0) + probability / len(parsed)
    return tuple(sorted(masses.items(), key=lambda pair: -pair[1]))


def _walk(tokens: AnswerTokens, position: int, rests: list[tuple[str, str]], label: str) -> dict[str, float] | None:
    """Label -> mass, along the sampled path until one label is left. `rests`: (rest of a spelling, its label)."""
    masses = dict.fromkeys((name for _, name in rests), 0.0)
    path = 0.0
    while position < len(tokens.ids):
        likeliest = tokens.likeliest(position)
        sampled = tokens.ids[position]
        ambiguous: list[tuple[str, str]] = []
        for token, piece in zip(likeliest, tokens.pieces(position, list(likeliest)), strict=True):
            candidates = _candidates(rests, piece.casefold())
            names = {name for _, name in candidates}
            if len(names) == 1:
                masses[names.pop()] += math.exp(path + likeliest[token])
            elif token == sampled:
                ambiguous = candidates
            if token == sampled and label not in {name for _, name in candidates}:
                return None
        if not ambiguous:
            return masses
        path += likeliest[sampled]
        position, rests = position + 1, ambiguous
    # The answer was cut before its label differs from the others: the sampled label gets the rest.
    masses[label] += math.exp(path)
    return masses


def _candidates(rests: list[tuple[str, str]], piece: str) -> list[tuple[str, str]]:
    """(rest of the spelling after this token, label) of the labels that a token counts for. Only those that it spells furthest."""
    cut = piece.endswith(_CUT_CHARACTER)
    piece = piece.rstrip(_CUT_CHARACTER)
    furthest: list[tuple[str, str]] = []
    reach = -1
    for rest, name in rests:
        if not _fits(rest, piece, cut=cut):
            continue
        spelled = min(len(rest), len(piece))
        if spelled > reach:
            furthest, reach = [], spelled
        if spelled == reach:
            furthest.append((rest[spelled:], name))
    return furthest


def _fits(rest: str, piece: str, *, cut: bool) -> bool:
    if cut:  # the next character is incomplete, so it is not ASCII
        return rest.startswith(piece) and not rest[len(piece) :][:1].isascii()
    if not piece:  # a special token ends the answer
        return not rest
    if len(piece) <= len(rest):
        return rest.startswith(piece)
    return piece.startswith(rest) and not piece[len(rest)].isalnum()
