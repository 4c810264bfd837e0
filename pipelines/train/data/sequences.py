"""A row of labels -> the sequences that a method learns from it.

In: {"input": "Anne has 4 apples ...", "gold": "4 - 1", "label": "4 - 1", "rationale": "Anne gives 1 away.", ...}. Out:

    finetune              [Sequence("Anne has 4 apples ...\\n" -> "4 - 1", part label)]
    step-by-step          [Sequence("[label] Anne has ...\\n" -> "4 - 1", label),
                           Sequence("[rationale] Anne has ...\\n" -> "Anne gives 1 away.", rationale)]
    soft-label            [Sequence("Anne has ...\\n" -> "4 - 1", label, probability 0.8),
                           Sequence("Anne has ...\\n" -> "4 + 1", no part, probability 0.2)]
    token-kd              [Sequence("Anne has ...\\n" -> the teacher's tokens, text, its likeliest tokens at each position)]
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipelines.methods import prompt_of, with_rationale
from pipelines.students.decoding import Family, encode_prompt, encode_target, tokens_within
from pipelines.tasks import Task, TaskSpec
from pipelines.tasks.base import Answer
from pipelines.train.data import collate
from pipelines.train.data.collate import NO_PART
from pipelines.train.loss_terms import PARTS

MOST_CANDIDATES = 8
"""Labels of an example that soft-label compares: the teacher's likeliest, and the hard one."""


@dataclass(frozen=True)
class TokenSettings:
    """What decides the tokens of a row."""

    model: str
    family: Family
    method: str
    terms: tuple[str, ...]
    """The terms of the loss that are trained (objective.TERMS)."""
    label_column: Literal["gold", "label", "either"]
    """Whose label is learned. either: gold where there is one, else the teacher's."""
    validation_share: float
    """Share of the rows that is held out by hash of the id; 0 where the validation examples are a file of their own."""
    max_input_tokens: int
    max_target_tokens: int
    task: TaskSpec
    tokenizer: str | None = None
    """The store of the student's own tokenizer (init.vocabulary); None: the model's."""
    fraction: float = 1.0
    """Share of the training rows that is used."""
    seed: int = 0
    """By which they are chosen."""

    @property
    def with_tops(self) -> bool:
        """Whether rows come with the teacher's likeliest tokens (`top`: a row of schema.TOKEN_LOGPROBS)."""
        return self.method == "token-kd"

    @property
    def together(self) -> bool:
        """Whether the sequences of an example are compared with each other."""
        return self.method == "soft-label"


def in_fraction(example_id: str, fraction: float, seed: int) -> bool:
    """Whether a training example is among the share that is used: by hash of its id: a smaller share is part of a larger one."""
    bucket = int.from_bytes(hashlib.sha256(f"fraction:{seed}:{example_id}".encode()).digest()[:8], "big")
    return bucket < fraction * 2**64


def sequences_of(row: Mapping[str, Any], tokenizer: Any, settings: TokenSettings, task: Task) -> list[Any]:
    """The sequences (micro_batch.Sequence) of a row. Empty where it holds nothing that the method can learn."""
    learn = _Learner(row, tokenizer, settings)
    hard = row["label"] if settings.label_column == "label" else row["gold"]
    if settings.label_column == "either":
        hard = row["gold"] or row["label"]
    method, rationale = settings.method, row["rationale"]
    if method == "step-by-step":
        found = [learn("label", hard)] if "label" in settings.terms else []
        return [*found, learn("rationale", rationale)] if "rationale" in settings.terms and rationale else found
    if method == "rationale-then-label":
        return [learn("text", task.render(Answer(hard, rationale)).strip())]
    if method == "rationale-as-input":
        return [learn("label", hard, with_rationale(row["input"], rationale))] if rationale else []
    if method == "soft-label":
        return [
            learn("label", label, probability=probability, counts=label == hard)
            for label, probability in candidates(hard, row["soft_label"], task)
        ]
    if method == "token-kd":
        return [learn.tokens(row["top"], task.stops)] if row["top"] is not None else []
    return [learn("label", hard)]


def candidates(hard: str, soft_label: Sequence[Mapping[str, Any]] | None, task: Task) -> list[tuple[str, float]]:
    """(label, the teacher's probability): the hard label first, then the likeliest others. Labels that mean the same are one."""
    probabilities: dict[str, float] = {}
    names = {task.key(hard): hard}
    for entry in soft_label or ({"label": hard, "probability": 1.0},):
        key = task.key(entry["label"])
        names.setdefault(key, entry["label"])
        probabilities[key] = probabilities.get(key, 0.0) + entry["probability"]
    first = task.key(hard)
    others = sorted((key for key in probabilities if key != first), key=lambda key: (-probabilities[key], key))
    kept = [first, *others[: MOST_CANDIDATES - 1]]
    return [(names[key], probabilities.get(key, 0.0)) for key in kept]


class _Learner:
    """Makes sequences of one row."""

    def __init__(self, row: Mapping[str, Any], tokenizer: Any, settings: TokenSettings) -> None:
        self._row, self._tokenizer, self._settings = row, tokenizer, settings

    def __call__(
        self, part: Any, target: str, text: str | None = None, *, probability: float | None = None, counts: bool = True
    ) -> collate.Sequence:
        """Read the input (or `text`), write `target`. `counts`: its tokens do in the term of its part."""
        return collate.Sequence(
            self._prompt(part, self._row["input"] if text is None else text),
            encode_target(self._tokenizer, target),
            PARTS.index(part) if counts else NO_PART,
            probability=probability,
        )

    def tokens(self, top: Mapping[str, Any], stops: Sequence[str]) -> collate.Sequence:
        """Read the input, write the teacher's own tokens up to where its answer ends."""
        eos = self._tokenizer.eos_token_id
        ids = list(top["token_ids"])
        kept = len(ids) - 1 if ids[-1] == eos else _tokens_before(ids, stops, self._tokenizer)
        top_ids, top_logprobs = list(top["top_ids"][: kept + 1]), list(top["top_logprobs"][: kept + 1])
        if ids[kept:] != [eos]:
            # The teacher's answer ended by a stop string, or was cut by it: that it ends here is certain.
            width = len(top_ids[0])
            others = [token for token in range(width + 1) if token != eos]
            top_ids[kept:] = [[eos, *others[: width - 1]]]
            top_logprobs[kept:] = [[0.0, *[-math.inf] * (width - 1)]]
        return collate.Sequence(
            self._prompt("text", self._row["input"]),
            [*ids[:kept], eos],
            PARTS.index("text"),
            top_ids=np.array(top_ids, dtype=np.int32),
            top_logprobs=np.array(top_logprobs, dtype=np.float32),
        )

    def _prompt(self, part: Any, text: str) -> list[int]:
        settings = self._settings
        return encode_prompt(self._tokenizer, settings.family, prompt_of(settings.method, part, text))


def _tokens_before(ids: list[int], stops: Sequence[str], tokenizer: Any) -> int:
    """How many tokens come before the first stop string. The engine cuts the string off an answer's text, not its tokens."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    end = min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))
    return tokens_within(ids, end, tokenizer)
