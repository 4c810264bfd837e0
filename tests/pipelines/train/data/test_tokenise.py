import json
import math
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.heldout import is_validation
from pipelines.data.label_parts import LabelParts
from pipelines.data.schema import LABEL, RATIONALE, TOKEN_LOGPROBS
from pipelines.errors import UserError
from pipelines.storage.store import Store
from pipelines.tasks.arithmetic import Arithmetic
from pipelines.train.data.sequences import TokenSettings
from pipelines.train.data.token_table import COUNTS, FILE, TokenCounts, Tokens, write_tokens
from pipelines.train.data.tokenise import encode_part, encode_table, rows_to_tokenise, tokenise
from pipelines.train.loss_terms import PARTS, TERMS
from tests.support.tiny_runs import label_rows, make_token_settings, make_tokenizer, name_parts, write_labels

EOS = make_tokenizer().eos_token_id


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TokenSettings:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    return make_token_settings(folder)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=LABEL)


def words(ids: list[int]) -> list[str]:
    return str(make_tokenizer().decode(ids)).split()


def encoded(row: dict[str, Any], settings: TokenSettings) -> list[dict[str, Any]]:
    return list(encode_table(table([row]), settings).to_pylist())


def written(folder: Path, settings: TokenSettings, *parts: list[dict[str, Any]]) -> tuple[TokenCounts, Tokens]:
    """Counts and tokens of rows of labels that are encoded in several parts."""
    store, grouped = Store(str(folder)), settings.compares_labels
    tables = [encode_table(table(part), settings) for part in parts]
    return write_tokens(tables, store, settings.family, grouped=grouped), Tokens(store, folder, grouped=grouped)


def test_step_by_step_learns_label_and_rationale(settings: TokenSettings) -> None:
    row = label_rows(1)[0]
    label, rationale = encoded(row, settings)
    assert words(label["prompt"]) == f"[label] {row['input']}".split()
    assert words(rationale["prompt"]) == f"[rationale] {row['input']}".split()
    assert label["prompt"][-1] == make_tokenizer().convert_tokens_to_ids("\n")
    assert (label["part"], words(label["target"])) == (0, [*row["gold"].split(), "</s>"])
    assert (rationale["part"], words(rationale["target"])) == (1, [*row["rationale"].split(), "</s>"])
    assert [found["part"] for found in encoded(row | {"rationale": ""}, settings)] == [0]
    assert words(encoded(row, replace(settings, family="encoder-decoder"))[0]["prompt"][-1:]) == ["?"], "no line break"
    taught, _ = encoded(row, replace(settings, label_column="label"))
    assert words(taught["target"])[:-1] == row["label"].split() != row["gold"].split()
    (alone,) = encoded(row | {"gold": None}, replace(settings, terms=("rationale",)))
    assert alone["part"] == 1, "gold is not needed if its term has no weight"


def test_label_and_rationale_of_one_sequence(settings: TokenSettings, tmp_path: Path) -> None:
    row, made = label_rows(1)[0], replace(settings, method="label-then-rationale")
    (found,) = encoded(row, made)
    assert words(found["prompt"]) == row["input"].split()
    assert words(found["target"]) == [*row["gold"].split(), "</s>", *row["rationale"].split(), "</s>"]
    assert (found["part"], found["tail"]) == (0, len(row["rationale"].split()) + 1)
    label = {key: found[key] for key in ("part", "prompt")} | {"tail": 0, "target": found["target"][: -found["tail"]]}
    cut, dropped = encoded(row, replace(made, max_target_tokens=5))
    for alone in (cut, encoded(row | {"rationale": ""}, made)[0], encoded(row, replace(made, terms=("label",)))[0]):
        assert {key: alone[key] for key in label} == label
    assert dropped["dropped"] == "sequences_too_long"
    assert [one["dropped"] for one in encoded(row, replace(made, max_target_tokens=3))] == ["too_long"]
    rows = label_rows(30)
    rows[7]["rationale"] = "pears " * 30
    counts, tokens = written(tmp_path / "one", made, rows)
    two_counts, two = written(tmp_path / "two", settings, rows)
    assert (counts.sequences_too_long, counts.rationales) == (two_counts.sequences_too_long, two_counts.rationales)
    assert tokens.term_counts(tokens.train) == two.term_counts(two.train), "each term counts what step-by-step counts"
    assert tokens.sequence(0).tail > 0


