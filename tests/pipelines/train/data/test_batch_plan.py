"""The batch plan: every example once, within its limits, the same for every number of workers."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.train.data.batch_plan import Plan, epoch_steps, even_parts
from pipelines.train.data.lengths import padded_tokens
from pipelines.train.data.micro_batching import Cost, _orders, deal
from tests.support.tiny_runs import lengths_of_pairs, random_lengths

FAMILIES = ["decoder-only", "encoder-decoder"]
CHEAP, DEAR = Cost(8, 1), Cost(40, 20)
"""Of micro-batches, against the tokens of these tests."""


def make_plan(
    lengths, examples, *, workers=2, epochs=2.0, batch=300, micro=150, seed=0, family="decoder-only", cost=CHEAP
):
    return Plan(
        lengths, examples, family=family, workers=workers, epochs=epochs, tokens_per_batch=batch,
        tokens_per_micro_batch=micro, seed=seed, cost=cost,
    )  # fmt: skip


def test_a_plan_by_hand():
    # Example 0: label 4 + 2, rationale 4 + 6. Example 1: label 3 + 1, no rationale. Example 2: label 5 + 3, rationale 5 + 3.
    lengths = lengths_of_pairs([4, 4, 3, 3, 5, 5], [2, 6, 1, 0, 3, 3])
    assert lengths.starts.tolist() == [0, 2, 3, 5]
    assert lengths.real.tolist() == [6, 10, 4, 8, 8]
    assert lengths.per_example.tolist() == [16, 4, 16]
    assert lengths.of(np.array([2, 0])).tolist() == [3, 4, 0, 1]
    # Sequences by length: 1 (10 tokens), 3 and 4 (8), 0 (6), 2 (4). Where small micro-batches are not worth their while, one each.
    dealt = deal(lengths, np.array([0, 1, 2]), 2, 30, "decoder-only", DEAR)
    assert [[m.tolist() for m in worker] for worker in dealt] == [[[1, 3]], [[4, 0, 2]]]
    # With its padding the second holds 3 x 8 = 24 tokens. Where small ones are, or 20 is the limit, both take two: worker 1, with
    # 8 tokens in the first round, the 10 of the second.
    for limit in (30, 20):
        dealt = deal(lengths, np.array([0, 1, 2]), 2, limit, "decoder-only", CHEAP)
        assert [[m.tolist() for m in worker] for worker in dealt] == [[[1], [4]], [[3], [0, 2]]]


def test_what_belongs_together_shares_a_micro_batch():
    lengths = random_lengths(50, together=True)
    for workers in (1, 3):
        dealt = deal(lengths, np.arange(50), workers, 200, "decoder-only", CHEAP)
        micros = [m for worker in dealt for m in worker]
        assert sorted(s for m in micros for s in m.tolist()) == list(range(len(lengths.real)))
        for micro in micros:
            examples = np.searchsorted(lengths.starts, micro, side="right") - 1
            assert sorted(lengths.of(np.unique(examples)).tolist()) == sorted(micro.tolist())
            assert padded_tokens(lengths, micro, "decoder-only") <= 200


def test_padding_is_counted_against_all_tokens_of_the_micro_batches():
    lengths = lengths_of_pairs([4, 4, 3, 3, 5, 5], [2, 6, 1, 0, 3, 3])
    plan = make_plan(lengths, np.array([0, 1, 2]), epochs=1, batch=36, micro=30)
    # The plan by hand above: 10, 8, 8 and 2 x 6 tokens, of which 36 are real.
    assert plan.padding_share(0, plan.steps) == pytest.approx(1 - 36 / 38)
    assert plan.padding_share(0, 0) == 0.0


def test_long_trainings_are_sampled_for_their_padding():
    lengths = random_lengths(400)
    plan = make_plan(lengths, np.arange(400), epochs=30.0, batch=600, micro=300)
    assert plan.steps > 400
    assert 0.0 < plan.padding_share(0, plan.steps) < 0.2


@pytest.mark.parametrize("seed", range(5))
def test_every_example_is_in_one_step_of_each_epoch(seed):
    lengths = random_lengths(200, seed)
    examples = np.arange(3, 180)
    for epoch in range(3):
        steps = epoch_steps(lengths, examples, 400, seed, epoch)
        assert sorted(np.concatenate(steps).tolist()) == examples.tolist()
        sizes = [int(lengths.per_example[step].sum()) for step in steps]
        assert max(sizes) <= 400
        assert min(sizes) > 400 / 2, "steps are about equally large"


def test_the_plan_is_the_same_for_the_same_seed_and_another_in_each_epoch():
    lengths, examples = random_lengths(100), np.arange(100)
    first, second = (make_plan(lengths, examples, seed=5) for _ in range(2))
    assert first.steps == second.steps
    for step in range(first.steps):
        assert first.step_examples(step).tolist() == second.step_examples(step).tolist()
    epochs = [epoch_steps(lengths, examples, 300, 5, epoch) for epoch in (0, 1)]
    assert [s.tolist() for s in epochs[0]] != [s.tolist() for s in epochs[1]]
    other = make_plan(lengths, examples, seed=6)
    assert [first.step_examples(s).tolist() for s in range(3)] != [other.step_examples(s).tolist() for s in range(3)]


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_hold_the_same_examples_for_every_number_of_workers(family):
    lengths, examples = random_lengths(80), np.arange(80)
    plans = {workers: make_plan(lengths, examples, workers=workers, family=family) for workers in (1, 2, 5)}
    for step in range(plans[1].steps):
        wanted = sorted(lengths.of(plans[1].step_examples(step)).tolist())
        for workers, plan in plans.items():
            dealt = plan.step(step)
            assert len(dealt) == workers
            assert sorted(s for worker in dealt for micro in worker for s in micro.tolist()) == wanted


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_micro_batches_fit_and_are_as_many_on_every_worker(family, workers, seed):
    lengths = random_lengths(60, seed)
    for limit in (60, 150, 1000):
        dealt = deal(lengths, np.arange(60), workers, limit, family, CHEAP)
        assert len({len(worker) for worker in dealt}) == 1
        assert max(padded_tokens(lengths, m, family) for worker in dealt for m in worker) <= limit


def test_workers_get_about_the_same_work():
    lengths = random_lengths(400)
    for workers in (2, 4):
        dealt = deal(lengths, np.arange(400), workers, 600, "decoder-only", CHEAP)
        loads = [sum(int(lengths.real[m].sum()) for m in worker) for worker in dealt]
        assert max(loads) <= 1.05 * min(loads)


def test_padding_stays_small():
    lengths = random_lengths(500)
    plan = make_plan(lengths, np.arange(500), batch=4000, micro=1000, epochs=1)
    micros = [m for step in range(plan.steps) for worker in plan.step(step) for m in worker]
    padded = sum(padded_tokens(lengths, m, "decoder-only") for m in micros)
    assert plan.tokens() / padded > 0.95


def test_fewer_sequences_than_workers_leaves_empty_micro_batches():
    lengths = lengths_of_pairs([4, 4], [2, 2])
    dealt = deal(lengths, np.array([0]), 4, 10, "decoder-only", CHEAP)
    assert [len(worker) for worker in dealt] == [1] * 4
    assert sorted(len(micro) for worker in dealt for micro in worker) == [0, 0, 1, 1]


def test_epochs_may_be_a_fraction():
    lengths, examples = random_lengths(100), np.arange(100)
    one = make_plan(lengths, examples, epochs=1)
    assert make_plan(lengths, examples, epochs=0.5).steps == round(one.steps / 2)
    assert make_plan(lengths, examples, epochs=1e-6).steps == 1
    long = make_plan(lengths, examples, epochs=2.25)
    assert long.steps > 2 * one.steps - 2
    assert long.tokens() == sum(int(lengths.per_example[long.step_examples(s)].sum()) for s in range(long.steps))
    assert long.tokens(0, 3) + long.tokens(3) == long.tokens()
    last_epoch = [e for s in range(one.steps) for e in long.step_examples(s).tolist()]
    assert sorted(last_epoch) == examples.tolist()


def test_even_parts():
    assert even_parts(np.array([5, 5, 5, 5]), 10) == [slice(0, 2), slice(2, 4)]
    assert even_parts(np.array([9, 1, 1, 9]), 10) == [slice(0, 2), slice(2, 4)]
    assert even_parts(np.array([], dtype=np.int64), 10) == []
    with pytest.raises(ValueError, match="11 is above the limit 10"):
        even_parts(np.array([1, 11]), 10)
    for seed in range(20):
        sizes = np.random.default_rng(seed).integers(1, 11, 200)
        parts = even_parts(sizes, 25)
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(200))
        assert max(int(sizes[part].sum()) for part in parts) <= 25


def test_what_cannot_be_split_and_is_above_the_limit_is_refused():
    with pytest.raises(ValueError, match="6 padded tokens that stay together are above the limit 5"):
        deal(lengths_of_pairs([4, 4], [2, 0]), np.array([0]), 1, 5, "decoder-only", CHEAP)
    pair = lengths_of_pairs([4, 4], [2, 1], together=True)
    with pytest.raises(ValueError, match="12 padded tokens"):
        deal(pair, np.array([0]), 1, 11, "decoder-only", CHEAP)
    assert [[m.tolist() for m in worker] for worker in deal(pair, np.array([0]), 1, 12, "decoder-only", CHEAP)] == [
        [[0, 1]]
    ]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("family", FAMILIES)
def test_cuts_are_the_cheapest_that_there_are(seed, family):
    """Against every way of cutting a short row, in each of the orders that are tried."""
    rng = np.random.default_rng(seed)
    lengths = lengths_of_pairs(rng.integers(1, 20, 12).tolist(), rng.integers(1, 9, 12).tolist())
    examples, price = np.arange(6), Cost(16, 3)
    dealt = deal(lengths, examples, 1, 120, family, price)[0]

    def cost(parts):
        return sum(max(padded_tokens(lengths, part, family), price.least) + price.price for part in parts)

    sequences = lengths.of(examples)
    prompt, target = lengths.prompt[sequences], lengths.target[sequences]
    if family == "decoder-only":
        prompt, target = prompt + target, 0 * target
    cheapest = np.inf
    for order in _orders(sequences, prompt, target):
        row = sequences[order]
        for chosen in range(2 ** (len(row) - 1)):
            edges = [i + 1 for i in range(len(row) - 1) if chosen >> i & 1]
            parts = np.split(row, edges)
            if all(padded_tokens(lengths, part, family) <= 120 for part in parts):
                cheapest = min(cheapest, cost(parts))
    assert cost(dealt) == pytest.approx(cheapest)


@pytest.mark.parametrize("workers", [1, 2])
def test_many_sequences_of_which_few_fit_together(workers):
    """A validation split as it is measured: thousands of sequences, micro-batches of a handful."""
    lengths = random_lengths(3000)
    limit = int(lengths.real.max()) + 1
    dealt = deal(lengths, np.arange(3000), workers, limit, "decoder-only", Cost(256, 128))
    micros = [micro for worker in dealt for micro in worker]
    assert sorted(s for micro in micros for s in micro.tolist()) == list(range(len(lengths.real)))
    assert max(padded_tokens(lengths, micro, "decoder-only") for micro in micros) <= limit


def test_labels_and_rationales_of_an_encoder_decoder_are_not_padded_to_each_other():
    lengths = lengths_of_pairs([50] * 32, [2, 40] * 16)
    dealt = deal(lengths, np.arange(16), 1, 4096, "encoder-decoder", Cost(256, 16))[0]
    assert sum(padded_tokens(lengths, part, "encoder-decoder") for part in dealt) == int(lengths.real.sum())
