"""A row of labels -> the token sequences that a method learns from it.

In: TrainingRow(input="Anne has 4 apples ...", label="4 - 1", rationale="Anne gives 1 away.", ...). Out:

    finetune              [TokenSequence("Anne has 4 apples ...\\n" -> "4 - 1", part label)]
    step-by-step          [TokenSequence("[label] Anne has ...\\n" -> "4 - 1", label),
                           TokenSequence("[rationale] Anne has ...\\n" -> "Anne gives 1 away.", rationale)]
    label-then-rationale  [TokenSequence("Anne has ...\\n" -> "4 - 1</s>Anne gives 1 away.</s>", label, tail of 6 tokens)]
    soft-label            [TokenSequence("Anne has ...\\n" -> "4 - 1", label, probability 0.8),
                           TokenSequence("Anne has ...\\n" -> "4 + 1", no part, probability 0.2)]
    token-kd              [TokenSequence("Anne has ...\\n" -> the teacher's tokens, text, its k likeliest at each position)]
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.methods import METHODS, LabelColumn, Target, TeacherTokens, TrainingRow, prompt_of
from pipelines.students.chat_prompt import PromptKind
from pipelines.students.decoding import Family, encode_prompt, encode_target, tokens_within
from pipelines.tasks import Task, TaskSpec
from pipelines.train.data.collate import NO_PART, TokenSequence
from pipelines.train.loss_terms import PARTS


@dataclass(frozen=True)
class TokenSettings:
    """What decides the tokens of a row."""

    model: str
    family: Family
    method: str
    terms: tuple[str, ...]
    """Terms of the loss with a weight above 0 (loss_terms.TERMS)."""
    label_column: LabelColumn
    """Whose label is learned. either: gold if the row has one, else the teacher's."""
    validation_share: float
    """Share of the rows that is held out, by hash of the id; 0 if the validation examples are a separate file."""
    max_input_tokens: int
    max_target_tokens: int
    task: TaskSpec
    tokenizer: str | None = None
    """Store of the student's own tokenizer (init.vocabulary); None: the model's."""
    fraction: float = 1.0
    """Share of the training rows that is used."""
    seed: int = 0
    """Selects that share, and `rationale_share`."""
    prompt: PromptKind = "plain"
    rationales_per_row: int = 1
    rationale_share: float = 1.0
    max_rationale_words: int | None = None
    """As in the run file's `student.rationales`."""

    @property
    def needs_token_logprobs(self) -> bool:
        """True if rows need the teacher's tokens (schema.TOKEN_LOGPROBS)."""
        return METHODS[self.method].learns_teacher_tokens

    @property
    def selects_rationales(self) -> bool:
        """True if the method reads `student.rationales`."""
        return "rationales" in METHODS[self.method].options

    @property
    def rotates_rationales(self) -> bool:
        """True if rows with several rationales teach another one in each epoch."""
        return self.selects_rationales and self.rationales_per_row > 1

    @property
    def compares_labels(self) -> bool:
        """True if the loss compares the sequences of an example with each other."""
        return METHODS[self.method].compares_labels


def in_fraction(example_id: str, fraction: float, seed: int) -> bool:
    """True if a training example is in the share that is used, by hash of its id. A larger share contains a smaller one."""
    return fraction_bucket(example_id, seed) < fraction * 2**64


def fraction_bucket(example_id: str, seed: int, kind: str = "fraction") -> int:
    """The place of an example from 0 to 2^64, by which shares are drawn. Shares of another kind are independent of it."""
    return int.from_bytes(hashlib.sha256(f"{kind}:{seed}:{example_id}".encode()).digest()[:8], "big")


@dataclass(frozen=True)
class LearnedRationales:
    """What a training row teaches besides its label."""

    texts: list[str]
    """One in each epoch, in turn. An empty one: the label alone."""
    shared: bool = True
    """False: the row is outside `student.rationales.share`."""
    long: int = 0
    """Rationales with more than `max_words` words."""


