"""Sequences become padded arrays, and what belongs to a sequence stays with it."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.train.data.collate import NO_PART, TokenSequence, collate

TWO = [TokenSequence([7, 8], [3, 1], 0), TokenSequence([5], [4, 6, 1], 1)]


def test_decoder_only_rows_are_prompt_and_target() -> None:
    batch = collate(TWO, family="decoder-only", pad=0, start=None)
    assert batch.inputs["input_ids"].tolist() == [[7, 8, 3], [5, 4, 6]]
    assert list(batch.inputs) == ["input_ids"]
    assert batch.rows.tolist() == [0, 0, 1, 1, 1]
    assert batch.columns.tolist() == [1, 2, 0, 1, 2], "the position before a target token predicts it"
    assert batch.targets.tolist() == [3, 1, 4, 6, 1]
    assert batch.parts.tolist() == [0, 0, 1, 1, 1]
    assert list(batch.arguments()) == ["inputs", "rows", "columns", "targets", "parts"]
    doubled = batch.map(lambda array: 2 * array)
    assert (doubled.targets.tolist(), doubled.inputs["input_ids"].tolist()[0]) == ([6, 2, 8, 12, 2], [14, 16, 6])


def test_encoder_decoder_rows_are_apart() -> None:
    batch = collate(TWO, family="encoder-decoder", pad=0, start=9)
    assert batch.inputs["input_ids"].tolist() == [[7, 8], [5, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch.inputs["decoder_input_ids"].tolist() == [[9, 3, 0], [9, 4, 6]]
    assert batch.rows.tolist() == [0, 0, 1, 1, 1]
    assert batch.columns.tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("family", ["decoder-only", "encoder-decoder"])
def test_an_empty_micro_batch_has_one_token_of_no_term(family: str) -> None:
    batch = collate([], family=family, pad=2, start=2)  # type: ignore[arg-type]
    assert (batch.targets.tolist(), batch.parts.tolist()) == ([2], [NO_PART])


def test_the_labels_of_an_example_are_a_group() -> None:
    rows = [
        TokenSequence([1], [2], 0, example=40, probability=0.75),
        TokenSequence([1], [3], NO_PART, example=40, probability=0.25),
        TokenSequence([1], [2], 0, example=7, probability=1.0),
    ]
    batch = collate(rows, family="decoder-only", pad=0, start=None)
    assert batch.groups is not None
    assert batch.groups[0] == batch.groups[1] != batch.groups[2]
    assert sorted(set(batch.groups.tolist())) == [0, 1]
    assert batch.probabilities.tolist() == [0.75, 0.25, 1.0]


def test_likeliest_tokens_stay_at_their_positions() -> None:
    ids, logprobs = np.array([[3, 4], [1, 5]]), np.array([[-0.1, -3.0], [-0.2, -2.0]])
    rows = [TokenSequence([7], [9, 1], 2), TokenSequence([7], [3, 1, 1], 2, top_ids=ids, top_logprobs=logprobs)]
    batch = collate(rows, family="decoder-only", pad=0, start=None)
    assert batch.top_ids.tolist() == [[-1, -1], [-1, -1], [3, 4], [1, 5], [-1, -1]]
    np.testing.assert_allclose(batch.top_logprobs[2:4], logprobs, rtol=1e-6)
