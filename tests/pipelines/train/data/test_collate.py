"""The layout of a micro-batch. Its losses: tests/pipelines/train/engine/test_losses.py."""

from types import SimpleNamespace

from pipelines.train.data.collate import TokenSequence, collate

TWO = [TokenSequence([7, 8], [3, 1], 0), TokenSequence([5], [4, 6, 1], 1)]


def test_decoder_only_rows_are_prompt_and_target() -> None:
    batch = collate(TWO, family="decoder-only", pad=0, start=None)
    assert {name: array.tolist() for name, array in batch.inputs.items()} == {"input_ids": [[7, 8, 3], [5, 4, 6]]}
    assert batch.rows.tolist() == [0, 0, 1, 1, 1]
    assert batch.positions.tolist() == [1, 2, 3, 4, 5], "the position before a target token predicts it"
    assert (batch.targets.tolist(), batch.parts.tolist()) == ([3, 1, 4, 6, 1], [0, 0, 1, 1, 1])
    batch = collate([TokenSequence([7], [3, 1, 8, 9, 1], 0, tail=3), *TWO], family="decoder-only", pad=0, start=None)
    assert batch.parts.tolist() == [0, 0, 1, 1, 1, 0, 0, 1, 1, 1], "the tail of a target counts as rationale"


def test_every_array_is_pinned_for_a_gpu() -> None:
    batch = collate(TWO, family="decoder-only", pad=0, start=None)
    pinned = batch.map(lambda array: SimpleNamespace(pin_memory=lambda: len(array))).pin_memory()
    assert (pinned.inputs, pinned.rows, pinned.parts) == ({"input_ids": 2}, 5, 5)


def test_encoder_and_decoder_are_padded_separately() -> None:
    batch = collate(TWO, family="encoder-decoder", pad=0, start=9)
    assert batch.inputs["input_ids"].tolist() == [[7, 8], [5, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch.inputs["decoder_input_ids"].tolist() == [[9, 3, 0], [9, 4, 6]]
    assert (batch.rows.tolist(), batch.positions.tolist()) == ([0, 0, 1, 1, 1], [0, 1, 3, 4, 5])