def learned_rationales(row: Mapping[str, Any], settings: TokenSettings) -> LearnedRationales:
    """Those rationales of a training row that `student.rationales` selects.

    Args:
        row: of schema.LABEL, with `rationales` (its texts in labels/rationales, or null) if several are learned.
    """
    if not settings.selects_rationales:
        return LearnedRationales([row["rationale"]])
    share, most = settings.rationale_share, settings.max_rationale_words
    if share < 1.0 and fraction_bucket(row["id"], settings.seed, "rationales") >= share * 2**64:
        return LearnedRationales([""], shared=False)
    found = row.get("rationales") or [row["rationale"]]
    short = [text for text in found if most is None or len(text.split()) <= most]
    return LearnedRationales(short[: settings.rationales_per_row] or [""], long=len(found) - len(short))


def read_row(row: Mapping[str, Any], label_column: LabelColumn) -> TrainingRow:
    """A row of schema.LABEL, with `top` (a row of schema.TOKEN_LOGPROBS, or null) if the method learns the teacher's tokens."""
    label = row["label"] if label_column == "label" else row["gold"]
    if label_column == "either":
        label = row["gold"] or row["label"]
    top = row.get("top")
    return TrainingRow(
        row["id"],
        row["input"],
        label or "",  # null only if no term of the loss needs it
        row["rationale"],
        [(entry["label"], entry["probability"]) for entry in row["soft_label"] or ()],
        None if top is None else TeacherTokens(top["token_ids"], top["top_ids"], top["top_logprobs"]),
    )


def sequences_of(row: TrainingRow, tokenizer: Any, settings: TokenSettings, task: Task) -> list[TokenSequence]:
    """The sequences of a row. Empty if it holds nothing that the method can learn."""
    method = METHODS[settings.method]
    targets = method.targets(row, task)
    if method.prefixed:  # separate answers, of which the loss may count one alone
        targets = [target for target in targets if target.part in settings.terms]
    return [_sequence(target, row, tokenizer, settings, task) for target in targets]


def _sequence(target: Target, row: TrainingRow, tokenizer: Any, settings: TokenSettings, task: Task) -> TokenSequence:
    text = row.input if target.input is None else target.input
    prompt = encode_prompt(tokenizer, settings.family, prompt_of(settings.method, target.part, text))
    part = PARTS.index(target.part) if target.in_part_loss else NO_PART
    if target.text is not None:
        ids = encode_target(tokenizer, target.text)
        tail = encode_target(tokenizer, target.rationale) if target.rationale and "rationale" in settings.terms else []
        return TokenSequence(prompt, [*ids, *tail], part, tail=len(tail), probability=target.probability)
    assert row.tokens is not None, "a method that learns the teacher's tokens skips rows without them"
    ids, top_ids, top_logprobs = _until_end(row.tokens, task.stops, tokenizer)
    return TokenSequence(prompt, ids, part, top_ids=top_ids, top_logprobs=top_logprobs)


def _until_end(
    tokens: TeacherTokens, stops: Sequence[str], tokenizer: Any
) -> tuple[list[int], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The teacher's tokens (T,) up to the end of its answer, with the end token, and the k likeliest at each position (T, k)."""
    eos = tokenizer.eos_token_id
    ids = list(tokens.ids)
    kept = len(ids) - 1 if ids[-1] == eos else _tokens_before(ids, stops, tokenizer)
    top_ids, top_logprobs = list(tokens.top_ids[: kept + 1]), list(tokens.top_logprobs[: kept + 1])
    if ids[kept:] != [eos]:
        # A stop string or the token limit ended the answer: the end token has probability 1 here.
        width = len(top_ids[0])
        others = [token for token in range(width + 1) if token != eos]
        top_ids[kept:] = [[eos, *others[: width - 1]]]
        top_logprobs[kept:] = [[0.0, *[-math.inf] * (width - 1)]]
    return [*ids[:kept], eos], np.array(top_ids, dtype=np.int32), np.array(top_logprobs, dtype=np.float32)


def _tokens_before(ids: list[int], stops: Sequence[str], tokenizer: Any) -> int:
    """Number of tokens before the first stop string. The engine cuts it off the answer's text, not off its tokens."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    end = min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))
    return tokens_within(ids, end, tokenizer)
