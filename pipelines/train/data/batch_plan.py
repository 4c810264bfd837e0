"""The batch plan: which sequences form each optimizer step, by worker and micro-batch. Pure functions of numpy.

In: the lengths of all sequences. Out: `BatchPlan`, equal for the same seed on every worker and after every restart:

    plan.step(7) -> [[[0, 8, 3], [5]],     worker 0: two micro-batches of sequences
                     [[1, 2], [9, 4]]]     worker 1: as many; a micro-batch may be empty

The examples of a step do not depend on the number of workers, so that any number learns with the same losses. All sequences of an example
are in one step. Sizes are in tokens: unpadded for a step, padded for a micro-batch. A change of the steps raises `identity.BATCH_PLAN`.

Every step has short and long examples in the proportion of the whole corpus, and every epoch has the same number of steps. The loss of a
step is divided by the counts of a mean step (`worker.py`), so that over an epoch every target token of a term has the same weight.

With a rotation of rationales an epoch has one of them for each example (`rotation.py`). Its size is then the mean over the rotation.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pipelines.students.decoding import Family
from pipelines.train.data.lengths import Ints, Lengths, padded_tokens
from pipelines.train.data.micro_batching import Cost, pack_micro_batches, plan_micro_batches
from pipelines.train.data.rotation import Rotation
from pipelines.train.data.step_counts import planned_steps, steps_of_an_epoch

_BANDS = 8
"""Bands of lengths that every step draws from. More bands mix better and pad more."""
_LENGTH_NOISE = 1.05
"""Random factor on lengths before sorting. Without it a small corpus would repeat the same groups in every epoch."""
_SAMPLED_STEPS = 200
_CHUNK_EXAMPLES = 4096


def epoch_steps(lengths: Lengths, examples: Ints, steps: int, seed: int, epoch: int) -> list[Ints]:
    """The examples of each of the steps of one epoch: each example once, about equally many tokens per step.

    The examples are cut by length into bands of equal tokens, and a band by prompt length into one group for each step. A step is one
    group of every band: mixed, but made of groups that fill a micro-batch with little padding. The longest bands come first. The
    largest group of a band goes to the step that has the fewest tokens so far.
    """
    rng = np.random.default_rng([seed, epoch])
    shuffled = examples[rng.permutation(len(examples))]
    tokens, prompts = lengths.per_example[shuffled], lengths.prompt[lengths.starts[shuffled]]
    noisy, noisy_prompts = (sizes * _LENGTH_NOISE ** rng.uniform(-1.0, 1.0, len(sizes)) for sizes in (tokens, prompts))
    by_length = np.argsort(-noisy, kind="stable")
    ends = np.cumsum(tokens[by_length])
    step, filled = np.zeros(len(shuffled), dtype=np.int64), np.zeros(steps, dtype=np.int64)
    for band in np.split(by_length, np.searchsorted(ends, ends[-1:] * np.arange(1, _BANDS) / _BANDS)):
        members = band[np.argsort(noisy_prompts[band], kind="stable")]
        group = np.arange(len(members)) * steps // max(len(members), 1)
        sizes = np.bincount(group, weights=tokens[members], minlength=steps).astype(np.int64)
        # In random order before sorting, so that equal sizes are dealt at random.
        largest, emptiest = rng.permutation(steps), rng.permutation(steps)
        largest = largest[np.argsort(-sizes[largest], kind="stable")]
        emptiest = emptiest[np.argsort(filled[emptiest], kind="stable")]
        step_of_group = np.empty(steps, dtype=np.int64)
        step_of_group[largest] = emptiest
        step[members] = step_of_group[group]
        filled[emptiest] += sizes[largest]
    order = np.argsort(step, kind="stable")
    return np.split(shuffled[order], np.cumsum(np.bincount(step, minlength=steps))[:-1])


class BatchPlan:
    """All steps of a training: of so many `epochs`, which may be a fraction, or epochs until `steps` are reached."""

    def __init__(
        self, lengths: Lengths, examples: Ints, *, family: Family, workers: int, tokens_per_batch: int,
        tokens_per_micro_batch: int, seed: int, cost: Cost, epochs: float | None = None, steps: int | None = None,
        rotation: Rotation | None = None, packed: bool = False,
    ) -> None:  # fmt: skip
        """
        Args:
            lengths: of all sequences, in every epoch or not.
            rotation: None: every epoch has all sequences.
            packed: the sequences of a micro-batch are read as one row without padding.
        """
        self.packed = packed
        self.lengths, self.examples, self.family, self.workers = lengths, examples, family, workers
        self._tokens_per_micro_batch = tokens_per_micro_batch
        self._seed, self._cost, self._rotation = seed, cost, rotation
        self._epoch, self._view = lru_cache(maxsize=2)(self._make_epoch), lru_cache(maxsize=2)(self._make_view)
        self._epoch_tokens = lru_cache(maxsize=None)(self._sum_epoch)
        tokens = round(rotation.mean_tokens(examples)) if rotation else int(lengths.per_example[examples].sum())
        self.steps_per_epoch = steps_of_an_epoch(tokens, tokens_per_batch)
        self.steps = planned_steps(tokens, tokens_per_batch, epochs, steps)
        """Optimizer steps of the whole training."""

    def step_examples(self, step: int) -> Ints:
        """The examples of a step, counted from 0 over all epochs."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[within]

    def step(self, step: int) -> list[list[Ints]]:
        """[worker][micro-batch] -> sequences."""
        return self.micro_batches(self.step_examples(step), step // self.steps_per_epoch)

    def micro_batches(self, examples: Ints, epoch: int = 0) -> list[list[Ints]]:
        """Any examples, with their sequences of an epoch, split like those of a step."""
        limit, (lengths, numbers) = self._tokens_per_micro_batch, self._view(epoch)
        if self.packed:
            parts = pack_micro_batches(lengths, examples, self.workers, limit)
        else:
            parts = plan_micro_batches(lengths, examples, self.workers, limit, self.family, self._cost)
        return parts if numbers is None else [[numbers[part] for part in worker] for worker in parts]

    def many_micro_batches(self, examples: Ints) -> list[list[Ints]]:
        """As `micro_batches` for any number of examples, such as a validation split: in chunks of like lengths.

        The time for one plan grows with the square of its size.
        """
        by_length = examples[np.argsort(self.lengths.per_example[examples], kind="stable")]
        chunks = np.array_split(by_length, -(-len(by_length) // _CHUNK_EXAMPLES) or 1)
        parts = [self.micro_batches(np.sort(chunk)) for chunk in chunks]
        return [[part for worker in parts for part in worker[rank]] for rank in range(self.workers)]

    def tokens(self, first: int = 0, last: int | None = None) -> int:
        """Unpadded tokens of the steps from `first` to before `last`."""
        return self._tokens_before(self.steps if last is None else last) - self._tokens_before(first)

    def examples_seen(self, last: int) -> int:
        """Examples of the steps before `last`. An example counts once for each epoch that has it."""
        epochs, within = divmod(last, self.steps_per_epoch)
        begun = sum(map(len, self._epoch(epochs)[:within])) if within else 0
        return epochs * len(self.examples) + begun

    def padding_share(self, last: int) -> float:
        """Padding as a share of the tokens in the micro-batches of the steps before `last`. Of many steps, 200 are sampled evenly."""
        if self.packed:
            return 0.0
        steps = np.unique(np.linspace(0, last - 1, min(last, _SAMPLED_STEPS)).astype(np.int64))
        parts = [part for step in steps.tolist() for worker in self.step(step) for part in worker]
        padded = sum(padded_tokens(self.lengths, part, self.family) for part in parts)
        return 1.0 - sum(int(self.lengths.real[part].sum()) for part in parts) / padded if padded else 0.0

    def _tokens_before(self, step: int) -> int:
        """Unpadded tokens of all steps before `step`."""
        epochs, within = divmod(step, self.steps_per_epoch)
        begun = np.concatenate(self._epoch(epochs)[:within]) if within else self.examples[:0]
        whole = sum(map(self._epoch_tokens, range(epochs))) if self._rotation else epochs * self._epoch_tokens(0)
        return whole + int(self._view(epochs)[0].per_example[begun].sum())

    def _sum_epoch(self, epoch: int) -> int:
        return int(self._make_view(epoch)[0].per_example[self.examples].sum())

    def _make_epoch(self, epoch: int) -> list[Ints]:
        return epoch_steps(self._view(epoch)[0], self.examples, self.steps_per_epoch, self._seed, epoch)

    def _make_view(self, epoch: int) -> tuple[Lengths, Ints | None]:
        """The lengths of an epoch's sequences, and their numbers; None if these are all sequences."""
        return self._rotation.epoch(epoch, self._seed) if self._rotation else (self.lengths, None)
