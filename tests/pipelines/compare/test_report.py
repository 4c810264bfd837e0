from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.compare.grid import Cell, cells, trials, without_search
from pipelines.compare.model import Group
from pipelines.compare.page import comparison_page
from pipelines.compare.report import comparison_report
from pipelines.compare.results import GridResults, references
from pipelines.config import FiltersConfig, SearchConfig
from pipelines.data.heldout import heldout_examples
from pipelines.scoring.seeds import mean, mean_difference
from pipelines.tasks.arithmetic import Arithmetic
from tests.support.artifacts import label_row, make_run, reject_row, write_corpus, write_labels
from tests.support.grid_results import NUM, RIGHT, TRAINED, grid_results, scores


@pytest.fixture
def grid(tmp_path: Path) -> GridResults:
    return grid_results(tmp_path)


def configure(grid: GridResults, **compare: Any) -> None:
    grid.run = grid.run.model_copy(update={"compare": grid.run.compare.model_copy(update=compare)})


def cell_of(grid: GridResults, method: str, seed: int) -> Cell:
    return next(cell for cell in grid.cells if (cell.method, cell.seed) == (method, seed))


def drop(grid: GridResults, *dropped: Cell, reason: str | None = None) -> None:
    for cell in dropped:
        del grid.cells[cell], grid.rights[cell]
        if reason:
            grid.missing[cell] = reason


def group(grid: GridResults, method: str) -> Group:
    return next(group for group in comparison_report(grid).groups if group.method == method)


def test_seeds_are_averaged_and_methods_paired_by_example(grid: GridResults) -> None:
    report = comparison_report(grid)
    ours, theirs = [RIGHT["step-by-step", s] for s in (0, 1)], [RIGHT["finetune", s] for s in (0, 1)]
    expected, gap = mean(ours), mean_difference(ours, theirs)
    found = group(grid, "step-by-step")
    assert (found.accuracy, found.interval, found.train_examples) == (0.85, (expected.low, expected.high), 40.5)
    [difference] = report.differences
    assert difference.model_dump() == {
        "student": "small", "method": "step-by-step", "fraction": 1.0, "treatment": None, "gold_fraction": None, "accuracy": 0.85,
        "baseline_accuracy": 0.4, "difference": pytest.approx(0.45), "interval": (gap.low, gap.high), "seeds": 2, "versus": "",
        "p_value": gap.p_value, "adjusted_p": None, "budget_ratio": 1.0, "verdict": "not shown", "why": "fewer than 3 seeds",
    }  # fmt: skip
    assert {line.name: line.correct for line in report.lines} == {"teacher": 9, "majority": 0, "untrained": None}


def test_the_headline_is_about_a_fixed_method(grid: GridResults) -> None:
    assert comparison_report(grid).headline.startswith(
        "With 100% of the labels step-by-step is right on 85.0% of 10 held-out examples and finetune on 40.0% (small, mean of 2 seeds, "
        "7 steps each): +45.0 points (95% interval"
    )
    for seed in (0, 1):
        grid.rights[cell_of(grid, "step-by-step", seed)] = RIGHT["finetune", seed]
    assert comparison_report(grid).headline.endswith("no difference is shown (fewer than 3 seeds).")


def test_only_seeds_of_both_methods_are_compared(grid: GridResults) -> None:
    drop(grid, cell_of(grid, "finetune", 1), reason="training broke off: no")
    report = comparison_report(grid)
    [missing] = report.missing
    found = (missing.student, missing.method, missing.fraction, missing.seed, missing.why)
    assert found == ("small", "finetune", 1.0, 1, "training broke off: no")
    assert [(d.seeds, d.difference) for d in report.differences] == [(1, pytest.approx(0.5))]
    assert group(grid, "step-by-step").accuracy == pytest.approx(0.85), "over both of its seeds"
    headline = "step-by-step is right on 80.0% of 10 held-out examples and finetune on 30.0% (small, 1 seed, 7 steps each): +50.0"
    assert headline in report.headline
    drop(grid, cell_of(grid, "finetune", 0))
    assert comparison_report(grid).differences == []


