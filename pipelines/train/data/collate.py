"""Token sequences -> the arrays of one micro-batch. Pure functions of numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.students.decoding import Family
from pipelines.train.data.lengths import Ints
from pipelines.train.loss_terms import PARTS

Floats = npt.NDArray[np.float32]
Array = Any
"""A numpy array, or a torch tensor after `MicroBatch.map`."""
NO_PART = -1
_RATIONALE = PARTS.index("rationale")


@dataclass(frozen=True)
class TokenSequence:
    """One thing to learn: read `prompt`, write `target`."""

    prompt: Sequence[int] | Ints
    """(P,) token ids."""
    target: Sequence[int] | Ints
    """(T,) token ids, T >= 1."""
    part: int
    """Index in loss_terms.PARTS of the term that its tokens count in; NO_PART: none."""
    example: int = 0
    tail: int = 0
    """Number of the last target tokens that count in the rationale term instead (label-then-rationale)."""
    probability: float | None = None
    """soft-label: the teacher's probability of this label of the example."""
    top_ids: npt.NDArray[np.int32] | None = None
    """(U, k) token-kd: the teacher's k likeliest tokens at the first U positions of the target, U <= T."""
    top_logprobs: npt.NDArray[np.float32] | None = None
    """(U, k)"""


@dataclass(frozen=True)
class Segments:
    """Lengths of the R sequences of a packed row."""

    inputs: tuple[int, ...]
    """In the encoder, or in a decoder-only model."""
    targets: tuple[int, ...] = ()
    """In the decoder of an encoder-decoder."""


