"""`raystill compare`: the grid, cell by cell, and one report of it.

In: OUTPUT/labels, the corpus, the run file's `compare`. Out: OUTPUT/compare:

    compare/cells/NAME/          one for each cell (cells.py)
    compare/untrained/NAME/      the students before any training
    compare/report.json          what was measured; its schema stands in pipelines.compare.report. Written before the first cell, and
    compare/report.html          anew after every one, so that it shows early what there is, and what is missing; so is the page
    compare/manifest.json        last, when no cell is missing

What is refused is refused before anything of an earlier comparison goes. Its manifest, which would not fit the report any more, goes when
the first report of this one is written.

First the search: every method tries equally many settings, and those with the most right answers on the validation split win; a trial
that fails cannot win. Only then does any student read the held-out examples: each cell with the setting that won.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.compare import cells as scoring
from pipelines.compare import grid
from pipelines.compare.cells import Scores, Split
from pipelines.compare.checks import check_compare, check_labelled
from pipelines.compare.grid import Cell, Setting
from pipelines.compare.page import comparison_page
from pipelines.compare.report import FORMAT, Found, comparison, shared_parts
from pipelines.compare.scheduler import CellJob, Failed, run_jobs
from pipelines.config import RunConfig
from pipelines.data.heldout import Heldout
from pipelines.errors import RaystillError, StageFailedError, UserError
from pipelines.methods import MethodName
from pipelines.reports.format import plural
from pipelines.reuse import decide
from pipelines.runtime.progress import Progress
from pipelines.scoring.identity import labels_identity
from pipelines.scoring.predict import PredictorPool
from pipelines.scoring.systems import scored_examples
from pipelines.storage.manifest import Manifest, manifest_of, now, require_manifest, write_manifest
from pipelines.storage.store import MANIFEST, Store
from pipelines.tasks import Example, Task

Chosen = dict[tuple[str, MethodName], Setting]


def compare(run: RunConfig) -> Manifest:
    """Make `OUTPUT/compare`: train and score what is missing of the grid, and report. Ray is running.

    Cells of other settings lie beside these and stay; the report is of these alone.

    Raises:
        UserError: the labels are not finished, or a cell's run is refused.
        StageFailedError: a cell failed. The others are finished and reported; the same command tries it again.
    """
    check_compare(run)
    # Cells run in processes that have another working directory.
    return _Comparison(run.model_copy(update={"output": Store(run.output).uri})).make()


class _Comparison:
    """A grid under way."""

    def __init__(self, run: RunConfig) -> None:
        self.run = run
        output = Store(run.output)
        self.store, self.labels_at = output.child("compare"), output.child("labels").uri
        self.labels = require_manifest(Store(self.labels_at), "labels", "label RUN")
        self.task: Task = scoring.task_of(run)
        splits: list[Split] = ["heldout", "validation"] if run.compare.search.trials > 1 else ["heldout"]
        self.heldout: dict[Split, Heldout] = {split: scoring.split_of(run, split, self.task) for split in splits}
        self.examples: dict[Split, list[Example]] = {
            split: scored_examples(scoring.with_split(run, split), found) for split, found in self.heldout.items()
        }
        self.found = Found(run, self.task, self.labels, self.heldout["heldout"], self.examples["heldout"])
        if run.compare.search.trials > 1 or run.training.validate_every_steps is not None:
            self.found.validation = scoring.split_of(run, "validation", self.task).examples

    def make(self) -> Manifest:
        """The finished comparison."""
        tried = [self._job(cell, "validation") for cell in grid.trials(self.run)]
        identity = self._identity(tried)
        if done := self._finished(identity):
            return done
        began = time.monotonic()
        # Whatever would be refused of it is refused before hours go into the first cell.
        check_labelled(self.run, self.task, self.labels, self.labels_at, self.examples)
        self.found.shared = shared_parts(self.found)
        chosen = self._search(tried)
        wanted = [self._job(cell, "heldout") for cell in grid.cells(self.run, chosen)]
        self._drop_students(job for job in tried if job.cell not in {other.cell for other in wanted})
        self.found.missing = {job.cell: "not there yet" for job in wanted}
        self._untrained()
        left = self._unfinished(wanted)
        self.store.delete(MANIFEST)
        if left:
            self._report()
        failed = self._run(wanted, left, "cells")
        self._drop_students(job for job in wanted if job.cell in self.found.cells)
        content = self._report()
        if failed:
            raise _error_of(failed, "The report shows the other cells; the same command tries again.")
        manifest = manifest_of(
            "comparison", identity, config=self.run.model_dump(mode="json"),
            counts={"cells": len(wanted), "scored": len(self.examples["heldout"])},
            timings_s={"total": round(time.monotonic() - began, 3)},
            details={"headline": content["headline"], "differences": content["differences"]},
            provenance=content["provenance"],
        )  # fmt: skip
        write_manifest(self.store, manifest)
        return manifest

    def _finished(self, identity: Mapping[str, Any]) -> Manifest | None:
        """The comparison of exactly this grid, with these prices; None where there is none. Looking removes nothing."""
        manifest = decide(self.store, "comparison", identity, replace=True).reused
        if manifest is None:
            return None
        priced = manifest.config["compare"]["price_per_worker_hour"] == self.run.compare.price_per_worker_hour
        return manifest if priced else None

    def _search(self, tried: Sequence[CellJob]) -> Chosen:
        if not tried:
            return grid.without_search(self.run)
        failed = self._run(tried, self._unfinished(tried), "search")
        chosen: Chosen = {}
        for student, method in dict.fromkeys((job.cell.student, job.cell.method) for job in tried):
            mine = [job.cell for job in tried if (job.cell.student, job.cell.method) == (student, method)]
            finished = [cell for cell in mine if cell in self.found.trials]
            if not finished:
                raise _error_of(
                    {cell: failed[cell] for cell in mine}, "No trial of it is left; the same command goes on."
                )
            # Of equally good ones the first: the lowest learning rate.
            chosen[student, method] = max(finished, key=lambda cell: self.found.trials[cell].counts["correct"]).setting
        self.found.failed_trials = {cell: one.why for cell, one in failed.items()}
        self.found.chosen = chosen
        return chosen

    def _job(self, cell: Cell, split: Split) -> CellJob:
        return CellJob(cell, grid.run_of(self.run, cell, self.task, self.labels), split)

    def _drop_students(self, jobs: Iterable[CellJob]) -> None:
        """Remove the weights that no split needs any more, also what an earlier run was killed before it removed."""
        if not self.run.compare.keep_students:
            for job in jobs:
                scoring.drop_student(job.run)

    def _untrained(self) -> None:
        """The students as they start, each once: a method's own prompts mean nothing to them."""
        if self.run.student.init.vocabulary is not None:
            return
        with PredictorPool(self.run.evaluation) as answerers:
            for model in grid.students_of(self.run):
                plain = self.run.model_copy(update={"student": grid.student_of(self.run, "task-distillation", model)})
                self.found.untrained[model] = scoring.score_untrained(plain, grid.student_name(model), answerers)

    def _unfinished(self, jobs: Sequence[CellJob]) -> list[CellJob]:
        """Those that no earlier run has scored. The scores of the others are taken."""
        return [job for job in jobs if not self._is_finished(job)]

    def _run(self, jobs: Sequence[CellJob], left: Sequence[CellJob], title: str) -> dict[Cell, Failed]:
        """Run what is left of the jobs. Returns the cells that failed."""
        failed: dict[Cell, Failed] = {}
        start = len(jobs) - len(left)
        with Progress(title, total=len(jobs), unit="cells", start=start, window_s=math.inf) as progress:

            def heard(job: CellJob, outcome: Manifest | Failed) -> None:
                if isinstance(outcome, Failed):
                    failed[job.cell] = outcome
                else:
                    self._note(job, outcome)
                _say(f"{title}: {job.cell.label()}: {_result(outcome)}")
                if job.split == "heldout":
                    self.found.missing |= {cell: one.why for cell, one in failed.items()}
                    self._report()
                progress.advance(1)

            def watched(under_way: Sequence[CellJob]) -> None:
                progress.advance(0, ", ".join(job.cell.label() for job in under_way))

            run_jobs(left, self.labels_at, heard, watched)
        return failed

    def _is_finished(self, job: CellJob) -> bool:
        """Whether an earlier run has scored the cell on the split; if so its scores are taken."""
        done = self._scores(job).finished()
        if done is not None:
            self._note(job, done)
        return done is not None

    def _scores(self, job: CellJob) -> Scores:
        return Scores.of_cell(job.run, job.split, self.task, self.labels, self.examples[job.split])

    def _note(self, job: CellJob, manifest: Manifest) -> None:
        if job.split == "validation":
            self.found.trials[job.cell] = manifest
            return
        self.found.missing.pop(job.cell, None)
        self.found.cells[job.cell] = manifest
        self.found.rights[job.cell] = self._scores(job).rights()

    def _report(self) -> dict[str, Any]:
        content = comparison(self.found) | {"created": now()}
        self.store.write("report.html", comparison_page(content).encode())
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        self.store.write("report.json", text.encode())
        return content

    def _identity(self, tried: Sequence[CellJob]) -> dict[str, Any]:
        """What decides the comparison. Which settings win follows from the trials."""
        # What things cost is worked out anew for the report, and whether weights are kept is no part of it.
        left_out = {"keep_students", "students", "price_per_worker_hour"}
        unsearched = [self._job(cell, "heldout") for cell in grid.cells(self.run, grid.without_search(self.run))]
        return {
            "format": FORMAT,
            "trials": [self._scores(job).identity for job in tried],
            "cells": [self._scores(job).identity for job in unsearched],
            "compare": self.run.compare.model_dump(mode="json", exclude=left_out),
            "labels": labels_identity(self.labels),
        }


def _error_of(failed: Mapping[Cell, Failed], then: str) -> RaystillError:
    """One error for cells that failed: the user's where each of theirs is, since the same command would fail again."""
    cell, first = next(iter(failed.items()))
    rest = f" and {plural(len(failed) - 1, 'other')}" if len(failed) > 1 else ""
    if first.error is not None and all(one.error for one in failed.values()):
        error = first.error
        return UserError(f"{cell.label()}{rest}: {error.value}", error.rule, error.remedy)
    return StageFailedError(f"{cell.label()}{rest} failed: {first.why.rstrip('.')}. {then}")


def _result(outcome: Manifest | Failed) -> str:
    if isinstance(outcome, Failed):
        return f"failed, {outcome.why}"
    correct, total = outcome.counts["correct"], outcome.counts["total"]
    return f"{correct:,} of {total:,} right ({correct / total:.1%})"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