def test_a_control_may_be_finished_first(grid: GridResults) -> None:
    configure(grid, methods=["step-by-step"], arms=["shuffled-rationales"], seeds=[0])
    plain = cell_of(grid, "step-by-step", 0)
    shuffled = replace(plain, treatment="shuffled-rationales")
    grid.cells, grid.rights = {shuffled: grid.cells[plain]}, {shuffled: grid.rights[plain]}
    grid.missing = {plain: "not finished yet"}
    report = comparison_report(grid)
    assert report.headline == "No method can be compared with step-by-step yet: 1 of 2 trainings is finished."
    assert "step-by-step, shuffled rationales" in comparison_page(report)


def test_costs_follow_from_workers_time_and_price(grid: GridResults) -> None:
    cost = comparison_report(grid).cost
    # Two workers for half an hour at 2.0; half a second of one worker per answer.
    assert {row.money for row in cost.training} == {2.0}
    assert [row.per_1000 for row in cost.answers] == [pytest.approx(1000 * 0.5 / 3600 * 2.0)] * 2
    for cell, manifest in grid.cells.items():
        # The run that trained the second seed had a GPU per worker, and got only one of two workers.
        manifest.config["training"]["gpus_per_worker"] = cell.seed
        manifest.details["training"]["world_size"] = 2 - cell.seed
    report = comparison_report(grid)
    assert [[cell.gpu_hours for cell in one.cells] for one in report.groups] == [[0.0, 0.5]] * 2
    assert {row.money for row in report.cost.training} == {1.5}


def test_one_and_two_seeds_have_notes(grid: GridResults) -> None:
    two = comparison_report(grid)
    assert two.headline.endswith("+76.4), no difference is shown (fewer than 3 seeds).")
    assert [note.partition(" that")[0] for note in two.notes] == ["Intervals of two seeds"]
    drop(grid, *[cell for cell in grid.cells if cell.seed == 1])
    grid.rights[cell_of(grid, "step-by-step", 0)] = [True] * NUM
    one = comparison_report(grid)
    ending = "+94.5, which ignores the choice of the seed), no difference is shown (fewer than 3 seeds)."
    assert one.headline.endswith(ending)
    assert one.notes[0].startswith("Intervals of one seed are of this very student")
    drop(grid, cell_of(grid, "finetune", 0))
    assert "%, which ignores the choice of the seed) of 10 held-out" in comparison_report(grid).headline


def test_a_longer_training_is_noted(grid: GridResults) -> None:
    assert not any("equally long" in note for note in comparison_report(grid).notes)
    for seed in (0, 1):
        details = grid.cells[cell_of(grid, "step-by-step", seed)].details
        details["training"]["steps"], details["tokens"] = 14, 2600 + 40 * seed
    report = comparison_report(grid)
    assert report.notes[-1] == (
        "Methods are not trained equally long (small, 100% of the labels): step-by-step takes 2.0 times the optimizer steps and "
        "2.9 times the tokens of finetune."
    )
    assert [(one.steps, one.tokens) for one in report.groups] == [(7.0, 900.0), (14.0, 2620.0)]


def test_rejected_rows_are_noted(grid: GridResults) -> None:
    reasons = {"unparsable": 30, "disagrees_with_gold": 120}
    grid.labels.counts = {"read": 600, "accepted": 450, "rejected": 150, "rejected_by_reason": reasons}
    assert comparison_report(grid).notes[-1] == (
        "All methods, including the baseline, learn only from accepted rows: 450 of 600 (rejected: disagrees_with_gold 120, unparsable 30)."
    )
    grid.labels.counts |= {"accepted": 600, "rejected": 0, "rejected_by_reason": {}}
    assert not any("accepted" in note for note in comparison_report(grid).notes)


def test_settings_hold_what_all_cells_share(grid: GridResults) -> None:
    grid.run = grid.run.model_copy(update={"student": grid.run.student.model_copy(update={"labels": "teacher"})})
    settings = comparison_report(grid).settings
    assert (settings.labels, settings.filters) == ({"finetune": "gold", "step-by-step": "teacher"}, None)
    training = settings.training.model_dump()
    assert (training["epochs"], training["tokens_per_batch"]) == (3, 16384)
    assert not {"seed", "fraction", "learning_rate", "workers", "zero_stage"} & training.keys()
    filters = FiltersConfig(gold="drop-disagreeing").model_dump()
    grid.labels.identity["teacher"] = {"filters": filters}
    report: Any = comparison_report(grid)
    assert report.settings.filters == report.provenance["labels"]["filters"] == filters