@pytest.mark.parametrize("method", ["step-by-step", "label-then-rationale", "rationale-then-label"])
def test_several_rationales_are_learned_in_turn(settings: TokenSettings, tmp_path: Path, method: str) -> None:
    terms = ("text",) if method == "rationale-then-label" else ("label", "rationale")
    made = replace(settings, method=method, terms=terms, validation_share=0.0, max_target_tokens=30)
    rows, file = label_rows(2), tmp_path / "labels/rationales/part-00000.parquet"
    texts = ["Anne buys 1 more .", "she has 5 .", "pears " * 40, "now she has a total of 5 ."]
    rows[0]["rationale"] = texts[0]
    write_labels(tmp_path, rows, files=1)
    file.parent.mkdir()
    several = [{"id": rows[0]["id"], "rationale": one, "index": i} for i, one in reversed([*enumerate(texts)])]
    pq.write_table(pa.Table.from_pylist(several, schema=RATIONALE), file)
    name_parts(tmp_path / "labels")
    labels, several_of = Store(str(tmp_path / "labels")), replace(made, rationales_per_row=4)
    counts = tokenise(labels, several_of, Store(str(tmp_path / "tokens")))
    assert (counts.train, counts.rotating, counts.sequences_too_long) == (2, 1, 1)
    assert counts.rationales == (0 if method == "rationale-then-label" else 2)
    tokens = Tokens(Store(str(tmp_path / "tokens")), tmp_path)
    learned = [" ".join(words(list(tokens.sequence(s).target))) for s in np.flatnonzero(tokens.rotation.turn >= 0)]
    assert [any(one in found for one in texts) for found in learned] == [True] * 3
    mean = Counter[str]()
    for one in (texts[0], texts[1], texts[3]):
        alone, found = written(tmp_path / one[:3], made, [rows[0] | {"rationale": one}, rows[1]])
        mean.update(found.term_counts(np.arange(2)))
        mean["tokens"] += alone.tokens
    assert tokens.term_counts(np.arange(2)) == pytest.approx({term: mean[term] / 3 for term in TERMS})
    assert counts.tokens == round(mean["tokens"] / 3)
    pq.write_table(pq.read_table(file).replace_schema_metadata({}), file)
    name_parts(tmp_path / "labels")
    with pytest.raises(UserError, match=r"it has version \? of its schema, must be 1"):
        tokenise(labels, several_of, Store(str(tmp_path / "other")))


def test_share_and_length_of_the_rationales_that_are_learned(settings: TokenSettings, tmp_path: Path) -> None:
    rows = label_rows(200)
    chosen = replace(settings, rationale_share=0.25, max_rationale_words=8)
    counts, tokens = written(tmp_path / "some", chosen, rows)
    all_counts, all_tokens = written(tmp_path / "all", settings, rows)
    assert (counts.train, counts.validation) == (all_counts.train, all_counts.validation), "the same rows"
    assert 0.65 < counts.unshared / counts.train < 0.85
    assert counts.rationales == counts.train - counts.unshared - counts.long_rationales
    assert counts.long_rationales > 0
    assert tokens.term_counts(tokens.train)["label"] == all_tokens.term_counts(tokens.train)["label"]
    held_out = [found.term_counts(found.validation) for found in (tokens, all_tokens)]
    assert held_out[0] == held_out[1], "held-out rows measure all settings alike"
    again, _ = written(tmp_path / "again", replace(chosen, rationale_share=0.5), rows)
    other, _ = written(tmp_path / "other", replace(chosen, seed=1), rows)
    assert again.unshared < counts.unshared != other.unshared
    unread, _ = written(tmp_path / "unread", replace(chosen, method="finetune", terms=("label",)), rows)
    assert (unread.unshared, unread.long_rationales) == (0, 0)


@pytest.mark.parametrize(
    ("method", "part", "prompt", "target"),
    [
        ("finetune", 0, "{input}", "{gold}"),
        ("rationale-then-label", 2, "{input}", "{rationale} The answer is ({gold})."),
        ("rationale-as-input", 0, "{input} [rationale] {rationale}", "{gold}"),
    ],
)
def test_a_method_of_one_answer_learns_one_sequence(
    settings: Any, method: Any, part: Any, prompt: str, target: str
) -> None:
    row, made = label_rows(1)[0], replace(settings, method=method, terms=(PARTS[part],), max_input_tokens=90)
    (found,) = encoded(row, made)
    assert (found["part"], words(found["prompt"])) == (part, prompt.format(**row).split())
    assert found["target"] == [*make_tokenizer()(target.format(**row))["input_ids"], EOS]
    assert [one["dropped"] for one in encoded({**row, "gold": None}, made)] == ["nothing_to_learn"]


