"""The grid: which cells there are, what a search tries, and that a cell's folder names what decides it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.compare.checks import check_compare
from pipelines.compare.grid import (
    Setting,
    baseline_of,
    cells,
    run_of,
    settings_of,
    student_name,
    trials,
    without_search,
)
from pipelines.compare.scheduler import parallel_cells
from pipelines.errors import UserError
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import Store
from pipelines.tasks.arithmetic import Arithmetic
from tests.support.tiny_runs import label_rows, make_run, write_labels

SEARCH = {"trials": 3, "learning_rate": [1e-4, 1e-2], "weight": [0.2, 0.8]}


def run_with(tmp_path: Path, **compare: Any) -> Any:
    grid = {"methods": ["finetune", "step-by-step"], "fractions": [1.0, 0.25], "seeds": [0, 3], **compare}
    return make_run(tmp_path, "some/model", compare=grid)


def test_all_cells_of_the_first_seed_come_first_small_fractions_before_large(tmp_path: Path) -> None:
    run = run_with(tmp_path)
    found = cells(run, without_search(run))
    assert [(cell.seed, cell.fraction, cell.method) for cell in found] == [
        (seed, fraction, method) for seed in (0, 3) for fraction in (0.25, 1.0) for method in ("finetune", "step-by-step")
    ]  # fmt: skip


def test_every_method_tries_as_many_settings_with_the_same_learning_rates(tmp_path: Path) -> None:
    run = run_with(tmp_path, search=SEARCH)
    plain, weighted = (settings_of(run, method) for method in ("finetune", "step-by-step"))
    rates = [1e-4, 1e-3, 1e-2]
    assert [s.learning_rate for s in plain] == [s.learning_rate for s in weighted] == rates
    assert [s.weight for s in plain] == [None] * 3
    assert sorted(s.weight for s in weighted) == [0.2, 0.5, 0.8]
    assert {(cell.fraction, cell.seed) for cell in trials(run)} == {(1.0, 0)}
    assert len(trials(run)) == 6
    assert {cell.fraction for cell in trials(run_with(tmp_path, search={**SEARCH, "fraction": 0.25}))} == {0.25}


def test_without_a_search_the_run_files_settings_are_used(tmp_path: Path) -> None:
    run = run_with(tmp_path)
    assert trials(run) == []
    assert without_search(run) == {
        ("some/model", "finetune"): Setting(1e-2, None), ("some/model", "step-by-step"): Setting(1e-2, 0.5),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("methods", "baseline"),
    [(["step-by-step", "finetune"], "finetune"), (["rationale-then-label", "task-distillation"], "task-distillation")],
)
def test_the_baseline_is_the_plainest_method(tmp_path: Path, methods: list[str], baseline: str) -> None:
    assert baseline_of(run_with(tmp_path, methods=methods).compare) == baseline


def test_what_decides_a_cell_is_in_its_folders_name(tmp_path: Path) -> None:
    write_labels(tmp_path, label_rows(4))
    labels = require_manifest(Store(str(tmp_path / "labels")), "labels", "")

    def folder(**changed: Any) -> str:
        run = run_with(tmp_path).model_copy(update={"training": run_with(tmp_path).training.model_copy(update=changed)})
        first = cells(run, without_search(run))[1]
        made = run_of(run, first, Arithmetic(), labels)
        assert (made.student.method, made.training.fraction, made.training.seed) == ("step-by-step", 0.25, 0)
        return made.output.rpartition("/")[2]

    assert folder().startswith("model-step-by-step-0.25-seed0-")
    assert folder() == folder(workers=1)
    assert len({folder(), folder(learning_rate=1e-3), folder(epochs=5)}) == 3


def test_labels_to_learn_from_go_where_a_method_has_none_to_choose(tmp_path: Path) -> None:
    run = make_run(tmp_path, "some/model", student={"labels": "teacher"})
    assert run.student.with_method("finetune", "other/model").labels is None
    assert run.student.with_method("rationale-then-label", "other/model").labels == "teacher"


@pytest.mark.parametrize(
    ("training", "nodes", "expected"),
    [
        ({"workers": 2, "gpus_per_worker": 1, "precision": "bf16"}, [{"GPU": 8.0}, {"GPU": 8.0}], 8),
        ({"workers": 4, "gpus_per_worker": 1, "precision": "bf16"}, [{"CPU": 8.0, "GPU": 2.0}], 1),
        ({"workers": 1}, [{"CPU": 64.0}, {"CPU": 64.0}, {"CPU": 64.0}], 3),
        ({"workers": 2}, [{"CPU": 64.0}], 1),
    ],
)
def test_as_many_cells_at_a_time_as_have_workers(
    tmp_path: Path, training: dict[str, Any], nodes: list[dict[str, float]], expected: int
) -> None:
    assert parallel_cells(make_run(tmp_path, "some/model", training=training), nodes) == expected


def test_a_search_needs_a_test_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"compare\.search: .*Give corpus\.test"):
        check_compare(run_with(tmp_path, search=SEARCH))


def test_weights_are_not_chosen_on_what_is_scored(tmp_path: Path) -> None:
    training = {"validate_every_steps": 5, "patience": 2}
    run = make_run(tmp_path, "some/model", training=training)
    with pytest.raises(UserError, match=r"training\.validate_every_steps: weights are chosen .*Give corpus\.test"):
        check_compare(run)
    check_compare(make_run(tmp_path, "some/model", training=training, corpus={"test": "t.jsonl"}))


def test_a_range_too_narrow_for_its_trials_is_refused(tmp_path: Path) -> None:
    narrow = {"trials": 4, "learning_rate": [1e-4, 1.002e-4]}
    with pytest.raises(UserError, match=r"learning_rate .*1 different learning rates for 4 trials .*Widen it"):
        check_compare(run_with(tmp_path, methods=["finetune"], search=narrow))


def test_settings_that_a_method_does_not_go_with_are_refused_before_anything_is_labelled(tmp_path: Path) -> None:
    compare = {"methods": ["finetune", "token-kd"]}
    student = {"init": {"kind": "random", "vocabulary": 400}}
    run = make_run(
        tmp_path, "some/model", student={"model": "some/model", "method": "finetune", **student}, compare=compare
    )
    with pytest.raises(UserError, match=r"compare\.methods token-kd: .*remove init\.vocabulary"):
        check_compare(run)


def test_a_validation_file_that_cannot_measure_a_method_is_refused(tmp_path: Path) -> None:
    corpus = {"validation": str(tmp_path / "v.jsonl"), "test": "t.jsonl"}
    compare = {"methods": ["finetune", "rationale-then-label"]}
    run = make_run(tmp_path, "some/model", training={"validate_every_steps": 5}, corpus=corpus, compare=compare)
    with pytest.raises(UserError, match=r"corpus\.validation is a file, .*rationale-then-label"):
        check_compare(run)


def test_students_that_the_report_could_not_tell_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="last part of their names"):
        check_compare(run_with(tmp_path, students=["a/same", "b/same"]))


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"trials": 2}, "need something to vary"),
        ({"learning_rate": [1e-4, 1e-3]}, "with 1 trial nothing is searched"),
        ({"trials": 2, "learning_rate": [1e-3, 1e-4]}, "is not"),
        ({"trials": 2, "learning_rate": [0.0, 1e-4]}, "above 0"),
        ({**SEARCH, "weight": [0.5, 1.5]}, "at most 1"),
    ],
)
def test_a_search_of_nothing_is_refused(tmp_path: Path, search: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_with(tmp_path, search=search)


@pytest.mark.parametrize(("model", "name"), [("google/t5-v1_1-base", "t5-v1_1-base"), ("/a/b c/", "b-c"), ("x", "x")])
def test_names_are_fit_for_files(model: str, name: str) -> None:
    assert student_name(model) == name
