"""Rows that take over stored answers."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipelines.label.answers.thoughts import ThoughtCutter
from pipelines.label.stored.index import stored_keys
from pipelines.label.stored.sources import replace_labels
from pipelines.label.stored.texts import StoredAnswer, stored_generation
from pipelines.label.teachers.base import Generation, Sample
from pipelines.storage.store import Store
from tests.support.corpora import run_config
from tests.support.label_writers import Killed, killed_after
from tests.support.stored_answers import examples, index_of, keys_of, taken_over, write_answers

RUN = run_config({"engine": "echo", "sampling": {"n": 2, "temperature": 1.0}})


def test_rows_with_a_stored_prompt_take_the_answer_over(tmp_path: Path) -> None:
    """In any order, from several files, with other ids, filters and gold labels; other prompts have none."""
    files = [write_answers(RUN, tmp_path, k, examples(*range(9 * k, 9 * k + 9))) for k in range(3)]
    rows = examples(20, 3, 99, 0, 26, 3)
    found = taken_over(RUN, rows, *files).to_pylist()
    assert [row["id"] for row in found] == ["r20", "r3", "r0", "r26", "r3"]
    assert [row["label"] for row in found[:2]] == ["20 + 0", "3 + 0"]
    assert {(row["stored"], row["votes"]) for row in found} == {(True, 2)}
    assert found[0]["texts"][0]["samples"][0]["text"].endswith("The answer is (20 + 0).")
    strict = run_config({**RUN.teacher.model_dump(), "filters": {"min_rationale_words": 50}})
    assert set(taken_over(strict, rows, *files)["reason"].to_pylist()) == {"rationale_length"}
    assert taken_over(run_config({"engine": "echo"}), rows, *files).num_rows == 0, "another sampling"


def test_a_lookup_reads_only_row_groups_with_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(write_answers.__globals__["write_parts"].__globals__["TEXT_PARQUET"], "row_group_size", 4)
    file = write_answers(RUN, tmp_path, 0, examples(*range(40)))
    read: list[int] = []

    def counted(self: Any, group: int, **settings: Any) -> Any:
        read.append(group)
        return original(self, group, **settings)

    import pyarrow.parquet as pq

    index, _ = index_of(file)
    assert len(index.halves) == 40
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    from pipelines.label.stored.lookup import StoredAnswers
    from pipelines.tasks import task_spec

    keys = keys_of(RUN)
    answers = StoredAnswers(RUN, task_spec("arithmetic"), None, keys, [file])
    wanted = [keys.of(answers_prompt(row)) for row in examples(39, 1, 2)]
    assert set(answers._read(wanted, index)) == set(wanted)
    assert read == [0, 9]


def answers_prompt(row: Any) -> Any:
    from pipelines.label.answers.prompts import PromptMaker
    from pipelines.tasks import load_task, task_spec

    return PromptMaker(load_task(task_spec("arithmetic")), RUN.teacher).render(row)


def test_rationalised_rows_need_both_answers(tmp_path: Path) -> None:
    teacher = {"engine": "echo", "filters": {"gold": "rationalise"}}
    run = run_config(teacher, corpus={"validation": 0.0})
    file = write_answers(run, tmp_path, 0, examples(1, 2))
    assert taken_over(run, examples(1, 2), file)["id"].to_pylist() == ["r1", "r2"]


@pytest.mark.parametrize(("at", "problem"), [(0.5, "CRC"), (None, "magic bytes"), (1, "no such file")])
def test_damaged_files_are_named_and_not_used(tmp_path: Path, at: float | None, problem: str) -> None:
    file = write_answers(RUN, tmp_path, 0, examples(*range(30)))
    whole = write_answers(RUN, tmp_path, 1, examples(50))
    path = tmp_path / file.name
    data = bytearray(path.read_bytes())
    if at is None:
        path.write_bytes(data[:-9])
    elif at == 1:
        path.unlink()
    else:
        data[len(data) // 3] ^= 0xFF
        path.write_bytes(data)
    index, problems = index_of(file, whole)
    assert [(p.file, problem.lower() in p.rule.lower() or p.rule) for p in problems] == [(file.shown, True)]
    assert len(index.halves) == 1


def test_a_plan_finds_the_same_keys_without_ray(tmp_path: Path) -> None:
    file = write_answers(RUN, tmp_path, 0, examples(*range(30)))
    wanted = [keys_of(RUN).of(answers_prompt(row)) for row in examples(5, 77)]
    assert stored_keys([file], wanted) == {wanted[0]}


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
    cutter = ThoughtCutter("auto")
    first = cutter.cut(Generation((sample,), 11))
    again = cutter.cut(stored_generation(StoredAnswer(b"k" * 16, Generation((sample,), 11)).entry()))
    assert (again.prompt_tokens, again.output_tokens) == (11, 7)
    [one], [two] = first.samples, again.samples
    for name in ("text", "finish_reason", "thoughts", "thoughts_end", "label_probabilities"):
        assert getattr(one, name) == getattr(two, name), name


@pytest.mark.parametrize("method", ["move", "delete", "clear"])
@pytest.mark.parametrize("calls", range(3))
def test_a_kill_while_labels_are_replaced_loses_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, calls: int
) -> None:
    for k in range(3):
        write_answers(RUN, tmp_path, k, examples(k))
    store = Store(str(tmp_path))
    store.write("manifest.json", b"{}")
    with monkeypatch.context() as patch:
        patch.setattr(Store, method, killed_after(calls, method))
        with suppress(Killed):
            replace_labels(store, lambda: None, keep_answers=True, lock=".lock")
    replace_labels(store, lambda: None, keep_answers=True, lock=".lock")
    assert {name.partition("/")[0] for name in store.files()} == {"earlier"}
    assert len(store.files("earlier")) == 3
