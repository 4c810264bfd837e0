"""Tokenising: what each row becomes, what is held out or left out, and that workers read back what was written."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.heldout import is_validation
from pipelines.data.schema import LABEL, TOKEN_LOGPROBS
from pipelines.storage.store import Store
from pipelines.tasks import TaskSpec
from pipelines.tasks.arithmetic import Arithmetic
from pipelines.train.data.sequences import TokenSettings
from pipelines.train.data.token_table import (
    COUNTS,
    TokenCounts,
    Tokens,
    encode_part,
    encode_table,
    tokenise,
    write_tokens,
)
from tests.support.tiny_runs import label_rows, make_tokenizer, write_labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def settings(folder: Path) -> TokenSettings:
    terms = ("label", "rationale")
    return TokenSettings(
        str(folder), "decoder-only", "step-by-step", terms, "gold", 0.3, 40, 20, TaskSpec("arithmetic")
    )


def table(rows):
    return pa.Table.from_pylist(rows, schema=LABEL)


def text(ids):
    return make_tokenizer().decode(ids)


def encoded(row: dict[str, Any], settings: TokenSettings) -> list[dict[str, Any]]:
    return list(encode_table(table([row]), settings).to_pylist())


def test_a_row_becomes_two_sequences(settings):
    row = label_rows(1)[0]
    label, rationale = encoded(row, settings)
    words = row["input"].split()
    assert text(label["prompt"]).split() == ["[label]", *words]
    assert text(rationale["prompt"]).split() == ["[rationale]", *words]
    assert label["prompt"][-1] == make_tokenizer().convert_tokens_to_ids("\n")
    assert text(label["target"]).split() == [*row["gold"].split(), "</s>"]
    assert text(rationale["target"]).split() == [*row["rationale"].split(), "</s>"]
    assert [label["part"], rationale["part"]] == [0, 1]


def test_an_encoder_reads_no_line_break(settings):
    label, _ = encoded(label_rows(1)[0], replace(settings, family="encoder-decoder"))
    assert text(label["prompt"]).endswith("?")


def test_teacher_labels_and_finetuning(settings):
    row = label_rows(1)[0]
    taught, _ = encoded(row, replace(settings, label_column="label"))
    assert text(taught["target"]).split()[:-1] == row["label"].split() != row["gold"].split()
    (tuned,) = encoded(row, replace(settings, method="finetune", terms=("label",)))
    assert text(tuned["prompt"]).split() == row["input"].split()


def test_a_row_without_rationale_teaches_its_label_alone(settings):
    (label,) = encoded(label_rows(1)[0] | {"rationale": ""}, settings)
    assert label["part"] == 0


def test_rows_above_a_limit_are_left_out_and_counted(settings, tmp_path):
    rows = label_rows(30)
    rows[3]["input"] = "apples " * 60
    rows[7]["rationale"] = "pears " * 30
    counts = write_tokens([encode_table(table(rows), settings)], Store(str(tmp_path)), settings)
    assert counts.too_long == 2
    assert counts.train + counts.validation == 28
    assert counts.widest <= 60
    read = Tokens(Store(str(tmp_path)), tmp_path)
    assert len(read.lengths.per_example) == 28
    assert int(read.lengths.real.max()) == counts.widest
    assert int(read.lengths.per_example.max()) == counts.largest


def test_what_is_read_is_what_was_written_in_the_order_of_ids(settings, tmp_path):
    rows = label_rows(50)
    rows[7]["rationale"] = ""
    tables = [encode_table(table(part), settings) for part in (rows[30:], rows[:3], rows[3:30])]
    counts = write_tokens(tables, Store(str(tmp_path)), settings)
    read = Tokens(Store(str(tmp_path)), tmp_path)
    by_id: dict[str, list[Any]] = {}
    for row in (row for t in tables for row in t.to_pylist()):
        by_id.setdefault(row["id"], []).append(row)
    held_out = set()
    for example, name in enumerate(sorted(by_id)):
        sequences = read.lengths.of(np.array([example]))
        assert len(sequences) == len(by_id[name])
        for sequence, row in zip(sequences, by_id[name], strict=True):
            found = read.sequence(sequence)
            assert (found.prompt.tolist(), found.target.tolist()) == (row["prompt"], row["target"])
            assert (found.part, found.example, found.probability) == (row["part"], example, None)
            assert read.lengths.prompt[sequence] == len(row["prompt"])
            assert read.lengths.target[sequence] == len(row["target"])
        if is_validation(name, 0.3):
            held_out.add(example)
    assert set(read.validation.tolist()) == held_out
    assert set(read.train.tolist()) == set(range(50)) - held_out
    assert (counts.train, counts.validation) == (len(read.train), len(read.validation))
    assert counts.validation > 0
    terms = read.term_counts(np.arange(50))
    assert terms["label"] == sum(len(rows[0]["target"]) for rows in by_id.values())
    assert terms["rationale"] == sum(len(rows[1]["target"]) for rows in by_id.values() if len(rows) > 1)
    assert (terms["soft"], terms["divergence"], terms["text"]) == (0, 0, 0)


def test_the_order_of_rows_means_nothing(settings, tmp_path):
    rows = label_rows(20)
    for name, order in (("a", rows), ("b", rows[::-1])):
        write_tokens([encode_table(table(order), settings)], Store(str(tmp_path / name)), settings)
    first, second = (Tokens(Store(str(tmp_path / name)), tmp_path) for name in "ab")
    assert np.array_equal(first.lengths.prompt, second.lengths.prompt)
    assert all(first.sequence(s).target.tolist() == second.sequence(s).target.tolist() for s in range(40))


def test_no_validation_share_trains_on_all(settings):
    found = encode_table(table(label_rows(40)), replace(settings, validation_share=0.0))
    assert not any(found["validation"].to_pylist())


def test_tokens_that_are_there_are_not_made_again(settings, tmp_path):
    write_labels(tmp_path, label_rows(30), files=3)
    labels, target = Store(str(tmp_path / "labels")), Store(str(tmp_path / "tokens"))
    counts = tokenise(labels, settings, target)
    assert counts.train + counts.validation == 30
    assert counts.rationales == counts.train
    target.write(
        COUNTS,
        b'{"train":1,"validation":2,"too_long":3,"nothing_to_learn":4,"rationales":5,"compared":6,"widest":7,"largest":8}',
    )
    assert tokenise(labels, settings, target) == TokenCounts(1, 2, 3, 4, 5, 6, 7, 8)


def test_nothing_left_is_counted_not_raised(settings, tmp_path):
    strict = replace(settings, max_input_tokens=1)
    counts = write_tokens([encode_table(table(label_rows(3)), strict)], Store(str(tmp_path)), strict)
    assert counts == TokenCounts(0, 0, 3, 0, 0, 0, 0, 0)


def test_soft_labels_stay_together_and_labels_that_mean_the_same_are_one(settings, tmp_path):
    soft = replace(settings, method="soft-label", terms=("label", "soft"), label_column="either")
    rows = label_rows(2)
    votes = {"9 - 1": 0.5, "( 9 - 1 )": 0.25, "2 + 1": 0.125, "3 + 1": 0.125}
    rows[0] |= {"gold": "9 - 1", "soft_label": [{"label": k, "probability": p} for k, p in votes.items()]}
    rows[1] |= {"gold": None}
    found = encode_table(table(rows), soft).to_pylist()
    assert [(text(r["target"])[:5], r["part"], r["probability"]) for r in found if r["id"] == rows[0]["id"]] == [
        ("9 - 1", 0, 0.75), ("2 + 1", -1, 0.125), ("3 + 1", -1, 0.125)
    ]  # fmt: skip
    assert [(text(r["target"])[:5], r["probability"]) for r in found[3:]] == [(rows[1]["label"], 1.0)]
    counts = write_tokens([encode_table(table(rows), soft)], Store(str(tmp_path)), soft)
    read = Tokens(Store(str(tmp_path)), tmp_path, together=True)
    assert counts.widest == max(int(read.lengths.real[:3].sum()), int(read.lengths.real[3]))
    assert read.term_counts(np.arange(2))["soft"] == 2
    assert read.sequence(1).probability == pytest.approx(0.125)


def test_a_hard_label_that_the_teacher_does_not_know_has_its_probability_of_0(settings):
    soft = replace(settings, method="soft-label", terms=("label", "soft"), label_column="either")
    row = label_rows(1)[0] | {
        "gold": "7 + 7",
        "soft_label": [{"label": f"{i} + 1", "probability": 0.1} for i in range(10)],
    }
    found = encoded(row, soft)
    assert (len(found), found[0]["probability"], found[0]["part"]) == (8, 0.0, 0)


def test_a_text_of_rationale_and_label_is_one_that_the_task_reads(settings):
    row = label_rows(1)[0]
    (found,) = encoded(row, replace(settings, method="rationale-then-label", terms=("text",)))
    assert found["part"] == 2
    wanted = make_tokenizer()(f"{row['rationale']} The answer is ({row['gold']}).")["input_ids"]
    assert found["target"] == [*wanted, make_tokenizer().eos_token_id]


def test_a_rationale_is_read_with_the_input(settings):
    row, method = label_rows(1)[0], replace(settings, method="rationale-as-input", terms=("label",))
    (found,) = encoded(row, replace(method, max_input_tokens=90))
    assert text(found["prompt"]).split() == [*row["input"].split(), "[rationale]", *row["rationale"].split()]
    (dropped,) = encoded(row | {"rationale": ""}, method)
    assert dropped["dropped"] == "nothing_to_learn"


def test_tokens_of_the_teacher_are_learned_up_to_where_its_answer_ends(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Arithmetic, "stops", ("Tom",))
    kd = replace(settings, method="token-kd", terms=("text", "divergence"), label_column="label")
    rows = label_rows(4)
    write_labels(tmp_path, rows, files=1)
    eos = make_tokenizer().eos_token_id
    words = make_tokenizer()("Anne has 4 apples . Tom has 2")["input_ids"]
    said = {rows[0]["id"]: words[:4], rows[1]["id"]: [*words[:4], eos], rows[2]["id"]: words}
    tops = [
        {"id": name, "token_ids": ids, "top_ids": [[i, 9] for i in ids], "top_logprobs": [[-0.5, -1.0]] * len(ids)}
        for name, ids in said.items()
    ]
    (tmp_path / "labels/token_logprobs").mkdir()
    pq.write_table(
        pa.Table.from_pylist(tops, schema=TOKEN_LOGPROBS), tmp_path / "labels/token_logprobs/part-00000.parquet"
    )
    labels = Store(str(tmp_path / "labels"))
    found = {row["id"]: row for t in encode_part(labels, "data/part-00000.parquet", kd) for row in t.to_pylist()}
    assert found[rows[3]["id"]]["dropped"] == "nothing_to_learn"
    for row in rows[:2]:
        assert (found[row["id"]]["target"], found[row["id"]]["top_positions"]) == ([*words[:4], eos], 5)
    assert found[rows[1]["id"]]["top_ids"][-2:] == [eos, 9], "what the teacher said of its end"
    assert found[rows[0]["id"]]["top_ids"][-2:] == [eos, 0], "that it ends is certain"
    assert found[rows[0]["id"]]["top_logprobs"][-2:] == [0.0, -math.inf]
    # The stop string is no part of the answer, though the engine has made its tokens.
    cut = found[rows[2]["id"]]
    assert text(cut["target"]).split()[:5] == ["Anne", "has", "4", "apples", "."]
    assert cut["target"][-1] == eos
    assert "Tom" not in text(cut["target"])
    counts = tokenise(labels, kd, Store(str(tmp_path / "tokens")))
    assert (counts.nothing_to_learn, counts.train + counts.validation) == (1, 3)
    read = Tokens(Store(str(tmp_path / "tokens")), tmp_path)
    second = next(s for s in map(read.sequence, range(3)) if s.top_ids.tolist()[-1] == [eos, 9])
    assert second.top_ids.tolist() == [[i, 9] for i in [*words[:4], eos]]
    assert second.top_logprobs.shape == (5, 2)


def test_a_smaller_fraction_is_part_of_a_larger_one_and_held_out_rows_stay(settings):
    rows = label_rows(300)

    def used(fraction: float, seed: int = 0) -> tuple[set[str], set[str]]:
        kept = encode_table(table(rows), replace(settings, fraction=fraction, seed=seed)).to_pylist()
        return {r["id"] for r in kept if not r["validation"]}, {r["id"] for r in kept if r["validation"]}

    whole, held_out = used(1.0)
    half, quarter = used(0.5)[0], used(0.25)[0]
    assert quarter < half < whole
    assert 0.15 * len(whole) < len(quarter) < 0.35 * len(whole)
    assert used(0.25)[1] == held_out
    assert used(0.25, seed=1)[0] != quarter


def test_people_alone_give_no_distribution_over_labels(settings, tmp_path):
    soft = replace(settings, method="soft-label", terms=("label", "soft"), label_column="either")
    given = [{"label": "2 + 1", "probability": 0.75}, {"label": "2 - 1", "probability": 0.25}]
    rows = [label_rows(1)[0] | {"id": "a"}, label_rows(1)[0] | {"id": "b", "soft_label": given}]
    store = Store(str(tmp_path / "tokens"))
    write_tokens([encode_table(table(rows), soft)], store, soft)
    tokens = Tokens(store, tmp_path, together=True)
    alone, both = np.array([0]), np.array([0, 1])
    assert not tokens.compare_labels(alone)
    assert tokens.compare_labels(both)
