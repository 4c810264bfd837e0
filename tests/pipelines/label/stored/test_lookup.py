"""Rows that take over stored answers."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.label.answers.outcomes import RATIONALISED
from pipelines.label.answers.thoughts import ThoughtCutter
from pipelines.label.output import parts
from pipelines.label.stored.index import stored_keys
from pipelines.label.stored.sources import replace_labels
from pipelines.label.stored.texts import StoredAnswer, stored_generation
from pipelines.label.teachers.base import Generation, Sample
from pipelines.storage.store import Store
from tests.support.corpora import run_config
from tests.support.label_writers import Killed, killed_after
from tests.support.stored_answers import examples, index_of, taken_over, write_answers
from tests.support.teacher_actors import APPLES, HintedTeacher

RUN = run_config({"engine": "echo", "sampling": {"n": 2, "temperature": 1.0}})


def test_rows_with_a_stored_prompt_take_the_answer_over(tmp_path: Path) -> None:
    """In any order, from several files, with another filter. Other prompts have none, nor has another sampling."""
    files = [write_answers(RUN, tmp_path, k, examples(*range(9 * k, 9 * k + 9))) for k in range(3)]
    rows = examples(20, 3, 99, 0, 26, 3)
    found = taken_over(RUN, rows, *files).to_pylist()
    assert [row["id"] for row in found] == ["r20", "r3", "r0", "r26", "r3"]
    assert [row["label"] for row in found[:2]] == ["20 + 0", "3 + 0"]
    assert {(row["stored"], row["votes"]) for row in found} == {(True, 2)}
    texts = [answer for row in found for answer in row["texts"]]
    assert texts[0]["samples"][0]["text"].endswith("The answer is (20 + 0).")
    assert stored_keys(files, [texts[0]["key"], b"x" * 16]) == {texts[0]["key"]}
    strict = run_config({**RUN.teacher.model_dump(), "filters": {"min_rationale_words": 50}})
    assert set(taken_over(strict, rows, *files)["reason"].to_pylist()) == {"rationale_length"}
    assert taken_over(run_config({"engine": "echo"}), rows, *files).num_rows == 0


def test_a_lookup_reads_only_row_groups_with_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parts.TEXT_PARQUET, "row_group_size", 4)  # type: ignore[arg-type]
    file, read, original = write_answers(RUN, tmp_path, 0, examples(*range(40))), [], pq.ParquetFile.read_row_group

    def counted(self: Any, group: int, **settings: Any) -> Any:
        read.append(group)
        return original(self, group, **settings)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    assert taken_over(RUN, examples(39, 1, 2), file).num_rows == 3
    assert read == [*range(10), 0, 9], "after the index, which reads all"


def test_rationalised_rows_need_both_answers(tmp_path: Path) -> None:
    run = run_config({"engine": "echo", "filters": {"gold": "rationalise"}}, corpus={"validation": 0.0})
    first = write_answers(run_config({"engine": "echo"}), tmp_path, 0, [APPLES], HintedTeacher())
    assert taken_over(run, [APPLES], first).num_rows == 0
    both = write_answers(run, tmp_path, 1, [APPLES], HintedTeacher())
    assert taken_over(run, [APPLES], first, both)["note"].to_pylist() == [RATIONALISED]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [(lambda data: data[:-9], "magic bytes"), (lambda data: None, "No such file"),
     (lambda data: data[: len(data) // 3] + bytes(9) + data[len(data) // 3 + 9 :], "CRC")],
)  # fmt: skip
def test_damaged_files_are_named_and_not_used(tmp_path: Path, damage: Any, problem: str) -> None:
    file, whole = (write_answers(RUN, tmp_path, k, examples(*rows)) for k, rows in enumerate((range(30), [50])))
    damaged = damage((tmp_path / file.name).read_bytes())
    (tmp_path / file.name).unlink() if damaged is None else (tmp_path / file.name).write_bytes(damaged)
    index, [found] = index_of(file, whole)
    assert (found.file, len(index.halves)) == (file.shown, 1)
    assert problem.lower() in found.rule.lower()


@pytest.mark.parametrize(
    "sample",
    [
        Sample("4 - 1 = 3. The answer is 3.", 7, "stop"),
        Sample("The answer is 3.", 7, "stop", thoughts="hm", raw="hm</think>The answer is 3.", opened=True),
        Sample("The answer is 3.", 7, "stop", thoughts="apart"),
        Sample("", 7, "length", thoughts="apart", thoughts_end=False),
        Sample("The answer is (a).", 7, "stop", label_probabilities=(("a", 0.75), ("b", 0.25))),
    ],
)
def test_a_stored_sample_reads_as_it_was(sample: Sample) -> None:
    cutter, given = ThoughtCutter("auto"), Generation((sample,), 11)
    first, again = cutter.cut(given), cutter.cut(stored_generation(StoredAnswer(b"k" * 16, given).entry()))
    for name in ("text", "tokens", "finish_reason", "thoughts", "thoughts_end", "label_probabilities"):
        assert getattr(first.samples[0], name) == getattr(again.samples[0], name), name


@pytest.mark.parametrize("method", ["move", "delete", "clear"])
@pytest.mark.parametrize("calls", range(3))
def test_a_kill_while_labels_are_replaced_loses_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, calls: int
) -> None:
    for k in range(3):
        write_answers(RUN, tmp_path, k, examples(k))
    store = Store(str(tmp_path))
    store.write("manifest.json", b"{}")
    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(Store, method, killed_after(calls, method))
        replace_labels(store, lambda: None, keep_answers=True)
    replace_labels(store, lambda: None, keep_answers=True)
    assert {name.partition("/")[0] for name in store.files()} == {"earlier"}
    assert len(store.files("earlier")) == 3