def test_a_long_rationale_is_dropped_without_its_label(settings: TokenSettings, tmp_path: Path) -> None:
    rows = label_rows(30)
    rows[3]["input"] = "apples " * 60
    rows[7]["rationale"] = "pears " * 30
    rows[8]["gold"] = "1 + 1 " * 30
    counts, tokens = written(tmp_path / "label", settings, rows)
    assert (counts.too_long, counts.sequences_too_long, counts.train + counts.validation) == (2, 1, 28)
    used = sorted(row["id"] for row in rows if row not in (rows[3], rows[8]))
    without_rationale = tokens.lengths.of(np.array([used.index(rows[7]["id"])]))
    assert [tokens.sequence(s).part for s in without_rationale] == [0], "the label is learned without its rationale"
    assert counts.tokens == int(tokens.lengths.per_example[tokens.train].sum())
    assert int(tokens.lengths.real.max()) == counts.widest <= 60
    assert int(tokens.lengths.per_example.max()) == counts.largest
    counts, _ = written(tmp_path / "none", replace(settings, max_input_tokens=1), label_rows(3))
    assert {name: count for name, count in asdict(counts).items() if count} == {"too_long": 3}


def test_tokens_read_what_was_written_by_sorted_id(settings: TokenSettings, tmp_path: Path) -> None:
    rows = label_rows(50)
    rows[7]["rationale"] = ""
    parts = (rows[30:], rows[:3], rows[3:30])
    counts, tokens = written(tmp_path, settings, *parts)
    by_id: dict[str, list[Any]] = {}
    for row in (row for part in parts for row in encode_table(table(part), settings).to_pylist()):
        by_id.setdefault(row["id"], []).append(row)
    for example, name in enumerate(sorted(by_id)):
        sequences = tokens.lengths.of(np.array([example]))
        for sequence, row in zip(sequences, by_id[name], strict=True):
            found = tokens.sequence(sequence)
            assert (list(found.prompt), list(found.target)) == (row["prompt"], row["target"])
            assert (found.part, found.example, found.probability) == (row["part"], example, None)
            assert tokens.lengths.prompt[sequence] == len(row["prompt"])
            assert tokens.lengths.target[sequence] == len(row["target"])
    held_out = {example for example, name in enumerate(sorted(by_id)) if is_validation(name, 0.3)}
    assert (set(tokens.validation.tolist()), set(tokens.train.tolist())) == (held_out, set(range(50)) - held_out)
    assert (counts.train, counts.validation) == (len(tokens.train), len(held_out)) != (50, 0)
    terms = tokens.term_counts(np.arange(50))
    assert terms["label"] == sum(len(rows[0]["target"]) for rows in by_id.values())
    assert terms["rationale"] == sum(len(rows[1]["target"]) for rows in by_id.values() if len(rows) > 1)
    assert (terms["soft"], terms["divergence"], terms["text"]) == (0, 0, 0)
    _, other = written(tmp_path / "other", settings, rows[::-1])
    assert np.array_equal(tokens.lengths.prompt, other.lengths.prompt), "the order of rows has no meaning"
    assert all(list(tokens.sequence(s).target) == list(other.sequence(s).target) for s in range(99))


def test_finished_tokens_are_reused(settings: TokenSettings, tmp_path: Path) -> None:
    write_labels(tmp_path, label_rows(30), files=3)
    labels, target = Store(str(tmp_path / "labels")), Store(str(tmp_path / "tokens"))
    read: list[int] = []
    counts = tokenise(labels, settings, target, on_rows=read.append)
    assert counts.train + counts.validation == 30 == sum(read) == rows_to_tokenise(labels, settings)
    assert rows_to_tokenise(labels, replace(settings, validation_share=0.1, fraction=0.5)) == round(30 * 0.55)
    assert counts.rationales == counts.train
    kept = TokenCounts(1, 2, 3, 4, 5, 6, 7, 8)
    target.write(COUNTS, json.dumps(asdict(kept)).encode())
    assert tokenise(labels, settings, target) == kept
    target.delete(FILE)
    assert tokenise(labels, settings, target) == counts, "a table that was lost is made again"
    assert len(Tokens(target, tmp_path).train) == counts.train


def test_counts_that_differ_from_the_manifest_are_refused(settings: TokenSettings, tmp_path: Path) -> None:
    write_labels(tmp_path, label_rows(30), files=3)
    labels = tmp_path / "labels"
    store, target = Store(str(labels)), Store(str(tmp_path / "tokens"))
    shutil.copy(labels / "data/part-00000.parquet", labels / "data/part-00009.parquet")
    tokenise(store, settings, target)
    assert LabelParts.of(store).num_rows("data") == 30, "a file that no manifest names is not read"
    pq.write_table(pq.read_table(labels / "data/part-00001.parquet").slice(1), labels / "data/part-00001.parquet")
    with pytest.raises(UserError, match=r"part-00001.parquet: it has 9 rows, the manifest says 10"):
        tokenise(store, settings, Store(str(tmp_path / "other")))
    (labels / "data/part-00001.parquet").unlink()
    with pytest.raises(UserError, match=r"part-00001.parquet: missing; it had 10 rows"):
        tokenise(store, settings, Store(str(tmp_path / "other")))