@dataclass(frozen=True)
class MicroBatch:
    """R sequences with N target tokens in all: each in its own padded row, or packed in one row one after the other.

    Decoder-only inputs: input_ids (R, L), padded on the right. Causal attention never looks there, so that no mask is needed.
    Encoder-decoder inputs: input_ids and attention_mask (1 = real) (R, S), decoder_input_ids (R, T).
    Packed: input_ids (1, L), with position_ids (1, L) in a decoder-only model; decoder_input_ids (1, T).
    """

    inputs: dict[str, Array]
    """The model's arguments."""
    rows: Array
    """(N,) the sequence of each target token."""
    positions: Array
    """(N,) the position whose output predicts it, counted over all rows of the model's output."""
    targets: Array
    """(N,) its id."""
    parts: Array
    """(N,) index in loss_terms.PARTS of the term that it counts in, or NO_PART."""
    groups: Array | None = None
    """(R,) soft-label: the number of each row's example, from 0."""
    probabilities: Array | None = None
    """(R,) soft-label: the teacher's probability of each row's label."""
    top_ids: Array | None = None
    """(N, k) token-kd: the teacher's k likeliest tokens; -1 if unknown at this position."""
    top_logprobs: Array | None = None
    """(N, k)"""
    segments: Segments | None = None
    """Of a packed row; None: padded rows."""

    def map(self, convert: Callable[[Array], Array]) -> MicroBatch:
        """The same micro-batch with every array converted."""
        arrays = {name: value for name, value in self.arguments().items() if name not in ("inputs", "segments")}
        inputs = {name: convert(value) for name, value in self.inputs.items()}
        return replace(self, inputs=inputs, **{name: convert(value) for name, value in arrays.items()})

    def pin_memory(self) -> MicroBatch:
        """Called by torch's DataLoader: copies to memory from which a GPU reads while it computes."""
        return self.map(lambda tensor: tensor.pin_memory())

    def arguments(self) -> dict[str, Array]:
        """The arguments of `StudentLoss.forward` but `scales`."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value is not None}


def collate(
    sequences: Sequence[TokenSequence], *, family: Family, pad: int, start: int | None, packed: bool = False
) -> MicroBatch:
    """Make one micro-batch of sequences.

    No sequences give one row with one target token that counts in no term: a worker without work must still join every forward pass.

    Args:
        start: the token that an encoder-decoder's decoder begins with.
        packed: all sequences in one row, without padding.
    """
    sequences = sequences or [TokenSequence([pad], [pad], NO_PART)]
    prompts, targets = [s.prompt for s in sequences], [s.target for s in sequences]
    count = _lengths(targets)
    rows = np.repeat(np.arange(len(targets)), count)
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    if family == "encoder-decoder":
        assert start is not None, "an encoder-decoder needs its decoder's start token"
        read = [[start, *t[:-1]] for t in targets]
        inputs, segments = _encoder_decoder_inputs(prompts, read, pad, packed=packed)
        before = np.zeros(len(targets), dtype=np.int64)
    else:
        # The last target token is predicted, never read.
        read = [[*p, *t[:-1]] for p, t in zip(prompts, targets, strict=True)]
        inputs, segments = _decoder_inputs(read, pad, packed=packed)
        before = _lengths(prompts) - 1
    sizes = _lengths(read)
    first = np.cumsum(sizes) - sizes if packed else np.arange(len(read)) * int(sizes.max())
    positions = within + np.repeat(first + before, count)
    flat = np.concatenate([np.asarray(t, dtype=np.int64) for t in targets])
    parts = np.repeat(np.array([s.part for s in sequences], dtype=np.int64), count)
    heads = np.repeat(count - np.array([s.tail for s in sequences], dtype=np.int64), count)
    parts = np.where(within < heads, parts, _RATIONALE)
    groups, probabilities = _groups(sequences)
    top_ids, top_logprobs = _top_tokens(sequences, count)
    return MicroBatch(
        inputs, rows, positions, flat, parts, groups, probabilities, top_ids, top_logprobs, segments
    )  # fmt: skip


def _decoder_inputs(
    read: Sequence[Sequence[int]], pad: int, *, packed: bool
) -> tuple[dict[str, Array], Segments | None]:
    if not packed:
        return {"input_ids": _padded(read, pad)}, None
    positions = [range(len(r)) for r in read]
    return {"input_ids": _row(read), "position_ids": _row(positions)}, Segments(tuple(map(len, read)))


def _encoder_decoder_inputs(
    prompts: Sequence[Sequence[int] | Ints], read: Sequence[Sequence[int]], pad: int, *, packed: bool
) -> tuple[dict[str, Array], Segments | None]:
    if packed:
        segments = Segments(tuple(map(len, prompts)), tuple(map(len, read)))
        return {"input_ids": _row(prompts), "decoder_input_ids": _row(read)}, segments
    mask = _padded([np.ones(len(p), dtype=np.int64) for p in prompts], 0)
    return {"input_ids": _padded(prompts, pad), "attention_mask": mask, "decoder_input_ids": _padded(read, pad)}, None


def _lengths(sequences: Sequence[Sequence[int] | Ints]) -> Ints:
    return np.array([len(s) for s in sequences], dtype=np.int64)


def _row(sequences: Sequence[Sequence[int] | Ints]) -> Ints:
    """(1, L) all sequences, one after the other."""
    return np.concatenate([np.asarray(s, dtype=np.int64) for s in sequences])[None]


def _groups(sequences: Sequence[TokenSequence]) -> tuple[Ints, Floats] | tuple[None, None]:
    if sequences[0].probability is None:
        return None, None
    _, groups = np.unique([s.example for s in sequences], return_inverse=True)
    return groups.astype(np.int64), np.array([s.probability for s in sequences], dtype=np.float32)


def _top_tokens(sequences: Sequence[TokenSequence], count: Ints) -> tuple[Ints, Floats] | tuple[None, None]:
    width = max((s.top_ids.shape[1] for s in sequences if s.top_ids is not None), default=0)
    if not width:
        return None, None
    ids = np.full((int(count.sum()), width), -1, dtype=np.int64)
    logprobs = np.zeros(ids.shape, dtype=np.float32)
    for sequence, first in zip(sequences, np.cumsum(count) - count, strict=True):
        if sequence.top_ids is not None:
            positions = slice(int(first), int(first) + len(sequence.top_ids))
            ids[positions], logprobs[positions] = sequence.top_ids, sequence.top_logprobs
    return ids, logprobs


def _padded(sequences: Sequence[Sequence[int] | Ints], value: int) -> Ints:
    result = np.full((len(sequences), max(len(s) for s in sequences)), value, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        result[row, : len(sequence)] = sequence
    return result
