"""A grid without Ray and models: trainings and answers are fake, everything around them is real."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.compare import budgets, cells, checks, stage
from pipelines.compare.model import ComparisonReport
from pipelines.compare.scheduler import CellJob, OnDone, OnPoll, cell_failure
from pipelines.compare.stage import compare
from pipelines.config import EvaluationConfig, RunConfig
from pipelines.data.label_parts import LabelParts
from pipelines.errors import RaystillError
from pipelines.methods import METHODS
from pipelines.runtime.progress_file import ProgressFile
from pipelines.scoring.model import read_report
from pipelines.scoring.predict import Prediction, Predictions, PredictRequest
from pipelines.scoring.sources import Untrained
from pipelines.storage.manifest import Manifest, manifest_of, require_manifest, write_manifest
from pipelines.storage.store import Store
from pipelines.tasks import task_spec
from pipelines.train.data.sequences import TokenSettings
from pipelines.train.identity import train_identity
from tests.support.artifacts import label_row, make_run, write_corpus, write_labels

NUM_HELDOUT = 20
ROW_TOKENS = 1000
"""Of a row without rationale; twice as many with one."""


class Lab:
    """Makes grids in a folder, and records trainings and inputs."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.trained: list[RunConfig] = []
        self.read: list[str] = []
        """The inputs of the last trained student."""
        self.right: Callable[[RunConfig], int] = lambda run: 5 + len(run.student.method) % 7
        """How many examples a student has right."""
        self.fails: Callable[[RunConfig], RaystillError | None] = lambda run: None
        """The error of its training."""
        self.timings_s = {"tokenise": 1.0, "train": 20.0, "steps": 16.0}
        """Of every training."""
        rows = [{"id": f"t{i}", "input": f"question t{i}", "label": "3"} for i in range(60)]
        write_corpus(folder / "train.jsonl", rows)
        heldout = [{"id": f"h{i}", "input": f"another question {i}", "label": "3"} for i in range(NUM_HELDOUT)]
        write_corpus(folder / "test.jsonl", heldout)
        self.corpus = {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl")}
        self.label(rows, heldout)
        monkeypatch.setattr(cells, "train_locked", self._train)
        monkeypatch.setattr(cells, "predict", self._predict)
        monkeypatch.setattr(stage, "run_jobs", self._run_jobs)
        monkeypatch.setattr(checks, "check_train", lambda run, labels_at: None)
        monkeypatch.setattr(budgets, "token_settings", _settings)
        monkeypatch.setattr(budgets, "row_tokens", _row_tokens)

    def label(self, rows: Sequence[dict[str, Any]], heldout: Sequence[dict[str, Any]]) -> None:
        """Write the teacher's answers to corpus rows: always the gold label."""
        made = [[label_row(r["id"], r["label"], r["label"], r["input"]) for r in some] for some in (rows, heldout)]
        write_labels(self.folder / "out" / "labels", *made)

    def run(self, **sections: Any) -> RunConfig:
        """The run of a small grid; `compare` and `training` are merged into it."""
        grid = {"methods": ["finetune", "step-by-step"], "fractions": [1.0], "seeds": [0], "arms": []}
        grid |= sections.pop("compare", {})
        training = {"steps": 20, "tokens_per_batch": 2 * ROW_TOKENS, **sections.pop("training", {})}
        return make_run(self.folder, "some/model", compare=grid, training=training, **sections)

    def compare(self, **sections: Any) -> Manifest:
        """`raystill compare` with labels and Ray. Resets `trained`."""
        self.trained.clear()
        return compare(self.run(**sections))

    def report(self) -> ComparisonReport:
        return read_report(Store(str(self.path(""))), ComparisonReport)

    def path(self, name: str) -> Path:
        return self.folder / "out" / "compare" / name

    def files(self, pattern: str) -> set[str]:
        """Files of the comparison, by a glob."""
        return {path.relative_to(self.path("")).as_posix() for path in self.path("").glob(pattern)}

    def _run_jobs(self, jobs: Sequence[CellJob], labels_at: str, on_done: OnDone, on_poll: OnPoll) -> None:
        for job in jobs:
            on_poll([job])
            try:
                manifest = cells.score_cell(job.run, labels_at, job.split, job.trained_on, job.tokens_at)
            except RaystillError as error:
                on_done(job, cell_failure(error))
            else:
                on_done(job, manifest)

    def _train(self, run: RunConfig, *, replace: bool, labels_at: str, tokens_at: Store | None) -> Manifest:
        assert tokens_at is not None, "cells share token tables"
        self.trained.append(run)
        if error := self.fails(run):
            raise error
        labels = require_manifest(Store(labels_at), "labels", "")
        manifest = manifest_of(
            "student", train_identity(run, cells.task_of(run), labels), config=run.model_dump(mode="json"),
            counts={"train_examples": 40, "tokens": 900}, timings_s=self.timings_s,
            details={
                "parameters": 1000, "family": "decoder-only",
                "training": {"steps": run.training.steps or 7, "tokens_per_s": 50.0, "padding_share": 0.1, "loss": {}, "world_size": 2,
                             "started_at_steps": [0]},
            },
            provenance={},
        )  # fmt: skip
        store = Store(run.output).child("student")
        store.write("model.safetensors", b"weights")
        write_manifest(store, manifest)
        return manifest

    def _predict(
        self, requests: Sequence[PredictRequest], settings: EvaluationConfig, live: ProgressFile | None = None
    ) -> list[Predictions]:
        found = []
        for request in requests:
            source = request.query.source
            if isinstance(source, Untrained):
                run = self.run().model_copy(update={"student": source.student})
            else:
                run, self.read = self.trained[-1], list(request.inputs)
            texts = ["3" if i < self.right(run) else "7" for i in range(len(request.inputs))]
            used = {"prompt_tokens": 10, "output_tokens": 3, "seconds": 0.05, "too_long": False}
            answers = [(Prediction(text, 0.5, **used),) for text in texts]
            found.append(Predictions(answers, 2.0))
        return found


def _settings(run: RunConfig) -> TokenSettings:
    method, task = run.student.method, task_spec(run.task)
    return TokenSettings("some/model", "decoder-only", method, ("label",), "gold", 0.0, 64, 64, task)


def _row_tokens(labels: LabelParts, settings: TokenSettings) -> Iterator[dict[str, int]]:
    tokens = ROW_TOKENS * (2 if METHODS[settings.method].writes_rationales else 1)
    for row in labels.read_rows("data", ["id"]):
        yield {row["id"]: tokens}
