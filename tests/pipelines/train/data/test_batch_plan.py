from collections import Counter
from typing import Any

import numpy as np
import pytest

from pipelines.train.data import batch_plan
from pipelines.train.data.batch_plan import BatchPlan, epoch_steps
from pipelines.train.data.lengths import Lengths, padded_tokens
from pipelines.train.data.micro_batching import Cost, _sort_orders, pack_micro_batches, plan_micro_batches
from pipelines.train.data.rotation import EVERY_EPOCH, Rotation
from pipelines.train.data.step_counts import steps_of_an_epoch
from tests.support.tiny_runs import lengths_of_pairs, random_lengths

FAMILIES = ["decoder-only", "encoder-decoder"]
CHEAP, EXPENSIVE = Cost(8, 1), Cost(40, 20)
"""Micro-batches, compared with the tokens of these tests."""


def make_plan(lengths: Lengths, examples: Any, **changed: Any) -> BatchPlan:
    sizes = {"workers": 2, "tokens_per_batch": 300, "tokens_per_micro_batch": 150, "epochs": 2.0}
    return BatchPlan(lengths, examples, **{"family": "decoder-only", "seed": 0, "cost": CHEAP, **sizes, **changed})


def micro_batches(
    lengths: Lengths, examples: int, workers: int, limit: int, family: Any = "decoder-only", cost: Cost = CHEAP
) -> list[list[list[int]]]:
    planned = plan_micro_batches(lengths, np.arange(examples), workers, limit, family, cost)
    return [[batch.tolist() for batch in worker] for worker in planned]


def flat(planned: list[list[list[int]]]) -> list[int]:
    return sorted(sequence for worker in planned for batch in worker for sequence in batch)


def test_a_plan_by_hand() -> None:
    # Example 0: label 4 + 2, rationale 4 + 6. Example 1: label 3 + 1, no rationale. Example 2: label 5 + 3, rationale 5 + 3.
    lengths = lengths_of_pairs([4, 4, 3, 3, 5, 5], [2, 6, 1, 0, 3, 3])
    assert (lengths.starts.tolist(), lengths.per_example.tolist()) == ([0, 2, 3, 5], [16, 4, 16])
    # Sequences by length: 1 (10 tokens), 3 and 4 (8), 0 (6), 2 (4). One round if micro-batches are expensive.
    assert micro_batches(lengths, 3, 2, 30, cost=EXPENSIVE) == [[[1, 3]], [[4, 0, 2]]]
    # The second has 3 x 8 = 24 tokens with padding. If micro-batches are cheap, or 20 is the limit, there are two rounds: worker 1,
    # with 8 tokens in the first, gets the 10 of the second.
    for limit in (30, 20):
        assert micro_batches(lengths, 3, 2, limit) == [[[1], [4]], [[3], [0, 2]]]
    plan = make_plan(lengths, np.arange(3), epochs=1, tokens_per_batch=36, tokens_per_micro_batch=30)
    assert plan.padding_share(plan.steps) == pytest.approx(1 - 36 / 38), "10 + 8 + 8 + 2 x 6 tokens, 36 of them real"
    few = micro_batches(lengths_of_pairs([4, 4], [2, 2]), 1, 4, 10)
    assert sorted(few) == [[[]], [[]], [[0]], [[1]]], "without enough sequences some micro-batches are empty"


@pytest.mark.parametrize("workers", [1, 3])
def test_grouped_sequences_share_a_micro_batch(workers: int) -> None:
    lengths = random_lengths(50, grouped=True)
    planned = micro_batches(lengths, 50, workers, 200)
    assert flat(planned) == list(range(len(lengths.real)))
    for batch in (batch for worker in planned for batch in worker):
        examples = np.searchsorted(lengths.starts, batch, side="right") - 1
        assert sorted(lengths.of(np.unique(examples)).tolist()) == sorted(batch)
        assert padded_tokens(lengths, np.array(batch), "decoder-only") <= 200


def test_padding_of_long_trainings_is_sampled_and_small() -> None:
    lengths = random_lengths(400)
    plan = make_plan(lengths, np.arange(400), epochs=30.0, tokens_per_batch=600, tokens_per_micro_batch=300)
    assert 0.0 < plan.padding_share(plan.steps) < 0.2
    large = make_plan(random_lengths(500), np.arange(500), epochs=1, tokens_per_batch=4000, tokens_per_micro_batch=1000)
    assert large.padding_share(large.steps) < 0.05


