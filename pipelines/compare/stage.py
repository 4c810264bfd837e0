"""`raystill compare`: the grid, cell by cell, and one report of it.

In: OUTPUT/labels, the corpus, the run file's `compare`. Out: OUTPUT/compare:

    compare/cells/NAME/          one for each cell (cells.py)
    compare/untrained/NAME/      the students before any training
    compare/report.json          what was measured; its schema stands in pipelines.compare.report. Written anew after every cell,
    compare/report.html          so that it shows early what there is; so is the page
    compare/manifest.json        last, when no cell is missing

First the search: every method tries equally many settings, and those with the most right answers on the validation split win. Only
then does any student read the held-out examples: each cell with the setting that won.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.artifacts import (
    MANIFEST,
    Manifest,
    Store,
    fingerprint,
    manifest_of,
    now,
    read_manifest,
    require_manifest,
    write_manifest,
)
from pipelines.compare import cells as scoring
from pipelines.compare import grid
from pipelines.compare.cells import Scores, Split
from pipelines.compare.grid import Cell, Setting
from pipelines.compare.jobs import Job, run_jobs
from pipelines.compare.page import comparison_page
from pipelines.compare.report import FORMAT, Found, comparison
from pipelines.config import RunConfig
from pipelines.corpus import Heldout
from pipelines.decode import check_model
from pipelines.errors import StageFailedError, UserError
from pipelines.methods import NEEDS_A_TEACHER, Method
from pipelines.progress import Progress
from pipelines.tasks import Example, Task
from pipelines.train.stage import check_train

Chosen = dict[tuple[str, Method], Setting]


def check_compare(run: RunConfig) -> None:
    """What can be known to be wrong with the grid before anything is started. Raises UserError."""
    names = [grid.student_name(model) for model in grid.students_of(run)]
    if len(set(names)) < len(names):
        rule = f"the report tells students apart by the last part of their names: {', '.join(names)}"
        raise UserError("compare.students", rule, "Rename a folder.")
    for model in grid.students_of(run):
        check_model(model, "compare.students")
    if run.training.validate_every_steps is not None and run.corpus.test is None:
        rule = "weights are chosen on the validation split, which would be scored too: what won there looks better than it is"
        raise UserError("training.validate_every_steps", rule, "Give corpus.test, or remove it.")
    if run.compare.search.trials > 1 and run.corpus.test is None:
        rule = "settings are chosen on the validation split, which would be scored too: what won there looks better than it is"
        raise UserError("compare.search", rule, "Give corpus.test, or set trials: 1.")
    if run.compare.search.trials > 1 and not run.corpus.validation:
        raise UserError("compare.search", "there is no validation split to choose on", "Set corpus.validation.")
    if (
        run.compare.search.trials > 1
        and isinstance(run.corpus.validation, str)
        and NEEDS_A_TEACHER in run.compare.methods
    ):
        rule = "it reads the teacher's rationales, and settings are chosen on a file that the teacher does not answer"
        raise UserError(f"compare.methods {NEEDS_A_TEACHER}", rule, "Set corpus.validation to a share, or trials: 1.")


def compare(run: RunConfig) -> Manifest:
    """Make `OUTPUT/compare`: train and score what is missing of the grid, and report. Ray is running.

    Cells of other settings lie beside these and stay; the report is of these alone.

    Raises:
        UserError: the labels are not finished, or a cell's run is refused.
        StageFailedError: a cell failed. The others are finished and reported; the same command tries it again.
    """
    check_compare(run)
    return _Comparison(grid.with_absolute_paths(run)).make()


class _Comparison:
    """A grid under way."""

    def __init__(self, run: RunConfig) -> None:
        self.run = run
        output = Store(run.output)
        self.store, self.labels_at = output.child("compare"), output.child("labels").uri
        self.labels = require_manifest(Store(self.labels_at), "labels", "label RUN")
        self.task: Task = scoring.task_of(run)
        self.heldout: dict[Split, Heldout] = {"heldout": scoring.split_of(run, "heldout", self.task)}
        if run.compare.search.trials > 1:
            self.heldout["validation"] = scoring.split_of(run, "validation", self.task)
        self.examples: dict[Split, list[Example]] = {
            split: scoring.scored(found) for split, found in self.heldout.items()
        }
        for split, examples in self.examples.items():
            if not examples:
                rule = "none of its rows has a gold label that the task can read"
                raise UserError(f"the {split} split", rule, "Give examples with gold labels.")
        self.found = Found(run, self.task, self.labels, self.heldout["heldout"], self.examples["heldout"])

    def make(self) -> Manifest:
        """The finished comparison."""
        self._check_cells()
        chosen = self._search()
        wanted = [self._job(cell, "heldout") for cell in grid.cells(self.run, chosen)]
        identity = self._identity(wanted)
        if done := self._finished(identity):
            return done
        began = time.monotonic()
        self.found.missing = {job.cell: "not there yet" for job in wanted}
        self._untrained()
        self._run(wanted, "cells")
        content = self._report()
        failed = {cell: why for cell, why in self.found.missing.items() if why}
        if failed:
            cell, why = next(iter(failed.items()))
            rest = f" and {len(failed) - 1} others" if len(failed) > 1 else ""
            raise StageFailedError(
                f"{cell.label()}{rest} failed: {why.rstrip('.')}. The report shows the other cells; the same command tries again."
            )
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
        """The comparison of exactly this grid, with these prices. That of another one is no longer finished; its cells stay."""
        manifest = read_manifest(self.store, "comparison")
        if manifest is None:
            return None
        priced = manifest.config["compare"]["price_per_worker_hour"] == self.run.compare.price_per_worker_hour
        if priced and manifest.fingerprint == fingerprint(identity):
            return manifest
        self.store.delete(MANIFEST)
        return None

    def _check_cells(self) -> None:
        """What the train stage would refuse of any method or student, before the first is trained."""
        for (student, method), setting in grid.without_search(self.run).items():
            cell = Cell(student, method, max(self.run.compare.fractions), self.run.compare.seeds[0], setting)
            check_train(grid.run_of(self.run, cell, self.task, self.labels), self.labels_at)

    def _search(self) -> Chosen:
        tried = [self._job(cell, "validation") for cell in grid.trials(self.run)]
        if not tried:
            return grid.without_search(self.run)
        missing = self._run(tried, "search")
        if missing:
            cell, why = next(iter(missing.items()))
            raise StageFailedError(f"the search's {cell.label()} failed: {why.rstrip('.')}. The same command goes on.")
        chosen: Chosen = {}
        for student, method in dict.fromkeys((job.cell.student, job.cell.method) for job in tried):
            mine = [job.cell for job in tried if (job.cell.student, job.cell.method) == (student, method)]
            # Of equally good ones the first: the lowest learning rate.
            chosen[student, method] = max(mine, key=lambda cell: self.found.trials[cell].counts["correct"]).setting
        if not self.run.compare.keep_students:
            for job in tried:
                if job.cell.setting != chosen[job.cell.student, job.cell.method]:
                    scoring.drop_student(job.run)
        self.found.chosen = chosen
        return chosen

    def _job(self, cell: Cell, split: Split) -> Job:
        return Job(cell, grid.run_of(self.run, cell, self.task, self.labels), split)

    def _untrained(self) -> None:
        """The students as they start, each once: a method's own prompts mean nothing to them."""
        for model in grid.students_of(self.run):
            if self.run.student.init.vocabulary is not None:
                continue
            plain = self.run.model_copy(update={"student": self.run.student.with_method("task-distillation", model)})
            self.found.untrained[model] = scoring.score_untrained(plain, grid.student_name(model))

    def _run(self, jobs: Sequence[Job], title: str) -> Mapping[Cell, str]:
        """Run what is not finished. Returns the cells that failed, and why."""
        missing: dict[Cell, str] = {}
        left = [job for job in jobs if not self._is_finished(job)]
        start = len(jobs) - len(left)
        with Progress(title, total=len(jobs), unit="cells", start=start, window_s=math.inf) as progress:

            def heard(job: Job, manifest: Manifest | None, why: str) -> None:
                if manifest is None:
                    missing[job.cell] = self.found.missing[job.cell] = why
                else:
                    self._note(job, manifest)
                _say(f"{title}: {job.cell.label()}: {_result(manifest, why)}")
                if job.split == "heldout":
                    self._report()
                progress.advance(1)

            def watched(under_way: Sequence[Job]) -> None:
                progress.advance(0, ", ".join(job.cell.label() for job in under_way))

            run_jobs(left, self.labels_at, heard, watched)
        return missing

    def _is_finished(self, job: Job) -> bool:
        """Whether an earlier run has scored the cell on the split; if so its scores are taken."""
        done = self._scores(job).finished()
        if done is not None:
            self._note(job, done)
        return done is not None

    def _scores(self, job: Job) -> Scores:
        return Scores.of_cell(job.run, job.split, self.task, self.labels, self.examples[job.split])

    def _note(self, job: Job, manifest: Manifest) -> None:
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

    def _identity(self, wanted: Sequence[Job]) -> dict[str, Any]:
        # What things cost is worked out anew for the report, and whether weights are kept is no part of it.
        left_out = {"keep_students", "students", "price_per_worker_hour"}
        return {
            "format": FORMAT,
            "cells": [self._scores(job).identity for job in wanted],
            "compare": self.run.compare.model_dump(mode="json", exclude=left_out),
            "labels": self.labels.fingerprint,
        }


def _result(manifest: Manifest | None, why: str) -> str:
    if manifest is None:
        return f"failed, {why}"
    correct, total = manifest.counts["correct"], manifest.counts["total"]
    return f"{correct:,} of {total:,} right ({correct / total:.1%})"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