def test_soft_label_groups_and_merges_equal_labels(settings: TokenSettings, tmp_path: Path) -> None:
    soft = replace(settings, method="soft-label", terms=("label", "soft"), label_column="either")
    rows = label_rows(2)
    votes = {"9 - 1": 0.5, "( 9 - 1 )": 0.25, "2 + 1": 0.125, "3 + 1": 0.125}
    rows[0] |= {"gold": "9 - 1", "soft_label": [{"label": k, "probability": p} for k, p in votes.items()]}
    rows[1] |= {"gold": None}
    found = encode_table(table(rows), soft).to_pylist()
    assert [(" ".join(words(r["target"])[:3]), r["part"], r["probability"]) for r in found] == [
        ("9 - 1", 0, 0.75), ("2 + 1", -1, 0.125), ("3 + 1", -1, 0.125), (rows[1]["label"], 0, 1.0)
    ]  # fmt: skip
    counts, tokens = written(tmp_path, soft, rows)
    assert counts.widest == max(int(tokens.lengths.real[:3].sum()), int(tokens.lengths.real[3]))
    assert (tokens.term_counts(np.arange(2))["soft"], tokens.sequence(1).probability) == (2, pytest.approx(0.125))
    assert tokens.compare_labels(np.array([0, 1]))
    assert not tokens.compare_labels(np.array([1])), "one label has no distribution"


def test_teacher_tokens_end_with_the_answer(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Arithmetic, "stops", ("Tom",))
    kd = replace(settings, method="token-kd", terms=("text", "divergence"), label_column="label")
    rows = label_rows(4)
    write_labels(tmp_path, rows, files=1)
    ids = make_tokenizer()("Anne has 4 apples . Tom has 2")["input_ids"]
    answers = {rows[0]["id"]: ids[:4], rows[1]["id"]: [*ids[:4], EOS], rows[2]["id"]: ids}
    tops = [
        {"id": name, "token_ids": one, "top_ids": [[i, 9] for i in one], "top_logprobs": [[-0.5, -1.0]] * len(one)}
        for name, one in answers.items()
    ]
    part = "data/part-00000.parquet"
    file = tmp_path / "labels/token_logprobs/part-00000.parquet"
    file.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(tops, schema=TOKEN_LOGPROBS), file)
    name_parts(tmp_path / "labels")
    labels = Store(str(tmp_path / "labels"))
    by_id = {row["id"]: row for t in encode_part(LabelParts.of(labels), part, kd) for row in t.to_pylist()}
    cut, ended, stopped, missing = (by_id[row["id"]] for row in rows)
    assert missing["dropped"] == "nothing_to_learn"
    for row in (cut, ended):
        assert (row["target"], row["top_positions"]) == ([*ids[:4], EOS], 5)
    assert ended["top_ids"][-2:] == [EOS, 9], "the teacher's own distribution at its end"
    assert (cut["top_ids"][-2:], cut["top_logprobs"][-2:]) == ([EOS, 0], [0.0, -math.inf]), "a certain end"
    # The engine generated the stop string's tokens, which are not part of the answer.
    assert words(stopped["target"])[:5] == ["Anne", "has", "4", "apples", "."]
    assert (stopped["target"][-1], "Tom" in words(stopped["target"])) == (EOS, False)
    counts = tokenise(labels, kd, Store(str(tmp_path / "tokens")))
    assert (counts.nothing_to_learn, counts.train + counts.validation) == (1, 3)
    tokens = Tokens(Store(str(tmp_path / "tokens")), tmp_path)
    read: Any = map(tokens.sequence, range(3))
    (second,) = (sequence for sequence in read if sequence.top_ids.tolist()[-1] == [EOS, 9])
    assert (second.top_ids.tolist(), second.top_logprobs.shape) == ([[i, 9] for i in [*ids[:4], EOS]], (5, 2))


def test_a_larger_fraction_contains_a_smaller_one(settings: TokenSettings) -> None:
    rows = label_rows(300)

    def used(fraction: float, seed: int = 0) -> tuple[set[str], set[str]]:
        kept = encode_table(table(rows), replace(settings, fraction=fraction, seed=seed)).to_pylist()
        return {r["id"] for r in kept if not r["validation"]}, {r["id"] for r in kept if r["validation"]}

    whole, held_out = used(1.0)
    half, quarter = used(0.5)[0], used(0.25)[0]
    assert quarter < half < whole
    assert 0.15 * len(whole) < len(quarter) < 0.35 * len(whole)
    assert used(0.25)[1] == held_out, "held-out rows stay"
    assert used(0.25, seed=1)[0] != quarter
    unsplit = encode_table(table(rows), replace(settings, validation_share=0.0))
    assert not any(unsplit["validation"].to_pylist()), "without a share all rows are trained on"
