"""One step's sequences -> micro-batches for every worker, with little padding. Pure functions of numpy.

Sequences are put into an order in which those of like lengths stand together, and cut into rounds; in every round each worker has one
micro-batch. The cuts are those that make the padded tokens, and a price for every micro-batch, least (dynamic programming over the cuts):

    lengths 3 3 3 9 9 | 40 41      rather than      3 3 3 | 9 9 40 41

An encoder-decoder's prompts and targets are padded each for itself, so no one order is best: the best of several is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipelines.students.decoding import Family
from pipelines.train.data.lengths import Ints, Lengths, padded_tokens, part_of, ranges


@dataclass(frozen=True)
class Cost:
    """What a micro-batch costs beside its tokens, in tokens."""

    least: int
    """A smaller one takes as long as one of so many tokens."""
    price: int
    """Of every one: the gradients of all weights are added up once more."""


COSTS = {False: Cost(least=128, price=64), True: Cost(least=2048, price=128)}
"""On a CPU, and on a GPU, which waits to be told what to do. Adding up gradients took a CPU as long as 110 tokens of a T5 of 25M weights,
half of them embeddings, and as long as about 30 of the quickstart's student, which works longer on a token; the rest are guesses."""
_LEAST_GROUPS = 256
"""Where there are more units, some that stand together are cut from each other only when they do not fit together."""
_TARGET_BUCKETS = (1.25, 2.0, math.inf)
"""Targets within such a factor count as of like length, when prompts are put in order."""


def deal(lengths: Lengths, examples: Ints, workers: int, limit: int, family: Family, cost: Cost) -> list[list[Ints]]:
    """The sequences of one step by worker and micro-batch: [worker][micro-batch] -> sequences.

    Micro-batches are of like lengths and at most `limit` padded tokens each. Every worker gets the same number of them, and in each
    round about the same work; where there are too few sequences, some are empty.

    Args:
        cost: what is to be least, beside the padded tokens.

    Raises:
        ValueError: a sequence alone, or an example's whose sequences stay together, is above the limit.
    """
    first, end = lengths.units(examples)
    if not len(first):
        return [[first] for _ in range(workers)]
    rows, longest, target = lengths.widths(first, end, family)
    if int((rows * longest).max()) > limit:
        raise ValueError(f"{int((rows * longest).max())} padded tokens that stay together are above the limit {limit}")
    prompt, target = (longest - target, target) if family == "encoder-decoder" else (longest, 0 * target)
    room = limit * workers
    while True:
        found = (
            (*_cuts(rows[order], prompt[order], target[order], workers, room, cost), order)
            for order in _orders(first, prompt, target)
        )
        _, cuts, order = min(found, key=lambda one: one[0])
        rounds = [_parts(lengths, first[order][a:b], end[order][a:b], workers) for a, b in pairwise(cuts)]
        if all(padded_tokens(lengths, part, family) <= limit for parts in rounds for part in parts):
            break
        room = room * 9 // 10  # the workers' parts of a round are of equal work, not of equal size with their padding
    dealt: list[list[Ints]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for parts in rounds:
        # The most work of a round goes to who has had the least so far.
        parts = sorted(parts, key=lambda part: -int(lengths.real[part].sum()))
        for worker, part in zip(sorted(range(workers), key=lambda w: loads[w]), parts, strict=True):
            dealt[worker].append(part)
            loads[worker] += int(lengths.real[part].sum())
    return dealt


def _orders(first: Ints, prompt: Ints, target: Ints) -> Iterator[Ints]:
    """Orders of the units in which those of like lengths stand together, the longest first."""
    for factor in _TARGET_BUCKETS if target.any() else (math.inf,):
        buckets = np.floor(np.log(np.maximum(target, 1)) / math.log(factor)) if factor < math.inf else 0 * target
        yield np.lexsort((first, -target, -prompt, -buckets))


def _cuts(rows: Ints, prompt: Ints, target: Ints, workers: int, room: int, cost: Cost) -> tuple[float, list[int]]:
    """(cost, cuts): where the row of units is cut into rounds, 0 and the end included. A round is at most `room`, or one unit.

    A round costs its rows x (its longest prompt + its longest target), and a price for each worker. The first is at least what each
    worker takes for a small one, and for each worker the largest unit, with which the others wait for the one that has it.
    """
    groups = min(len(rows), max(_LEAST_GROUPS, 4 * int((rows * (prompt + target)).sum()) // max(room, 1)))
    edges = np.unique(np.linspace(0, len(rows), groups + 1).astype(np.int64))
    largest = np.maximum.reduceat(rows * (prompt + target), edges[:-1]) * workers
    rows, prompt, target = (
        np.add.reduceat(rows, edges[:-1]), np.maximum.reduceat(prompt, edges[:-1]), np.maximum.reduceat(target, edges[:-1])
    )  # fmt: skip
    count = len(rows)
    best, came_from = np.full(count + 1, np.inf), np.zeros(count + 1, dtype=np.int64)
    best[0] = 0.0
    for start in range(count):
        widths = np.maximum.accumulate(prompt[start:]) + np.maximum.accumulate(target[start:])
        costs = np.cumsum(rows[start:]) * widths
        fit = max(int(np.searchsorted(costs, room, side="right")), 1)
        alone = np.maximum.accumulate(largest[start : start + fit])
        reached = best[start] + np.maximum(np.maximum(costs[:fit], alone), workers * cost.least) + workers * cost.price
        better = np.flatnonzero(reached < best[start + 1 : start + 1 + fit])
        best[start + 1 + better] = reached[better]
        came_from[start + 1 + better] = start
    cuts = [count]
    while cuts[-1]:
        cuts.append(int(came_from[cuts[-1]]))
    return float(best[count]), [int(edges[cut]) for cut in reversed(cuts)]


def _parts(lengths: Lengths, first: Ints, end: Ints, workers: int) -> list[Ints]:
    """One round's sequences for each worker: consecutive ones, about as many tokens each."""
    worker = part_of(lengths.sums(first, end), workers)
    edges = np.searchsorted(worker, np.arange(workers + 1))
    return [ranges(first[a:b], end[a:b]) for a, b in pairwise(edges)]
