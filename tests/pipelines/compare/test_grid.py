from pathlib import Path
from typing import Any

import pytest

from pipelines.compare import grid
from pipelines.compare.checks import check_compare
from pipelines.compare.grid import Setting, cells, run_of, settings_of, trials, without_search
from pipelines.compare.scheduler import parallel_cells
from pipelines.config import RunConfig
from pipelines.errors import UserError
from pipelines.methods import METHODS
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import Store
from pipelines.tasks.arithmetic import Arithmetic
from tests.support.tiny_runs import label_rows, make_run, write_labels

SEARCH = {"trials": 3, "learning_rate": [1e-4, 1e-2], "weight": [0.2, 0.8]}


def run_with(tmp_path: Path, sections: dict[str, Any] | None = None, **compare: Any) -> RunConfig:
    small = {"methods": ["finetune", "step-by-step"], "fractions": [1.0, 0.25], "seeds": [0, 3], "arms": []}
    return make_run(tmp_path, "some/model", compare={**small, **compare}, **(sections or {}))


def test_the_first_seed_and_small_fractions_come_first(tmp_path: Path) -> None:
    run = run_with(tmp_path)
    found = cells(run, without_search(run))
    assert [(cell.seed, cell.fraction, cell.method) for cell in found] == [
        (seed, fraction, method) for seed in (0, 3) for fraction in (0.25, 1.0) for method in ("finetune", "step-by-step")
    ]  # fmt: skip


def test_methods_that_learn_rationales_have_the_control(tmp_path: Path) -> None:
    run = run_with(tmp_path, methods=list(METHODS), arms=["shuffled-rationales"], seeds=[0], fractions=[1.0])
    controls = [cell.method for cell in cells(run, without_search(run)) if cell.treatment == "shuffled-rationales"]
    assert controls == ["step-by-step", "label-then-rationale", "rationale-then-label"]


def test_every_method_tries_equally_many_settings(tmp_path: Path) -> None:
    run = run_with(tmp_path, search=SEARCH)
    plain, weighted = (settings_of(run, method) for method in ("finetune", "step-by-step"))
    assert [s.learning_rate for s in plain] == [s.learning_rate for s in weighted] == [1e-4, 1e-3, 1e-2]
    assert ([s.weight for s in plain], {s.weight for s in weighted}) == ([None] * 3, {0.2, 0.5, 0.8})
    assert ({(cell.fraction, cell.seed) for cell in trials(run)}, len(trials(run))) == ({(1.0, 0)}, 6)
    assert {cell.fraction for cell in trials(run_with(tmp_path, search={**SEARCH, "fraction": 0.25}))} == {0.25}


def test_without_a_search_the_run_files_settings_apply(tmp_path: Path) -> None:
    run = run_with(tmp_path)
    assert trials(run) == []
    assert without_search(run) == {
        ("some/model", "finetune"): Setting(1e-2, None), ("some/model", "step-by-step"): Setting(1e-2, 0.5),
    }  # fmt: skip


def test_the_baseline_is_the_plainest_method(tmp_path: Path) -> None:
    for methods in (["step-by-step", "finetune"], ["rationale-then-label", "task-distillation"]):
        assert grid.baseline_of(run_with(tmp_path, methods=methods).compare) == methods[1]


def test_a_cells_folder_has_its_fingerprint(tmp_path: Path) -> None:
    write_labels(tmp_path, label_rows(4))
    labels = require_manifest(Store(str(tmp_path / "labels")), "labels", "")

    def folder(**training: Any) -> str:
        run = run_with(tmp_path, {"training": training})
        made = run_of(run, cells(run, without_search(run))[1], Arithmetic(), labels)
        assert (made.student.method, made.training.fraction, made.training.seed) == ("step-by-step", 0.25, 0)
        return made.output.rpartition("/")[2]

    assert folder().startswith("model-step-by-step-0.25-seed0-")
    assert folder() == folder(workers=1)
    assert [grid.student_name(model) for model in ("google/t5-v1_1-base", "/a/b c/", "x")] == [
        "t5-v1_1-base",
        "b-c",
        "x",
    ]
    assert len({folder(), folder(learning_rate=1e-3), folder(epochs=5)}) == 3


def test_a_method_without_a_choice_of_labels_drops_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, "some/model", student={"labels": "teacher"})
    assert run.student.with_method("finetune", "other/model").labels is None
    assert run.student.with_method("rationale-then-label", "other/model").labels == "teacher"
    gold = make_run(tmp_path, "some/model", student={"labels": "gold"})
    assert gold.student.with_method("step-by-step", "other/model").labels is None, "a grid leaves out no rows"


@pytest.mark.parametrize(
    ("training", "nodes", "expected"),
    [
        ({"workers": 2, "gpus_per_worker": 1, "precision": "bf16"}, [{"GPU": 8.0}, {"GPU": 8.0}], 8),
        ({"workers": 4, "gpus_per_worker": 1, "precision": "bf16"}, [{"CPU": 8.0, "GPU": 2.0}], 1),
        ({"workers": 1}, [{"CPU": 64.0}, {"CPU": 64.0}, {"CPU": 64.0}], 3),
        ({"workers": 2}, [{"CPU": 64.0}], 1),
    ],
)
def test_parallel_cells_are_limited_by_workers(tmp_path: Path, training: Any, nodes: Any, expected: int) -> None:
    assert parallel_cells(make_run(tmp_path, "some/model", training=training), nodes) == expected


FILE = {"validation": "v.jsonl", "test": "t.jsonl"}
NARROW = {"trials": 4, "learning_rate": [1e-4, 1.002e-4]}
OWN_WORDS = {"model": "some/model", "method": "finetune", "init": {"kind": "random", "vocabulary": 400}}
VALIDATES: dict[str, Any] = {"training": {"validate_every_steps": 5, "patience": 2}}


@pytest.mark.parametrize(
    ("sections", "compare", "message"),
    [
        ({}, {"search": SEARCH}, r"compare\.search: settings are chosen on .*Set corpus\.test"),
        (VALIDATES, {}, r"training\.validate_every_steps: weights are chosen on .*Set corpus\.test"),
        ({}, {"methods": ["finetune"], "search": NARROW}, r"has only 1 different learning rates .* for 4 trials\. Widen it"),
        ({"student": OWN_WORDS}, {"methods": ["finetune", "token-kd"]}, r"compare\.methods token-kd: .*init\.vocabulary"),
        ({**VALIDATES, "corpus": FILE}, {"methods": ["rationale-then-label"]}, r"corpus\.validation.*rationale-then-label"),
        ({"corpus": FILE}, {"methods": ["rationale-as-input"], "search": SEARCH}, "the teacher does not answer the validation"),
        ({}, {"students": ["a/same", "b/same"]}, "last parts of their names must differ"),
    ],
)  # fmt: skip
def test_a_grid_without_meaning_is_refused(tmp_path: Path, sections: Any, compare: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_compare(run_with(tmp_path, sections, **compare))
    check_compare(run_with(tmp_path, {**VALIDATES, "corpus": {"test": "t.jsonl"}}))


@pytest.mark.parametrize(
    "search",
    [
        {"trials": 2}, {"learning_rate": [1e-4, 1e-3]}, {"trials": 2, "learning_rate": [1e-3, 1e-4]},
        {"trials": 2, "learning_rate": [0.0, 1e-4]}, {**SEARCH, "weight": [0.5, 1.5]},
    ],
)  # fmt: skip
def test_a_search_without_a_range_is_refused(tmp_path: Path, search: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="search"):
        run_with(tmp_path, search=search)
