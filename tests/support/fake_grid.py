"""A grid without Ray and without models: trainings and answers are made up, everything around them is real."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.compare import cells, checks, stage
from pipelines.compare.scheduler import CellJob, failed
from pipelines.compare.stage import compare
from pipelines.config import RunConfig
from pipelines.errors import RaystillError
from pipelines.scoring.system import System
from pipelines.storage.manifest import Manifest, manifest_of, require_manifest, write_manifest
from pipelines.storage.store import Store
from pipelines.tasks import Example
from pipelines.train.identity import train_identity
from tests.support.artifacts import label_row, make_run, write_corpus, write_labels

NUM_HELDOUT = 20


class Lab:
    """Makes grids in a folder, and notes what was trained and answered."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.trained: list[RunConfig] = []
        self.answered: list[str] = []
        """The inputs of the last scoring."""
        self.right: Callable[[RunConfig], int] = lambda run: 5 + len(run.student.method) % 7
        """How many of the examples a student has right."""
        self.fails: Callable[[RunConfig], RaystillError | None] = lambda run: None
        """What its training breaks off with."""
        self.timings_s = {"tokenise": 1.0, "train": 20.0, "steps": 16.0}
        """Of every training."""
        rows = [{"id": f"t{i}", "input": f"question t{i}", "label": str(i % 3)} for i in range(60)]
        write_corpus(folder / "train.jsonl", rows)
        heldout = [{"id": f"h{i}", "input": f"another question {i}", "label": "3"} for i in range(NUM_HELDOUT)]
        write_corpus(folder / "test.jsonl", heldout)
        self.corpus = {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl")}
        self.label(rows, heldout)
        monkeypatch.setattr(cells, "train", self._train)
        monkeypatch.setattr(cells, "student_system", self._answer)
        monkeypatch.setattr(stage, "run_jobs", self._run_jobs)
        monkeypatch.setattr(checks, "check_train", lambda run, labels_at: None)

    def label(self, rows: Sequence[dict[str, Any]], heldout: Sequence[dict[str, Any]]) -> None:
        """Write what the teacher said of corpus rows: always the gold label."""
        made = [
            [label_row(row["id"], row["label"], row["label"], row["input"]) for row in some] for some in (rows, heldout)
        ]
        write_labels(self.folder / "out" / "labels", *made)

    def run(self, **sections: Any) -> RunConfig:
        """The run file of a small grid; `compare` is merged into it."""
        grid = {
            "methods": ["finetune", "step-by-step"],
            "fractions": [1.0],
            "seeds": [0],
            **sections.pop("compare", {}),
        }
        return make_run(self.folder, "some/model", compare=grid, **sections)

    def compare(self, **sections: Any) -> Manifest:
        """`raystill compare` once labels and Ray are there. `trained` is of this call alone."""
        self.trained.clear()
        return compare(self.run(**sections))

    def report(self) -> dict[str, Any]:
        """The report.json of the last call."""
        found: dict[str, Any] = json.loads(self.path("report.json").read_text())
        return found

    def path(self, name: str) -> Path:
        """A file of the comparison."""
        return self.folder / "out" / "compare" / name

    def files(self, pattern: str) -> set[str]:
        """The comparison's files, by a glob."""
        return {path.relative_to(self.path("")).as_posix() for path in self.path("").glob(pattern)}

    def _run_jobs(self, jobs: Sequence[CellJob], labels_at: str, heard: Any, watched: Any) -> None:
        for job in jobs:
            watched([job])
            try:
                manifest = cells.score_cell(job.run, labels_at, job.split)
            except RaystillError as error:
                heard(job, failed(error))
            else:
                heard(job, manifest)

    def _train(self, run: RunConfig, *, replace: bool, labels_at: str) -> Manifest:
        self.trained.append(run)
        if error := self.fails(run):
            raise error
        labels = require_manifest(Store(labels_at), "labels", "")
        manifest = manifest_of(
            "student", train_identity(run, cells.task_of(run), labels), config=run.model_dump(mode="json"),
            counts={"train_examples": 40, "tokens": 900}, timings_s=self.timings_s,
            details={
                "parameters": 1000,
                "training": {"steps": 7, "tokens_per_s": 50.0, "padding_share": 0.1, "loss": {}, "world_size": 2,
                             "started_at_steps": [0]},
            },
            provenance={},
        )  # fmt: skip
        store = Store(run.output).child("student")
        store.write("model.safetensors", b"weights")
        write_manifest(store, manifest)
        return manifest

    def _answer(
        self, name: str, student: Any, run: RunConfig, task: Any, examples: Sequence[Example], inputs: Sequence[str]
    ) -> System:
        self.answered = list(inputs)
        right = tuple(i < self.right(run) for i in range(len(examples)))
        labels = tuple("3" if is_right else "7" for is_right in right)
        return System(
            name, labels, right, texts=labels, confidences=(0.5,) * len(right), seconds=2.0, answering_s=1.0,
            prompt_tokens=200, output_tokens=60,
        )  # fmt: skip
