"""One cell: a student is trained, answers the examples of a split, and is judged. Finished parts are never made again.

In: the cell's run (grid.run_of) and the labels. Out, below the cell's folder OUTPUT/compare/cells/NAME:

    student/                         while it is needed; it goes when the cell is scored, unless compare.keep_students
    validation/ or heldout/          the scores of a split, written when all is answered:
        predictions.parquet            one row for each example, with schema PREDICTION
        manifest.json                  last; its details hold what of the training is reported

What a kill leaves is gone on from: a training by its checkpoints, answers by the student. This runs in a Ray task of its own.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa

from pipelines.artifacts import (
    Manifest,
    Store,
    fingerprint,
    finished,
    manifest_of,
    model_fingerprint,
    require_manifest,
    write_manifest,
)
from pipelines.config import RunConfig
from pipelines.corpus import Heldout, heldout_examples
from pipelines.evaluate.baselines import teacher_answers
from pipelines.evaluate.predict import Source, Trained, Untrained
from pipelines.evaluate.report import System
from pipelines.evaluate.systems import student_inputs, student_system
from pipelines.tasks import Example, Task, load_task, task_spec
from pipelines.train.checks import train_identity
from pipelines.train.stage import train

Split = Literal["validation", "heldout"]
PREDICTION = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),  # as the student wrote it
        pa.field("label", pa.string()),  # normalised; null where the text is no label
        pa.field("right", pa.bool_(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
    ]
)
_REPORTED = ("steps", "tokens_per_s", "padding_share", "loss", "world_size")


def task_of(run: RunConfig) -> Task:
    """The task of the run, loaded."""
    return load_task(task_spec(run.task, run.task_options))


def split_of(run: RunConfig, split: Split, task: Task) -> Heldout:
    """The examples of a split. `validation` is carved out of train whether there is a test set or not."""
    return heldout_examples(_with_split(run, split), task)


def scored(heldout: Heldout) -> list[Example]:
    """Those with a gold label."""
    return [example for example in heldout.examples if example.gold is not None]


def scores_identity(run: RunConfig, student: str, examples: Sequence[Example]) -> dict[str, Any]:
    """What decides the scores of a student on a split. `student`: its fingerprint."""
    return {
        "student": student,
        "evaluation": run.evaluation.model_dump(mode="json", exclude={"batch_size", "workers"}),
        "examples": fingerprint({"rows": [[e.id, e.input, e.gold, list(e.choices)] for e in examples]}),
    }


def cell_student(run: RunConfig, task: Task, labels: Manifest) -> str:
    """The fingerprint that the cell's student has or will have."""
    return fingerprint(train_identity(run, task, labels))


def finished_scores(run: RunConfig, split: Split, task: Task, labels: Manifest, examples: Sequence[Example]) -> Any:
    """The manifest of the cell's scores on a split; None where they are not there yet."""
    identity = scores_identity(run, cell_student(run, task, labels), examples)
    return finished(Store(run.output).child(split), "scores", identity, replace=True)


def score_cell(run: RunConfig, labels_at: str, split: Split) -> Manifest:
    """Train the cell's student where that is not done, and score it on a split.

    Raises:
        UserError, StageFailedError: of the train stage, or a student failed to answer.
    """
    task, labels = task_of(run), require_manifest(Store(labels_at), "labels", "label RUN")
    examples = scored(split_of(run, split, task))
    if done := finished_scores(run, split, task, labels, examples):
        return done  # type: ignore[no-any-return]
    student = train(run, replace=True, labels_at=labels_at)
    details = {
        "training": {key: student.details["training"][key] for key in _REPORTED},
        "parameters": student.details["parameters"],
        "train_examples": student.counts["train_examples"],
        "tokens": student.counts["tokens"],
        "train_s": student.timings_s["train"],
        "student": student.fingerprint,
    }
    store = Store(run.output)
    asked = _with_split(run, split)
    manifest = _score(
        asked, task, examples, Trained(store.child("student").uri), labels_at, store.child(split), details
    )
    if split == "heldout" and not run.compare.keep_students:
        drop_student(run)
    return manifest


def drop_student(run: RunConfig) -> None:
    """Remove the weights of a cell that is scored, or that a search did not choose."""
    Store(run.output).child("student").clear()


def score_untrained(run: RunConfig, labels_at: str, name: str) -> Manifest:
    """Score the run's student as it is before any training, reading plain inputs, in OUTPUT/compare/untrained/NAME."""
    task = task_of(run)
    examples = scored(split_of(run, "heldout", task))
    limits = (run.training.max_input_tokens, run.training.max_target_tokens)
    start = {"init": run.student.init.model_dump(mode="json"), "seed": run.training.seed, "limits": list(limits)}
    mark = fingerprint(start | {"model": model_fingerprint(run.student.model)})
    store = Store(run.output).child(f"compare/untrained/{name}-{mark[:8]}")
    if done := finished(store, "scores", scores_identity(run, mark, examples), replace=True):
        return done
    return _score(run, task, examples, Untrained(run.student, run.training.seed, *limits), labels_at, store, {}, mark)


def rights(store: Store) -> list[bool]:
    """Whether each example is right, in the order of the examples."""
    import pyarrow.parquet as pq

    with store.fs.open_input_file(store.path("predictions.parquet")) as file:
        found: list[bool] = pq.read_table(file, columns=["right"])["right"].to_pylist()
    return found


def _with_split(run: RunConfig, split: Split) -> RunConfig:
    """The run whose held-out examples are the split's."""
    if split == "heldout":
        return run
    return run.model_copy(update={"corpus": run.corpus.model_copy(update={"test": None})})


def _score(
    run: RunConfig, task: Task, examples: Sequence[Example], source: Source, labels_at: str, target: Store,
    details: dict[str, Any], student: str = "",
) -> Manifest:  # fmt: skip
    answers = teacher_answers(Store(labels_at), run.corpus, [example.id for example in examples])
    system = student_system("student", source, run, task, examples, student_inputs(run, answers, examples))
    target.write("predictions.parquet", _predictions(examples, system))
    row = system.row()
    manifest = manifest_of(
        "scores",
        scores_identity(run, student or details["student"], examples),
        config=run.model_dump(mode="json"),
        counts={key: row[key] for key in ("correct", "total", "unanswered", "too_long")},
        timings_s={"answers": row["seconds"]},
        details={**details, **{key: row[key] for key in row if key.endswith("_per_example")}},
        provenance={},
    )
    write_manifest(target, manifest)
    return manifest


def _predictions(examples: Sequence[Example], system: System) -> bytes:
    import pyarrow.parquet as pq

    columns = [[example.id for example in examples], system.texts, system.labels, system.right, system.confidences]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, PREDICTION, strict=True)]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=PREDICTION), buffer)
    return buffer.getvalue()
