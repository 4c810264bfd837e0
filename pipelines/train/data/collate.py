"""Sequences -> the arrays of one micro-batch. Pure functions of numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.students.decoding import Family
from pipelines.train.data.lengths import Ints

Floats = npt.NDArray[np.float32]
NO_PART = -1


@dataclass(frozen=True)
class TokenSequence:
    """One thing to learn: read `prompt`, write `target`."""

    prompt: Any
    """(P,) token ids."""
    target: Any
    """(T,) token ids, T >= 1."""
    part: int
    """Which of objective.PARTS its tokens count in; NO_PART: in none."""
    example: int = 0
    probability: float | None = None
    """soft-label: what the teacher gives to this label of the example's."""
    top_ids: Any = None
    """(U, k) token-kd: the teacher's likeliest tokens at the first U positions of the target, U <= T."""
    top_logprobs: Any = None
    """(U, k)"""


@dataclass(frozen=True)
class MicroBatch:
    """Arrays of one micro-batch. R rows, N target tokens over all rows.

    `inputs`: what the model reads. Decoder-only: input_ids (R, L), padded on the right, where causal attention never looks, so
    that no mask is needed. Encoder-decoder: input_ids and attention_mask (1 = real) (R, S), decoder_input_ids (R, T).
    """

    inputs: dict[str, Ints]
    rows: Ints
    """(N,) the row of each target token."""
    columns: Ints
    """(N,) the position whose output predicts it."""
    targets: Ints
    """(N,) its id."""
    parts: Ints
    """(N,) which of objective.PARTS it counts in, or NO_PART."""
    groups: Ints | None = None
    """(R,) soft-label: 0, 1, ... for the rows of the first example, the second, ..."""
    probabilities: Floats | None = None
    """(R,) soft-label: the teacher's, of each row's label."""
    top_ids: Ints | None = None
    """(N, k) token-kd: the teacher's likeliest tokens; -1 where it has none to say."""
    top_logprobs: Floats | None = None
    """(N, k)"""


def collate(sequences: Sequence[TokenSequence], *, family: Family, pad: int, start: int | None) -> MicroBatch:
    """Pad sequences into one micro-batch. `start`: the token that an encoder-decoder's decoder begins with.

    No sequences at all give one row with one target token that counts in no term: a worker without work still has to take part in
    every forward pass.
    """
    sequences = sequences or [TokenSequence([pad], [pad], NO_PART)]
    prompts, targets = [s.prompt for s in sequences], [s.target for s in sequences]
    count = np.array([len(t) for t in targets], dtype=np.int64)
    rows = np.repeat(np.arange(len(targets)), count)
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    if family == "encoder-decoder":
        assert start is not None, "an encoder-decoder needs its decoder's start token"
        ids = _padded(prompts, pad)
        mask = _padded([np.ones(len(p), dtype=np.int64) for p in prompts], 0)
        decoder = _padded([[start, *t[:-1]] for t in targets], pad)
        inputs, columns = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder}, within
    else:
        # The last target token is predicted, never read.
        inputs = {"input_ids": _padded([[*p, *t[:-1]] for p, t in zip(prompts, targets, strict=True)], pad)}
        columns = within + np.repeat(np.array([len(p) for p in prompts], dtype=np.int64) - 1, count)
    flat = np.concatenate([np.asarray(t, dtype=np.int64) for t in targets])
    parts = np.repeat(np.array([s.part for s in sequences], dtype=np.int64), count)
    return MicroBatch(inputs, rows, columns, flat, parts, *_groups(sequences), *_tops(sequences, count))


def _groups(sequences: Sequence[TokenSequence]) -> tuple[Ints, Floats] | tuple[None, None]:
    if sequences[0].probability is None:
        return None, None
    _, groups = np.unique([s.example for s in sequences], return_inverse=True)
    return groups.astype(np.int64), np.array([s.probability for s in sequences], dtype=np.float32)


def _tops(sequences: Sequence[TokenSequence], count: Ints) -> tuple[Ints, Floats] | tuple[None, None]:
    width = max((s.top_ids.shape[1] for s in sequences if s.top_ids is not None), default=0)
    if not width:
        return None, None
    ids = np.full((int(count.sum()), width), -1, dtype=np.int64)
    logprobs = np.zeros(ids.shape, dtype=np.float32)
    for sequence, at in zip(sequences, np.cumsum(count) - count, strict=True):
        if sequence.top_ids is not None:
            here = slice(int(at), int(at) + len(sequence.top_ids))
            ids[here], logprobs[here] = sequence.top_ids, sequence.top_logprobs
    return ids, logprobs


def _padded(sequences: Sequence[Any], value: int) -> Ints:
    result = np.full((len(sequences), max(len(s) for s in sequences)), value, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        result[row, : len(sequence)] = sequence
    return result
