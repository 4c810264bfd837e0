"""Splits one step's sequences into micro-batches for every worker, with little padding. Pure functions of numpy.

Sequences are sorted by length and cut into rounds. In each round every worker has one micro-batch. Dynamic programming finds the cuts with
the lowest cost, which is the padded tokens plus a price per micro-batch:

    lengths 3 3 3 9 9 | 40 41      rather than      3 3 3 | 9 9 40 41

An encoder-decoder pads prompts and targets separately, so that no single order is best. Several are tried.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipelines.students.decoding import Family
from pipelines.train.data.lengths import Ints, Lengths, padded_tokens, part_of, ranges


@dataclass(frozen=True)
class Cost:
    """Costs of a micro-batch besides its tokens, in tokens."""

    min_tokens: int
    """A smaller one takes as long as one of this size."""
    overhead_tokens: int
    """For each: the gradients of all weights are accumulated once more."""


COSTS = {False: Cost(min_tokens=128, overhead_tokens=64), True: Cost(min_tokens=12_288, overhead_tokens=512)}
"""By `gpu`. On a CPU, accumulating gradients took as long as 110 tokens for a T5 of 25M weights, half of them embeddings. For the
quickstart's student it took as long as 30 tokens. On a GPU launching the kernels of a micro-batch takes about 25 ms, an estimate. An H100
at 40% of its peak computes 12,000 tokens of SmolLM2-135M in that time."""
_MAX_CUTTABLE = 256
"""Above this number of units, neighbours are cut apart only if they do not fit together."""
_PACKED_EXCESS = 1.1
_TARGET_BUCKETS = (1.25, 2.0, math.inf)
"""Factors within which targets count as of equal length when prompts are sorted."""


def plan_micro_batches(
    lengths: Lengths, examples: Ints, workers: int, limit: int, family: Family, cost: Cost
) -> list[list[Ints]]:
    """The sequences of one step: [worker][micro-batch] -> sequences.

    A micro-batch has at most `limit` padded tokens. All workers get the same number of micro-batches, and about the same work in each
    round. With too few sequences, some micro-batches are empty.

    Args:
        cost: minimised together with the padded tokens.

    Raises:
        ValueError: a sequence, or the sequences of an example that must stay together, exceed the limit.
    """
    first, end = lengths.units(examples)
    if not len(first):
        return [[first] for _ in range(workers)]
    rows, longest, target = lengths.widths(first, end, family)
    _check_limit(int((rows * longest).max()), limit)
    prompt, target = (longest - target, target) if family == "encoder-decoder" else (longest, 0 * target)
    room = limit * workers
    while True:
        candidates = (
            (*_cheapest_cuts(rows[order], prompt[order], target[order], workers, room, cost), order)
            for order in _sort_orders(first, prompt, target)
        )
        _, cuts, order = min(candidates, key=lambda candidate: candidate[0])
        rounds = [_split_round(lengths, first[order][a:b], end[order][a:b], workers) for a, b in pairwise(cuts)]
        if all(padded_tokens(lengths, part, family) <= limit for parts in rounds for part in parts):
            return _assign(lengths, rounds, workers)
        room = room * 9 // 10  # the parts of a round have equal work, but not equal size with padding


def pack_micro_batches(lengths: Lengths, examples: Ints, workers: int, limit: int) -> list[list[Ints]]:
    """As `plan_micro_batches` for packed sequences: as few micro-batches as have room, of about equally many tokens, without padding.

    A micro-batch may exceed the limit by a tenth, since steps of equal mean size differ by some percent. The longest sequence comes first,
    and each goes to the emptiest micro-batch. So each has short and long ones, with targets in proportion, and all workers the same work.
    """
    first, end = lengths.units(examples)
    if not len(first):
        return [[first] for _ in range(workers)]
    sizes = lengths.sums(first, end)
    _check_limit(int(sizes.max()), limit)
    room = int(_PACKED_EXCESS * limit)
    order, rounds = np.lexsort((first, -sizes)), -(-int(sizes.sum()) // (room * workers))
    while True:
        part, largest = _dealt(sizes[order].tolist(), rounds * workers)
        if largest <= room:
            break
        rounds += 1 + rounds // 100
    by_part = np.argsort(part, kind="stable")
    members = np.split(order[by_part], np.searchsorted(part[by_part], np.arange(1, rounds * workers)))
    packed = [ranges(first[units], end[units]) for units in members]
    return [packed[worker::workers] for worker in range(workers)]


def _dealt(sizes: Sequence[int], parts: int) -> tuple[Ints, int]:
    """Each size, from the largest on, given to the part with the smallest sum: the part of each, and the largest sum."""
    sums, found = [(0, part) for part in range(parts)], np.empty(len(sizes), dtype=np.int64)
    for number, size in enumerate(sizes):
        total, found[number] = sums[0]
        heapq.heapreplace(sums, (total + size, int(found[number])))
    return found, max(total for total, _ in sums)


def _check_limit(largest: int, limit: int) -> None:
    if largest > limit:
        raise ValueError(f"{largest} padded tokens that stay together are above the limit {limit}")


def _assign(lengths: Lengths, rounds: list[list[Ints]], workers: int) -> list[list[Ints]]:
    """Give the largest part of each round to the worker with the least work so far."""
    assigned: list[list[Ints]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for parts in rounds:
        parts = sorted(parts, key=lambda part: -int(lengths.real[part].sum()))
        for worker, part in zip(sorted(range(workers), key=lambda w: loads[w]), parts, strict=True):
            assigned[worker].append(part)
            loads[worker] += int(lengths.real[part].sum())
    return assigned


def _sort_orders(first: Ints, prompt: Ints, target: Ints) -> Iterator[Ints]:
    """Orders of the units by length, the longest first."""
    for factor in _TARGET_BUCKETS if target.any() else (math.inf,):
        buckets = np.floor(np.log(np.maximum(target, 1)) / math.log(factor)) if factor < math.inf else 0 * target
        yield np.lexsort((first, -target, -prompt, -buckets))


def _cheapest_cuts(
    rows: Ints, prompt: Ints, target: Ints, workers: int, room: int, cost: Cost
) -> tuple[float, list[int]]:
    """(cost, cuts): the positions that cut sorted units into rounds, with 0 and the end. A round is at most `room`, or one unit.

    A round costs its rows x (its longest prompt + its longest target), plus overhead for each worker. The first term has two lower bounds
    for each worker: the minimum of a micro-batch, and the round's largest unit, because the others wait for the worker that has it.
    """
    groups = min(len(rows), max(_MAX_CUTTABLE, 4 * int((rows * (prompt + target)).sum()) // max(room, 1)))
    edges = np.unique(np.linspace(0, len(rows), groups + 1).astype(np.int64))
    largest = np.maximum.reduceat(rows * (prompt + target), edges[:-1]) * workers
    rows = np.add.reduceat(rows, edges[:-1])
    prompt, target = np.maximum.reduceat(prompt, edges[:-1]), np.maximum.reduceat(target, edges[:-1])
    count = len(rows)
    best, came_from = np.full(count + 1, np.inf), np.zeros(count + 1, dtype=np.int64)
    best[0] = 0.0
    for start in range(count):
        widths = np.maximum.accumulate(prompt[start:]) + np.maximum.accumulate(target[start:])
        costs = np.cumsum(rows[start:]) * widths
        fit = max(int(np.searchsorted(costs, room, side="right")), 1)
        largest_unit = np.maximum.accumulate(largest[start : start + fit])
        bounded = np.maximum(np.maximum(costs[:fit], largest_unit), workers * cost.min_tokens)
        reached = best[start] + bounded + workers * cost.overhead_tokens
        better = np.flatnonzero(reached < best[start + 1 : start + 1 + fit])
        best[start + 1 + better] = reached[better]
        came_from[start + 1 + better] = start
    cuts = [count]
    while cuts[-1]:
        cuts.append(int(came_from[cuts[-1]]))
    return float(best[count]), [int(edges[cut]) for cut in reversed(cuts)]


def _split_round(lengths: Lengths, first: Ints, end: Ints, workers: int) -> list[Ints]:
    """One round's sequences for each worker: consecutive, and about the same number of tokens."""
    worker = part_of(lengths.sums(first, end), workers)
    edges = np.searchsorted(worker, np.arange(workers + 1))
    return [ranges(first[a:b], end[a:b]) for a, b in pairwise(edges)]
