"""Tokenising: what each row becomes, what is held out or left out, and that workers read back what was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.artifacts import Store
from pipelines.corpus import is_validation
from pipelines.schema import LABEL
from pipelines.train.tokens import COUNTS, TokenCounts, Tokens, TokenSettings, encode_table, tokenise, write_tokens
from tests.pipelines.train.tiny import label_rows, make_tokenizer, write_labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def settings(folder: Path) -> TokenSettings:
    return TokenSettings(str(folder), "decoder-only", "step-by-step", ("label", "rationale"), "gold", 0.3, 40, 20)


def table(rows):
    return pa.Table.from_pylist(rows, schema=LABEL)


def text(ids):
    return make_tokenizer().decode(ids)


def test_a_row_becomes_two_sequences(settings):
    row = label_rows(1)[0]
    encoded = encode_table(table([row]), settings).to_pylist()[0]
    words = row["input"].split()
    assert text(encoded["label_prompt"]).split() == ["[label]", *words]
    assert text(encoded["rationale_prompt"]).split() == ["[rationale]", *words]
    assert encoded["label_prompt"][-1] == make_tokenizer().convert_tokens_to_ids("\n")
    assert text(encoded["label_target"]).split() == [*row["gold"].split(), "</s>"]
    assert text(encoded["rationale_target"]).split() == [*row["rationale"].split(), "</s>"]


def test_an_encoder_reads_no_line_break(settings):
    encoded = encode_table(table(label_rows(1)), replace(settings, family="encoder-decoder")).to_pylist()[0]
    assert text(encoded["label_prompt"]).endswith("?")


def test_teacher_labels_and_finetuning(settings):
    row = label_rows(1)[0]
    taught = encode_table(table([row]), replace(settings, label_column="label")).to_pylist()[0]
    assert text(taught["label_target"]).split()[:-1] == row["label"].split() != row["gold"].split()
    tuned = encode_table(table([row]), replace(settings, method="finetune", parts=("label",))).to_pylist()[0]
    assert text(tuned["label_prompt"]).split() == row["input"].split()
    assert tuned["rationale_prompt"] == tuned["rationale_target"] == []


def test_a_row_without_rationale_teaches_its_label_alone(settings):
    encoded = encode_table(table([label_rows(1)[0] | {"rationale": ""}]), settings).to_pylist()[0]
    assert encoded["rationale_target"] == []
    assert encoded["label_target"]


def test_rows_above_a_limit_are_left_out_and_counted(settings, tmp_path):
    rows = label_rows(30)
    rows[3]["input"] = "apples " * 60
    rows[7]["rationale"] = "pears " * 30
    counts = write_tokens([encode_table(table(rows), settings)], Store(str(tmp_path)))
    assert counts.too_long == 2
    assert counts.train + counts.validation == 28
    assert counts.longest <= 60
    read = Tokens(Store(str(tmp_path)), tmp_path)
    assert len(read.lengths.per_example) == 28
    assert int(read.lengths.real.max()) == counts.longest
    assert int(read.lengths.per_example.max()) == counts.largest


def test_what_is_read_is_what_was_written_in_the_order_of_ids(settings, tmp_path):
    rows = label_rows(50)
    tables = [encode_table(table(part), settings) for part in (rows[30:], rows[:3], rows[3:30])]
    counts = write_tokens(tables, Store(str(tmp_path)))
    read = Tokens(Store(str(tmp_path)), tmp_path)
    by_id = {row["id"]: row for t in tables for row in t.to_pylist()}
    held_out = set()
    for example, name in enumerate(sorted(by_id)):
        for part, sequence in (("label", 2 * example), ("rationale", 2 * example + 1)):
            assert read.prompt(sequence).tolist() == by_id[name][f"{part}_prompt"]
            assert read.target(sequence).tolist() == by_id[name][f"{part}_target"]
            assert read.lengths.prompt[sequence] == len(by_id[name][f"{part}_prompt"])
            assert read.lengths.target[sequence] == len(by_id[name][f"{part}_target"])
        if is_validation(name, 0.3):
            held_out.add(example)
    assert set(read.validation.tolist()) == held_out
    assert set(read.train.tolist()) == set(range(50)) - held_out
    assert (counts.train, counts.validation) == (len(read.train), len(read.validation))
    assert counts.validation > 0


def test_the_order_of_rows_means_nothing(settings, tmp_path):
    rows = label_rows(20)
    for name, order in (("a", rows), ("b", rows[::-1])):
        write_tokens([encode_table(table(order), settings)], Store(str(tmp_path / name)))
    first, second = (Tokens(Store(str(tmp_path / name)), tmp_path) for name in "ab")
    assert np.array_equal(first.lengths.prompt, second.lengths.prompt)
    assert all(first.target(s).tolist() == second.target(s).tolist() for s in range(40))


def test_no_validation_share_trains_on_all(settings):
    encoded = encode_table(table(label_rows(40)), replace(settings, validation_share=0.0))
    assert not any(encoded["validation"].to_pylist())


def test_tokens_that_are_there_are_not_made_again(settings, tmp_path):
    write_labels(tmp_path, label_rows(30), files=3)
    labels, target = Store(str(tmp_path / "labels")), Store(str(tmp_path / "tokens"))
    counts = tokenise(labels, settings, target)
    assert counts.train + counts.validation == 30
    assert counts.rationales == counts.train
    target.write(COUNTS, b'{"train":1,"validation":2,"too_long":3,"rationales":4,"longest":5,"largest":6}')
    assert tokenise(labels, settings, target) == TokenCounts(1, 2, 3, 4, 5, 6)


def test_nothing_left_is_counted_not_raised(settings, tmp_path):
    counts = write_tokens(
        [encode_table(table(label_rows(3)), replace(settings, max_input_tokens=1))], Store(str(tmp_path))
    )
    assert counts == TokenCounts(0, 0, 3, 0, 0, 0)