@pytest.mark.parametrize("seed", range(5))
def test_each_epoch_has_every_example_once(seed: int) -> None:
    lengths, examples = random_lengths(200, seed), np.arange(3, 180)
    for epoch in range(3):
        count = steps_of_an_epoch(int(lengths.per_example[examples].sum()), 400)
        steps = epoch_steps(lengths, examples, count, seed, epoch)
        found, other_seed, other_epoch = (
            np.concatenate(epoch_steps(lengths, examples, count, *place)).tolist()
            for place in ((seed, epoch), (seed + 1, epoch), (seed, epoch + 1))
        )
        assert sorted(found) == examples.tolist() != found
        assert found not in (other_seed, other_epoch)
        sizes = [int(lengths.per_example[step].sum()) for step in steps]
        assert len(steps) == -(-sum(sizes) // 400)
        assert max(sizes) <= 1.15 * np.mean(sizes)
        assert min(sizes) >= 0.85 * np.mean(sizes), "steps are of about equal size"


def test_an_epoch_has_one_turn_of_each_example() -> None:
    rng, examples = np.random.default_rng(0), np.arange(5, 60)
    turns = [[EVERY_EPOCH, *range(n)] if n > 1 else [EVERY_EPOCH] * (n + 1) for n in rng.choice([0, 1, 2, 4], 60)]
    sizes = [len(turn) for turn in turns]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    lengths = Lengths(rng.integers(5, 30, sum(sizes)), rng.integers(1, 30, sum(sizes)), starts)
    rotation = Rotation(lengths, np.concatenate(turns))

    def made(seed: int = 0, workers: int = 2) -> BatchPlan:
        settings = {"tokens_per_batch": 600, "tokens_per_micro_batch": 300, "epochs": 4, "rotation": rotation}
        return make_plan(lengths, examples, seed=seed, workers=workers, **settings)

    def epochs(plan: BatchPlan) -> list[list[int]]:
        steps = [range(e * plan.steps_per_epoch, (e + 1) * plan.steps_per_epoch) for e in range(4)]
        return [sorted(sequence for step in some for sequence in flat(plan.step(step))) for some in steps]

    plan, every = made(), np.flatnonzero(rotation.turn == EVERY_EPOCH)
    found = epochs(plan)
    seen = Counter(sequence for epoch in found for sequence in epoch)
    for example in examples:
        mine = range(starts[example], starts[example + 1])
        for epoch in found:
            assert sum(s in epoch for s in mine if rotation.turn[s] >= 0) == (sizes[example] > 2)
        for sequence in mine:
            assert seen[sequence] == (4 if sequence in every else 4 / (sizes[example] - 1)), "each turn equally often"
    assert found == epochs(made(workers=1)) != epochs(made(seed=1))
    assert len({tuple(epoch) for epoch in found}) == 4, "another rationale in each epoch"
    real = sum(int(lengths.real[epoch].sum()) for epoch in found)
    assert plan.tokens() == real == pytest.approx(4 * rotation.mean_tokens(examples))
    assert plan.tokens(3, 17) == sum(int(lengths.real[flat(plan.step(step))].sum()) for step in range(3, 17))
    sizes_of = [np.bincount(np.searchsorted(starts, epoch, side="right") - 1, lengths.real[epoch]) for epoch in found]
    assert rotation.largest(examples) == max(sizes.max() for sizes in sizes_of)
    resumed = made()
    assert [flat(resumed.step(step)) for step in (17, 3)] == [flat(plan.step(step)) for step in (17, 3)]


@pytest.mark.parametrize("family", FAMILIES)
def test_any_number_of_workers_has_the_same_steps(family: str) -> None:
    lengths, examples = random_lengths(80), np.arange(80)
    plans = {workers: make_plan(lengths, examples, workers=workers, family=family) for workers in (1, 2, 5)}
    for step in range(plans[1].steps):
        expected = sorted(lengths.of(plans[1].step_examples(step)).tolist())
        for workers, plan in plans.items():
            planned = [[batch.tolist() for batch in worker] for worker in plan.step(step)]
            assert (len(planned), flat(planned)) == (workers, expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize(("examples", "limit"), [(60, 60), (60, 150), (61, 60), (61, 150), (62, 1000), (800, 60)])
def test_micro_batches_fit_and_are_as_many_on_each_worker(family: Any, workers: int, examples: int, limit: int) -> None:
    lengths = random_lengths(examples, seed=examples)
    planned = micro_batches(lengths, examples, workers, limit, family)
    assert (flat(planned), len({len(worker) for worker in planned})) == (list(range(len(lengths.real))), 1)
    assert max(padded_tokens(lengths, np.array(b, int), family) for worker in planned for b in worker) <= limit


@pytest.mark.parametrize("packed", [False, True])
def test_a_large_validation_split_is_planned_in_chunks(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    monkeypatch.setattr(batch_plan, "_CHUNK_EXAMPLES", 16)
    lengths, examples = random_lengths(90, seed=90), np.arange(40, 90)
    plan = make_plan(lengths, np.arange(40), packed=packed)
    planned = plan.many_micro_batches(examples)
    found = flat([[batch.tolist() for batch in worker] for worker in planned])
    assert (found, len({len(worker) for worker in planned})) == (lengths.of(examples).tolist(), 1)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_packed_micro_batches_are_few_and_of_equal_size(workers: int, grouped: bool) -> None:
    lengths = random_lengths(90, grouped=grouped)
    packed = pack_micro_batches(lengths, np.arange(90), workers, 400)
    assert flat([[batch.tolist() for batch in worker] for worker in packed]) == list(range(len(lengths.real)))
    sizes = [[int(lengths.real[batch].sum()) for batch in worker] for worker in packed]
    (rounds,) = {len(worker) for worker in sizes}
    assert rounds <= int(lengths.real.sum()) / (400 * workers) + 1
    assert 0.9 * max(map(max, sizes)) <= min(map(min, sizes)) <= max(map(max, sizes)) <= 440
    plan = make_plan(lengths, np.arange(90), packed=True, tokens_per_batch=800, tokens_per_micro_batch=400)
    assert ({len(plan.step(step)[0]) for step in range(plan.steps)}, plan.padding_share(plan.steps)) == ({1}, 0.0)


def test_epochs_may_be_a_fraction() -> None:
    lengths, examples = random_lengths(100), np.arange(100)
    one = make_plan(lengths, examples, epochs=1)
    assert make_plan(lengths, examples, epochs=0.5).steps == round(one.steps / 2)
    assert make_plan(lengths, examples, epochs=1e-6).steps == 1
    long = make_plan(lengths, examples, epochs=2.25)
    assert long.steps > 2 * one.steps - 2
    assert long.tokens() == sum(int(lengths.per_example[long.step_examples(s)].sum()) for s in range(long.steps))
    assert long.tokens(0, 3) + long.tokens(3) == long.tokens()


def test_steps_repeat_epochs_until_they_are_reached() -> None:
    lengths, examples = random_lengths(100), np.arange(100)
    one = make_plan(lengths, examples, epochs=1)
    for steps in (1, one.steps, 3 * one.steps + 2):
        plan = make_plan(lengths, examples, epochs=None, steps=steps)
        assert plan.steps == steps
    by_epochs = make_plan(lengths, examples, epochs=5)
    for s in range(steps):
        assert plan.step_examples(s).tolist() == by_epochs.step_examples(s).tolist()
    assert plan.examples_seen(steps) == sum(len(plan.step_examples(s)) for s in range(steps)) > 200


def test_what_does_not_fit_a_micro_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="6 padded tokens that stay together are above the limit 5"):
        micro_batches(lengths_of_pairs([4, 4], [2, 0]), 1, 1, 5)
    pair = lengths_of_pairs([4, 4], [2, 1], grouped=True)
    with pytest.raises(ValueError, match="12 padded tokens"):
        micro_batches(pair, 1, 1, 11)
    assert micro_batches(pair, 1, 1, 12) == [[[0, 1]]]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("family", FAMILIES)
def test_cuts_are_the_cheapest_of_all(seed: int, family: Any) -> None:
    """Compared with every way of cutting a few sequences, in each order that is tried."""
    rng = np.random.default_rng(seed)
    lengths = lengths_of_pairs(rng.integers(1, 20, 12).tolist(), rng.integers(1, 9, 12).tolist())
    examples, price = np.arange(6), Cost(16, 3)

    def cost(parts: Any) -> int:
        sizes = (padded_tokens(lengths, part, family) for part in parts)
        return sum(max(size, price.min_tokens) + price.overhead_tokens for size in sizes)

    sequences = lengths.of(examples)
    prompt, target = lengths.prompt[sequences], lengths.target[sequences]
    if family == "decoder-only":
        prompt, target = prompt + target, 0 * target
    cheapest = np.inf
    for order in _sort_orders(sequences, prompt, target):
        row = sequences[order]
        for chosen in range(2 ** (len(row) - 1)):
            parts = np.split(row, [i + 1 for i in range(len(row) - 1) if chosen >> i & 1])
            if all(padded_tokens(lengths, part, family) <= 120 for part in parts):
                cheapest = min(cheapest, cost(parts))
    (planned,) = plan_micro_batches(lengths, examples, 1, 120, family, price)
    assert cost(planned) == pytest.approx(cheapest)
