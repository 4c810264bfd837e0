"""report.json of a grid: what is averaged over seeds, compared with what, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.compare.grid import Cell, cells, trials, without_search
from pipelines.compare.report import Found, comparison, shared_parts
from pipelines.config import FiltersConfig, SearchConfig
from pipelines.data.heldout import heldout_examples
from pipelines.scoring.seeds import mean, mean_difference
from pipelines.storage.manifest import Manifest, manifest_of, require_manifest
from pipelines.storage.store import Store
from pipelines.tasks.arithmetic import Arithmetic
from tests.support.artifacts import label_row, make_run, reject_row, write_corpus, write_labels

NUM = 10
RIGHT = {
    ("finetune", 0): [True] * 3 + [False] * 7,
    ("finetune", 1): [True] * 5 + [False] * 5,
    ("step-by-step", 0): [True] * 8 + [False] * 2,
    ("step-by-step", 1): [True] * 9 + [False],
}


def scores(cell: Cell, right: list[bool]) -> Manifest:
    details = {
        "training": {"steps": 7, "world_size": 2}, "parameters": 1000, "train_examples": 40 + cell.seed, "tokens": 900,
        "train_s": 1800.0, "student": f"{cell.method}{cell.seed}", "seconds_per_example": 0.5,
    }  # fmt: skip
    counts = {"correct": sum(right), "total": NUM, "unanswered": 1, "too_long": 0}
    config = {"training": {"gpus_per_worker": 0}}
    return manifest_of("scores", {}, config=config, counts=counts, timings_s={}, details=details, provenance={})


@pytest.fixture
def found(tmp_path: Path) -> Found:
    run = make_run(
        tmp_path,
        compare={"fractions": [1.0], "seeds": [0, 1], "students": ["a/small"], "price_per_worker_hour": 2.0},
        training={"workers": 2},
    )
    write_corpus(tmp_path / "test.jsonl", [{"id": f"h{i}", "input": f"q {i}", "label": "3"} for i in range(NUM)])
    heldout_answers = [label_row(f"h{i}", "3" if i < 9 else "4", text=f"q {i}") for i in range(NUM)]
    write_labels(tmp_path / "out" / "labels", [label_row("a", "3", "4"), label_row("b", "4", "4")], heldout_answers)
    heldout = heldout_examples(run, Arithmetic())
    labels = require_manifest(Store(str(tmp_path / "out" / "labels")), "labels", "")
    made = Found(run, Arithmetic(), labels, heldout, heldout.examples)
    for cell in cells(run, without_search(run)):
        made.cells[cell] = scores(cell, RIGHT[cell.method, cell.seed])
        made.rights[cell] = RIGHT[cell.method, cell.seed]
    made.shared = shared_parts(made)
    return made


def group(content: dict[str, Any], method: str) -> dict[str, Any]:
    return next(group for group in content["groups"] if group["method"] == method)


def test_seeds_are_averaged_and_methods_compared_example_by_example(found: Found) -> None:
    content = comparison(found)
    ours, theirs = [RIGHT["step-by-step", s] for s in (0, 1)], [RIGHT["finetune", s] for s in (0, 1)]
    expected, apart = mean(ours), mean_difference(ours, theirs)
    assert group(content, "step-by-step")["accuracy"] == 0.85
    assert group(content, "step-by-step")["interval"] == [expected.low, expected.high]
    assert group(content, "step-by-step")["train_examples"] == 40.5
    assert content["differences"] == [
        {"student": "small", "method": "step-by-step", "fraction": 1.0, "accuracy": 0.85, "baseline_accuracy": 0.4,
         "difference": pytest.approx(0.45), "interval": [apart.low, apart.high], "seeds": 2}
    ]  # fmt: skip
    lines = {line["name"]: line["correct"] for line in content["lines"]}
    assert lines == {"teacher": 9, "majority": 0, "untrained": None}


def test_the_headline_tells_of_the_method_that_was_to_help_not_of_the_best(found: Found) -> None:
    assert comparison(found)["headline"].startswith(
        "With 100% of the labels step-by-step is right on 85.0% of 10 held-out examples and finetune on 40.0% (small, mean of 2 seeds): "
        "+45.0 points (95% interval"
    )
    for cell in [cell for cell in found.cells if cell.method == "step-by-step"]:
        found.rights[cell] = RIGHT["finetune", cell.seed]
    assert comparison(found)["headline"].endswith("no difference is shown.")


def test_missing_cells_are_listed_and_only_seeds_that_both_have_are_compared(found: Found) -> None:
    gone = next(cell for cell in found.cells if cell.method == "finetune" and cell.seed == 1)
    del found.cells[gone], found.rights[gone]
    found.missing[gone] = "training broke off: no"
    content = comparison(found)
    assert content["missing"] == [
        {"student": "small", "method": "finetune", "fraction": 1.0, "seed": 1, "why": "training broke off: no"}
    ]
    assert [d["seeds"] for d in content["differences"]] == [1]
    assert content["differences"][0]["difference"] == pytest.approx(0.5)
    del found.cells[next(cell for cell in found.cells if cell.method == "finetune")]
    assert comparison(found)["differences"] == []


def test_costs_follow_from_the_price_of_a_workers_hour(found: Found) -> None:
    cost = comparison(found)["cost"]
    # Two workers for half an hour at 2.0; half a second of one worker for an answer.
    assert {row["money"] for row in cost["training"]} == {2.0}
    assert [row["per_1000"] for row in cost["answers"]] == [pytest.approx(1000 * 0.5 / 3600 * 2.0)] * 2
    assert {row["gpu_hours"] for row in cost["training"]} == {0.0}


def test_gpu_hours_are_those_of_the_run_that_trained_a_cell(found: Found) -> None:
    for cell, manifest in found.cells.items():
        manifest.config["training"]["gpus_per_worker"] = cell.seed
    # Two workers for half an hour; the first seed was trained on CPUs. The run says CPUs by now.
    assert [[cell["gpu_hours"] for cell in made["cells"]] for made in comparison(found)["groups"]] == [[0.0, 1.0]] * 2


def test_one_seed_is_told_of_as_one_student(found: Found) -> None:
    two = comparison(found)
    assert two["headline"].endswith("+76.4), no difference is shown.")
    assert [note.partition(" seeds")[0] for note in two["notes"]] == ["Where there are two"]
    for cell in [cell for cell in found.cells if cell.seed == 1]:
        del found.cells[cell]
    found.rights = {cell: right if cell.method == "finetune" else [True] * NUM for cell, right in found.rights.items()}
    one = comparison(found)
    assert one["headline"].endswith(
        "points (95% interval +22.1 to +94.5, which knows nothing of another seed), this one student is better."
    )
    assert one["notes"][0].startswith(
        "Where there is one seed, an interval is of these very students: it knows nothing of"
    )
    for cell in [cell for cell in found.cells if cell.method == "finetune"]:
        del found.cells[cell]
    found.missing.clear()
    assert "%, which knows nothing of another seed) of 10 held-out" in comparison(found)["headline"]


def test_how_much_longer_a_method_is_trained_is_told(found: Found) -> None:
    def notes() -> list[str]:
        return [note for note in comparison(found)["notes"] if "equally long" in note]

    assert notes() == [], "the steps and tokens are the same"
    for cell, manifest in found.cells.items():
        if cell.method == "step-by-step":
            manifest.details["training"]["steps"], manifest.details["tokens"] = 14, 2600 + 40 * cell.seed
    assert notes() == [
        "Methods are not trained equally long (small, 100% of the labels): step-by-step takes 2.0 times the optimizer steps and "
        "2.9 times the tokens of finetune."
    ]
    assert [(made["steps"], made["tokens"]) for made in comparison(found)["groups"]] == [(7.0, 900.0), (14.0, 2620.0)]


def test_it_is_told_that_no_method_learns_from_what_was_rejected(found: Found) -> None:
    counts = {
        "read": 600,
        "accepted": 450,
        "rejected": 150,
        "rejected_by_reason": {"unparsable": 30, "disagrees_with_gold": 120},
    }
    found.labels.counts = counts
    assert comparison(found)["notes"][-1] == (
        "All methods, the baseline too, learn only from rows that the teacher's answers and filters left: 450 of 600 "
        "(rejected: disagrees_with_gold 120, unparsable 30)."
    )
    found.labels.counts = {**counts, "accepted": 600, "rejected": 0, "rejected_by_reason": {}}
    assert not any("filters" in note for note in comparison(found)["notes"])


def test_whose_labels_are_learned_and_how_is_told_and_what_differs_from_cell_to_cell_is_not(found: Found) -> None:
    found.run = found.run.model_copy(update={"student": found.run.student.model_copy(update={"labels": "teacher"})})
    settings = comparison(found)["settings"]
    assert settings["labels"] == {"finetune": "gold", "step-by-step": "teacher"}
    assert settings["filters"] is None, "these labels do not say"
    assert (settings["training"]["epochs"], settings["training"]["tokens_per_batch"]) == (3, 16384)
    assert not {"seed", "fraction", "learning_rate", "workers", "zero_stage"} & settings["training"].keys()
    filters = FiltersConfig(gold="drop-disagreeing").model_dump()
    found.labels.identity["teacher"] = {"filters": filters}
    content = comparison(found)
    assert content["settings"]["filters"] == content["provenance"]["labels"]["filters"] == filters


def test_the_search_shows_what_was_tried_and_chosen_and_what_failed(found: Found) -> None:
    assert comparison(found)["search"] is None
    search = SearchConfig(trials=2, learning_rate=[1e-4, 1e-2])
    found.run = found.run.model_copy(update={"compare": found.run.compare.model_copy(update={"search": search})})
    low, high, low_too, broken = trials(found.run)
    found.trials = {cell: scores(cell, [cell is high] * 4) for cell in (low, high, low_too)}
    found.failed_trials = {broken: "step 3 is not finite"}
    found.chosen = {(cell.student, cell.method): cell.setting for cell in (high, low_too)}
    part = comparison(found)["search"]
    assert part is not None
    assert [(s["method"], s["correct"], s["chosen"], s["why"]) for s in part["settings"]] == [
        ("finetune", 0, False, ""),
        ("finetune", 4, True, ""),
        ("step-by-step", 0, True, ""),
        ("step-by-step", None, False, "step 3 is not finite"),
    ]


def test_the_headline_of_missing_cells_is_of_the_seeds_that_both_have(found: Found) -> None:
    gone = next(cell for cell in found.cells if cell.method == "finetune" and cell.seed == 1)
    del found.cells[gone]
    found.missing[gone] = "not there yet"
    content = comparison(found)
    assert group(content, "step-by-step")["accuracy"] == pytest.approx(0.85), "over both of its seeds"
    assert (
        "step-by-step is right on 80.0% of 10 held-out examples and finetune on 30.0% (small, 1 seed): +50.0"
        in (content["headline"])
    )


def test_a_grid_of_one_method_has_a_headline(found: Found) -> None:
    for cell in [cell for cell in found.cells if cell.method == "finetune"]:
        del found.cells[cell]
        found.missing[cell] = "not there yet"
    said = "No method can be compared with finetune yet: 2 of 4 trainings are there."
    assert comparison(found)["headline"] == said
    found.missing.clear()
    alone = comparison(found)["headline"]
    assert alone.startswith("With 100% of the labels step-by-step is right on 85.0% (95% interval ")
    assert alone.endswith(
        "of 10 held-out examples (small, mean of 2 seeds). The grid has no other method to compare it with."
    )


def test_a_method_that_needs_the_teacher_shows_what_it_gets_and_what_that_takes(found: Found, tmp_path: Path) -> None:
    assert comparison(found)["rationales_read"] is None
    assert {row["teacher_prompt_tokens"] for row in comparison(found)["cost"]["answers"]} == {None}
    answers = [
        {**label_row(f"h{i}", "3", text=f"q {i}"), "rationale": ["1 + 2 = 3", "who knows", " "][i % 3]}
        for i in range(9)
    ]
    write_labels(tmp_path / "out" / "labels", [label_row("a", "3", "4"), label_row("b", "4", "4")], answers)
    methods = ["finetune", "rationale-as-input"]
    found.run = found.run.model_copy(update={"compare": found.run.compare.model_copy(update={"methods": methods})})
    found.shared = shared_parts(found)
    for cell in cells(found.run, without_search(found.run)):
        found.cells[cell], found.rights[cell] = scores(cell, [True] * NUM), [True] * NUM
    content = comparison(found)
    assert content["rationales_read"] == {"examples": 10, "without": 4, "states_gold": 0.5}
    assert {row["method"]: (row["teacher_prompt_tokens"], row["teacher_output_tokens"]) for row in content["cost"]["answers"]} == {
        "finetune": (None, None), "rationale-as-input": (9.0, 5.0)
    }  # fmt: skip


def test_tokens_of_the_teacher_are_means_of_those_that_are_recorded(found: Found, tmp_path: Path) -> None:
    """An answer that a filter rejected is read back without them."""
    corpus = {"train": str(tmp_path / "train.jsonl"), "validation": 0.5}
    write_corpus(tmp_path / "train.jsonl", [{"id": f"t{i}", "input": f"q {i}", "label": "3"} for i in range(20)])
    rows = [label_row(f"t{i}", "3", "3", f"q {i}") for i in range(10)]
    rejects = [reject_row(f"t{i}", "gives_label_away", "The answer is 3.") for i in range(10, 20)]
    write_labels(tmp_path / "out" / "labels", rows, rejects=rejects)
    found.run = make_run(tmp_path, corpus=corpus)
    found.heldout = heldout_examples(found.run, Arithmetic())
    found.examples = found.heldout.examples
    parts = shared_parts(found)
    assert parts["teacher_tokens"] == {"teacher_prompt_tokens": 9.0, "teacher_output_tokens": 5.0}
    teacher = parts["lines"][0]
    assert (teacher["correct"], teacher["total"]) == (len(found.examples),) * 2


def test_what_a_training_costs_counts_the_workers_that_it_had(found: Found) -> None:
    for cell, manifest in found.cells.items():
        manifest.details["training"]["world_size"] = (
            1 + cell.seed
        )  # the second seed found fewer workers than it asked for
    assert {row["money"] for row in comparison(found)["cost"]["training"]} == {1.5}