def test_a_search_lists_trials_winners_and_failures(grid: GridResults) -> None:
    assert comparison_report(grid).search is None
    configure(grid, search=SearchConfig(trials=2, learning_rate=[1e-4, 1e-2]))
    low, high, low_too, broken = trials(grid.run)
    grid.trials = {cell: scores(cell, [cell is high] * 4) for cell in (low, high, low_too)}
    grid.failed_trials = {broken: "step 3 is not finite"}
    grid.chosen = {(cell.student, cell.method): cell.setting for cell in (high, low_too)}
    search = comparison_report(grid).search
    assert [(s.method, s.correct, s.chosen, s.why) for s in search.settings] == [
        ("finetune", 0, False, ""), ("finetune", 4, True, ""), ("step-by-step", 0, True, ""),
        ("step-by-step", None, False, "step 3 is not finite"),
    ]  # fmt: skip


def test_a_grid_of_one_method_has_a_headline(grid: GridResults) -> None:
    drop(grid, *[cell for cell in grid.cells if cell.method == "finetune"], reason="not finished yet")
    headline = comparison_report(grid).headline
    assert headline == "No method can be compared with finetune yet: 2 of 4 trainings are finished."
    grid.missing.clear()
    alone = comparison_report(grid).headline
    assert alone.startswith("With 100% of the labels step-by-step is right on 85.0% (95% interval ")
    assert alone.endswith("held-out examples (small, mean of 2 seeds). The grid has no other method to compare with.")


def test_a_method_that_reads_rationales_shows_their_cost(grid: GridResults, tmp_path: Path) -> None:
    report = comparison_report(grid)
    assert report.rationales_read is None
    assert {row.teacher_prompt_tokens for row in report.cost.answers} == {None}
    texts = ["1 + 2 = 3", "who knows", " "]
    answers = [{**label_row(f"h{i}", "3", text=f"q {i}"), "rationale": texts[i % 3]} for i in range(9)]
    write_labels(tmp_path / "out" / "labels", TRAINED, answers)
    configure(grid, methods=["finetune", "rationale-as-input"])
    grid.references = references(grid.run, grid.task, grid.heldout, grid.examples, None)
    for cell in cells(grid.run, without_search(grid.run)):
        grid.cells[cell], grid.rights[cell] = scores(cell, [True] * NUM), [True] * NUM
    report = comparison_report(grid)
    assert report.rationales_read.model_dump() == {"examples": 10, "without": 4, "states_gold": 0.5}
    tokens = {row.method: (row.teacher_prompt_tokens, row.teacher_output_tokens) for row in report.cost.answers}
    assert tokens == {"finetune": (None, None), "rationale-as-input": (9.0, 5.0)}


def test_teacher_tokens_are_means_of_recorded_answers(grid: GridResults, tmp_path: Path) -> None:
    """Answers recovered from rejects have no token counts."""
    write_corpus(tmp_path / "train.jsonl", [{"id": f"t{i}", "input": f"q {i}", "label": "3"} for i in range(20)])
    rows = [label_row(f"t{i}", "3", "3", f"q {i}") for i in range(10)]
    rejects = [reject_row(f"t{i}", "gives_label_away", "The answer is 3.") for i in range(10, 20)]
    write_labels(tmp_path / "out" / "labels", rows, rejects=rejects)
    run = make_run(tmp_path, corpus={"train": str(tmp_path / "train.jsonl"), "validation": 0.5})
    heldout = heldout_examples(run, Arithmetic())
    found = references(run, Arithmetic(), heldout, heldout.examples, None)
    assert (found.teacher_prompt_tokens, found.teacher_output_tokens) == (9.0, 5.0)
    assert (found.lines[0].correct, found.lines[0].total) == (len(heldout.examples),) * 2
