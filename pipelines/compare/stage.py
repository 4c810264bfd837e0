"""`raystill compare`: the grid cell by cell, and one report.

In: OUTPUT/labels, the corpus, the run file's `compare`. Out: OUTPUT/compare:

    compare/cells/NAME/          one per cell (cells.py)
    compare/labels/NAME/         labels of cells with a treatment (treated_labels.py), until all cells are finished
    compare/tokens/NAME/         token tables, each for all cells that learn from the same tokens, until all cells are finished
    compare/untrained/NAME/      students before any training
    compare/few-shot/NAME/       the same with the teacher's prompt
    compare/budgets/             tokens of an epoch of each cell
    compare/report.json          compare.model.ComparisonReport, written before the first cell and after every cell
    compare/report.html          the same as one self-contained page
    compare/manifest.json        last, when no cell is missing

A comparison that is refused leaves an earlier one unchanged. The earlier manifest, which does not describe the new report, is removed
before the first new report.

The search comes first (search.py). Only then do students read the held-out examples, each cell with the chosen setting.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from pipelines.compare import cells, grid
from pipelines.compare.arms import grid_with_arms
from pipelines.compare.budgets import Budgets, epoch_key, grid_budgets
from pipelines.compare.cells import Scores, Split
from pipelines.compare.checks import check_compare, check_labelled
from pipelines.compare.few_shot import score_few_shot
from pipelines.compare.grid import Cell
from pipelines.compare.model import FORMAT, ComparisonReport
from pipelines.compare.report import comparison_report
from pipelines.compare.results import GridResults, references
from pipelines.compare.running_cells import RunningCells
from pipelines.compare.scheduler import CellFailure, CellJob, run_jobs
from pipelines.compare.search import Chosen, chosen_settings, grouped
from pipelines.compare.tf_idf import score_tf_idf
from pipelines.compare.treated_labels import gold_rows, treated_manifest, write_treated
from pipelines.config import RunConfig
from pipelines.data.heldout import Heldout
from pipelines.data.label_parts import LabelParts
from pipelines.errors import RaystillError, StageFailedError, UserError
from pipelines.methods import MethodName
from pipelines.reports.format import plural
from pipelines.reuse import decide
from pipelines.runtime.progress import Progress
from pipelines.runtime.progress_file import ProgressFile
from pipelines.runtime.stage_metrics import StageGauges
from pipelines.runtime.terminal import say
from pipelines.scoring.heldout_part import scored_examples
from pipelines.scoring.identity import labels_identity
from pipelines.scoring.model import REPORT, JsonObject, missing_file, read_report, report_bytes
from pipelines.scoring.power import power_text
from pipelines.storage.lock import folder_lock
from pipelines.storage.manifest import Manifest, manifest_of, read_manifest, require_manifest, write_manifest
from pipelines.storage.store import MANIFEST, Store
from pipelines.tasks import Example, Task

_PAGE = "report.html"


def compare(run: RunConfig) -> Manifest:
    """Make OUTPUT/compare: train and score the missing cells, and report. Ray is running.

    Cells of other settings stay. The report covers only the cells of this grid.

    Raises:
        UserError: the labels are not finished, a cell's run is refused, or another driver compares into the folder.
        StageFailedError: a cell failed. The others are finished and reported; the same command retries it.
    """
    check_compare(run)
    # Cells run in processes with another working directory.
    comparison = _Comparison(run.model_copy(update={"output": Store(run.output).uri}))
    if done := comparison.finished():
        comparison.draw_lost_page()
        return done
    with folder_lock(comparison.store, run.labelling.lease_s, "compare") as comparison.check_lock:
        return comparison.make()


def is_finished(run: RunConfig) -> bool:
    """True if `compare` would reuse OUTPUT/compare. Needs finished labels, no Ray."""
    if read_manifest(Store(run.output).child("compare"), "comparison") is None:
        return False
    return _Comparison(run.model_copy(update={"output": Store(run.output).uri})).finished() is not None


class _Comparison:
    """A grid in progress."""

    def __init__(self, run: RunConfig) -> None:
        output = Store(run.output)
        self.check_lock: Callable[[], None] = lambda: None
        self.store, self.labels_at = output.child("compare"), output.child("labels").uri
        gauges = StageGauges(run.name, "compare")
        self.live = ProgressFile(self.store, "compare", "cells", check_lock=lambda: self.check_lock(), gauges=gauges)
        self.labels = require_manifest(Store(self.labels_at), "labels", "label RUN")
        self.task: Task = cells.task_of(run)
        self.run, self.arms = grid_with_arms(run, LabelParts.of(Store(self.labels_at)), self.task)
        run = self.run
        splits: list[Split] = ["heldout", "validation"] if run.compare.search.trials > 1 else ["heldout"]
        self.heldout: dict[Split, Heldout] = {split: cells.split_of(run, split, self.task) for split in splits}
        self.examples: dict[Split, list[Example]] = {
            split: scored_examples(cells.with_split(run, split), found) for split, found in self.heldout.items()
        }
        self.budgets = self._budgets()

    def finished(self) -> Manifest | None:
        """The manifest of exactly this comparison, if it is finished. Changes nothing on disk but counts of tokens."""
        return self._finished(self._identity(self._trials()))

    def draw_lost_page(self) -> None:
        """Write report.html of a finished comparison if it is lost."""
        if missing_file(self.store, (_PAGE,)):
            self._write_page(read_report(self.store, ComparisonReport))

    def _trials(self) -> list[CellJob]:
        return [self._job(cell, "validation") for cell in grid.trials(self.run)]

    def make(self) -> Manifest:
        """The finished comparison."""
        trials = self._trials()
        identity = self._identity(trials)
        if done := self._finished(identity):
            return done
        began = time.monotonic()
        # All checks come before the first training, which may take hours.
        check_labelled(self.run, self.task, self.labels, self.labels_at, self.examples)
        for line in (self.budgets.text, power_text(len(self.examples["heldout"]), len(self.run.compare.seeds))):
            say(f"compare: {line}")
        with self.live:
            return self._make(trials, identity, began)

    def _make(self, trials: Sequence[CellJob], identity: JsonObject, began: float) -> Manifest:
        self.live.phase("scoring the reference systems")
        results = self._results()
        chosen = self._search(results, trials)
        jobs = [self._job(cell, "heldout") for cell in grid.cells(self.run, chosen)]
        self._drop_students(job for job in trials if job.cell not in {other.cell for other in jobs})
        results.missing = {job.cell: "not finished yet" for job in jobs}
        self.live.phase("scoring untrained students")
        results.untrained, results.few_shot = self._untrained(), self._few_shot()
        left = self._unfinished(results, jobs)
        self.live.phase("")
        self.check_lock()
        self.store.delete(MANIFEST)
        if left:
            self._report(results)
        failed = self._run(results, jobs, left, "cells")
        self.live.phase("writing the report")
        self._drop_students(job for job in jobs if job.cell in results.cells)
        self.check_lock()
        report = self._report(results)
        if failed:
            raise _error_of(failed, "The report shows the other cells; run the same command to retry.")
        for name in ("labels", "tokens"):
            self.store.child(name).clear()
        manifest = manifest_of(
            "comparison", identity, config=self.run.model_dump(mode="json"),
            counts={"cells": len(jobs), "scored": len(self.examples["heldout"])},
            timings_s={"total": round(time.monotonic() - began, 3)},
            details=report.model_dump(mode="json", include={"headline", "differences"}),
            provenance=report.provenance,
        )  # fmt: skip
        write_manifest(self.store, manifest)
        return manifest

    def _finished(self, identity: JsonObject) -> Manifest | None:
        """The comparison of exactly this grid with these prices, if it is finished. Changes nothing on disk."""
        lost = missing_file(self.store, (REPORT,))
        manifest = decide(self.store, "comparison", identity, replace=True, damage=lambda manifest: lost).reused
        if manifest is None:
            return None
        same_price = manifest.config["compare"]["price_per_worker_hour"] == self.run.compare.price_per_worker_hour
        return manifest if same_price else None

    def _results(self) -> GridResults:
        run, heldout, examples = self.run, self.heldout["heldout"], self.examples["heldout"]
        validation = None
        if run.compare.search.trials > 1 or run.training.validate_every_steps is not None:
            validation = cells.split_of(run, "validation", self.task).examples
        found = references(run, self.task, heldout, examples, validation)
        made = GridResults(run, self.task, self.labels, heldout, examples, found, self.arms, self.budgets)
        if "tf-idf" in run.compare.arms:
            labels = LabelParts.of(Store(self.labels_at))
            with_gold, rows = gold_rows(labels)
            made.tf_idf = score_tf_idf(run, labels, examples, self.task, gold=with_gold == rows)
        return made

    def _budgets(self) -> Budgets:
        settings = grid.without_search(self.run)
        planned = [*grid.trials(self.run), *grid.cells(self.run, settings)]
        runs = {epoch_key(cell): grid.run_of(self.run, cell, self.task, self.labels) for cell in planned}
        return grid_budgets(self.run, self.labels, self.labels_at, planned, runs)

    def _search(self, results: GridResults, trials: Sequence[CellJob]) -> Chosen:
        """The setting of each student and method."""
        if not trials:
            return grid.without_search(self.run)
        self.live.phase("")
        failed = self._run(results, trials, self._unfinished(results, trials), "search")
        tried = {job.cell: results.trials.get(job.cell) for job in trials}
        lost = next((group for group in grouped(tried) if not any(tried[cell] for cell in group)), None)
        if lost:
            raise _error_of(
                {cell: failed[cell] for cell in lost}, "All its trials failed; run the same command to retry."
            )
        results.failed_trials = {cell: failure.reason for cell, failure in failed.items()}
        results.chosen = chosen_settings(tried)
        return results.chosen

    def _job(self, cell: Cell, split: Split) -> CellJob:
        made, treatment = grid.run_of(self.run, cell, self.task, self.labels, self.budgets), cell.treated(self.run)
        trained_on = None if treatment is None else self.store.child(f"labels/{treatment.name}").uri
        return CellJob(cell, made, split, trained_on, self.store.child("tokens").uri)

    def _write_treated(self, jobs: Iterable[CellJob]) -> None:
        """Write the changed labels of cells that are to be trained."""
        for job in jobs:
            if treatment := job.cell.treated(self.run):
                assert job.trained_on is not None
                write_treated(Store(self.labels_at), self.labels, treatment, Store(job.trained_on))

    def _drop_students(self, jobs: Iterable[CellJob]) -> None:
        """Remove weights that no split needs, also those that a killed run left."""
        if not self.run.compare.keep_students:
            for job in jobs:
                cells.drop_student(job.run)

    def _untrained(self) -> dict[str, Manifest]:
        """Scores of the students before any training, by model. They read plain inputs: a method's prefixes mean nothing to them."""
        if self.run.student.init.vocabulary is not None:
            return {}
        runs = self._runs_as("task-distillation")
        return cells.score_untrained(runs, self.task, self.examples["heldout"], self.live)

    def _few_shot(self) -> dict[str, Manifest]:
        """Scores of the students before any training, with the teacher's prompt, by model."""
        if "few-shot" not in self.run.compare.arms:
            return {}
        runs = self._runs_as("rationale-then-label")
        return score_few_shot(runs, self.task, self.examples["heldout"], self.live)

    def _runs_as(self, method: MethodName) -> dict[str, RunConfig]:
        """By model, the run with its student of a method."""
        made = {model: grid.student_of(self.run, method, model) for model in grid.students_of(self.run)}
        return {model: self.run.model_copy(update={"student": student}) for model, student in made.items()}

    def _unfinished(self, results: GridResults, jobs: Sequence[CellJob]) -> list[CellJob]:
        """Jobs that no earlier run has scored. Adds the scores of the others to the results."""
        left = []
        for job in jobs:
            if done := self._scores(job).finished():
                self._add(results, job, done)
            else:
                left.append(job)
        return left

    def _run(
        self, results: GridResults, jobs: Sequence[CellJob], left: Sequence[CellJob], title: str
    ) -> dict[Cell, CellFailure]:
        """Run what is left of the jobs. Returns the failed cells."""
        failed: dict[Cell, CellFailure] = {}
        start, steps = len(jobs) - len(left), RunningCells()
        with Progress(title, len(jobs), "cells", start=start, window_s=math.inf, file=self.live) as progress:

            def on_done(job: CellJob, outcome: Manifest | CellFailure) -> None:
                if isinstance(outcome, CellFailure):
                    failed[job.cell] = outcome
                else:
                    self._add(results, job, outcome)
                say(f"{title}: {job.cell.title}: {_outcome_text(outcome)}")
                if job.split == "heldout":
                    results.missing |= {cell: failure.reason for cell, failure in failed.items()}
                    self._report(results)
                progress.advance(1)

            def on_poll(running: Sequence[CellJob]) -> None:
                progress.advance(0, steps.text(running))

            self._write_treated(left)
            run_jobs(left, self.labels_at, on_done, on_poll)
        return failed

    def _scores(self, job: CellJob) -> Scores:
        treatment = job.cell.treated(self.run)
        labels = self.labels if treatment is None else treated_manifest(self.labels, treatment)
        return Scores.of_cell(job.run, job.split, self.task, labels, self.examples[job.split])

    def _add(self, results: GridResults, job: CellJob, manifest: Manifest) -> None:
        if job.split == "validation":
            results.trials[job.cell] = manifest
            return
        results.missing.pop(job.cell, None)
        results.cells[job.cell] = manifest
        results.rights[job.cell] = self._scores(job).rights()

    def _report(self, results: GridResults) -> ComparisonReport:
        report = comparison_report(results)
        self._write_page(report)
        self.store.write(REPORT, report_bytes(report))
        return report

    def _write_page(self, report: ComparisonReport) -> None:
        # Here, since a plan does without the packages of pages (the extra `train`).
        from pipelines.compare.page import comparison_page

        self.store.write(_PAGE, comparison_page(report).encode())

    def _identity(self, trials: Sequence[CellJob]) -> JsonObject:
        """The inputs that decide the comparison. The chosen settings follow from the trials."""
        # Students are in the identities of the cells. Costs are computed for each report.
        left_out = {"keep_students", "students", "price_per_worker_hour"}
        compare = self.run.compare
        # Comparisons of 0.1 lack these keys: their cells have equal epochs and no controls.
        early: dict[str, object] = {"equal": "epochs", "arms": [], "gold_fractions": None}
        left_out |= {name for name, value in early.items() if getattr(compare, name) == value}
        unsearched = [self._job(cell, "heldout") for cell in grid.cells(self.run, grid.without_search(self.run))]
        return {
            "format": FORMAT,
            "trials": [self._scores(job).identity for job in trials],
            "cells": [self._scores(job).identity for job in unsearched],
            "compare": _without_early_search(compare.model_dump(mode="json", exclude=left_out)),
            "labels": labels_identity(self.labels),
        }


def _without_early_search(compare: JsonObject) -> JsonObject:
    """Settings of the grid without `search.steps`, which comparisons of 0.1 lack, if it is not set."""
    search = compare["search"]
    if isinstance(search, dict) and search.get("steps") is None:
        compare["search"] = {key: value for key, value in search.items() if key != "steps"}
    return compare


def _error_of(failed: Mapping[Cell, CellFailure], remedy: str) -> RaystillError:
    """One error for the failed cells. A UserError only if all of them are: then the same command would fail again."""
    cell, first = next(iter(failed.items()))
    rest = f" and {plural(len(failed) - 1, 'other')}" if len(failed) > 1 else ""
    if first.error is not None and all(failure.error for failure in failed.values()):
        error = first.error
        return UserError(f"{cell.title}{rest}: {error.value}", error.rule, error.remedy)
    return StageFailedError(f"{cell.title}{rest} failed: {first.reason.rstrip('.')}. {remedy}")


def _outcome_text(outcome: Manifest | CellFailure) -> str:
    if isinstance(outcome, CellFailure):
        return f"failed, {outcome.reason}"
    correct, total = outcome.counts["correct"], outcome.counts["total"]
    return f"{correct:,} of {total:,} right ({correct / total:.1%})"
