"""The teacher's distribution over a closed label set, from the log-probabilities of the tokens with which an answer states its label.

    ... So the answer is (c) basket.          at `c` the teacher's likeliest tokens were   c 0.6   b 0.2   d 0.1   the 0.05
                          ^ label place       -> basket 0.67, lamp 0.22, library 0.11

At the label place a token speaks for a label when it begins the label's spelling, or is the spelling with something after it that is no
letter or digit (`c)`); upper and lower case count alike. What speaks for no label is left out, and the rest is divided by its sum.

Labels that begin with the same token (`sea`, `seaside`; `not spam`, `not sure`) are told apart further on: where the sampled token
speaks for several labels, the walk goes on along the sampled path to the next token, its masses weighted with the probability of the
path so far. A token off the path that speaks for several labels is left out: where it would have led is not known, so such labels
come out too low. Tokens beyond the likeliest 20 count as 0. Where an answer has no label place, or its tokens do not spell its text,
there is no distribution and its vote counts.

Engines compute logits in the model's dtype: in bfloat16, those between 16 and 32 are multiples of 1/8, so that labels of nearly the
same probability often come out with exactly the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.label.teachers.base import Sample
from pipelines.tasks import Answer, Task
from pipelines.tasks.parsing.label_patterns import LabelPlace

LIKELIEST = 20
"""How many tokens per position are asked for."""

_CUT_CHARACTER = "\ufffd"
# Enough for a tokenizer to decode the next token as it does within the text.
_WINDOW = 6

Distribution = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class AnswerTokens:
    """An answer as tokens."""

    ids: Sequence[int]
    """(T,) what was sampled."""
    before: Sequence[int]
    """The last tokens of the prompt: some tokenizers decode a text's first token differently."""
    likeliest: Callable[[int], Mapping[int, float]]
    """Position -> {token: log-probability}, of the likeliest tokens and the sampled one."""
    decode: Callable[[Sequence[Sequence[int]]], list[str]]
    """Token sequences -> their texts, without special tokens."""

    def length_of(self, count: int) -> int:
        """Characters in the text of the first `count` tokens, without a character that is only begun."""
        base, text = self.decode([self.before, [*self.before, *self.ids[:count]]])
        return len(text.rstrip(_CUT_CHARACTER)) - len(base)

    def position_of(self, offset: int) -> int:
        """The position of the token that holds the character at this offset."""
        low, high = 0, len(self.ids)
        while low < high:
            middle = (low + high) // 2
            if self.length_of(middle + 1) > offset:
                high = middle
            else:
                low = middle + 1
        return low

    def pieces(self, position: int, tokens: Sequence[int]) -> list[str]:
        """What each of the tokens would add to the text at this position. `\\ufffd` at its end: a character that is only begun."""
        window = [*self.before, *self.ids[:position]][-_WINDOW:]
        base, *texts = self.decode([window, *([*window, token] for token in tokens)])
        return [text[len(base.rstrip(_CUT_CHARACTER)) :] for text in texts]


def label_probabilities(tokens: AnswerTokens, text: str, place: LabelPlace) -> Distribution | None:
    """(label, probability) for every label of `place`, likeliest first, summing to 1.

    Args:
        tokens: the answer's tokens; they decode to `text`, or to more where a stop string was cut off.
        text: the answer.
        place: where it states its label.

    Returns:
        None where the tokens do not spell the text up to the label.
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
    """The mean over the parsed samples, likeliest first; a sample without a distribution is a whole vote for its label.

    None where no sample has a distribution: votes decide then.
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
    """Label -> mass, along the sampled path until one label is left. `rests`: what is still to come of each spelling."""
    masses = dict.fromkeys((name for _, name in rests), 0.0)
    path = 0.0
    while position < len(tokens.ids):
        likeliest = tokens.likeliest(position)
        sampled = tokens.ids[position]
        going_on: list[tuple[str, str]] = []
        for token, piece in zip(likeliest, tokens.pieces(position, list(likeliest)), strict=True):
            spoken_for = _spoken_for(rests, piece.casefold())
            names = {name for _, name in spoken_for}
            if len(names) == 1:
                masses[names.pop()] += math.exp(path + likeliest[token])
            elif token == sampled:
                going_on = spoken_for
            if token == sampled and label not in {name for _, name in spoken_for}:
                return None
        if not going_on:
            return masses
        path += likeliest[sampled]
        position, rests = position + 1, going_on
    # The answer was cut before it could differ from the others': what it has spelled is its label.
    masses[label] += math.exp(path)
    return masses


def _spoken_for(rests: list[tuple[str, str]], piece: str) -> list[tuple[str, str]]:
    """The labels that a token speaks for, with what is still to come of each. The ones that it spells furthest, where some are longer."""
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
    if cut:  # the next character is begun: it is none of ASCII's
        return rest.startswith(piece) and not rest[len(piece) :][:1].isascii()
    if not piece:  # a special token ends the answer
        return not rest
    if len(piece) <= len(rest):
        return rest.startswith(piece)
    return piece.startswith(rest) and not piece[len(rest)].isalnum()
