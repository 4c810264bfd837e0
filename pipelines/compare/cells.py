"""One cell: a student is trained, answers the examples of a split, and is judged. Finished parts are never made again.

In: the cell's run (grid.run_of) and the labels. Out, below the cell's folder OUTPUT/compare/cells/NAME:

    student/                         while it is needed; it goes when the cell is scored, unless compare.keep_students
    validation-MARK/ or heldout-MARK/   the scores of a split, written when all is answered:
        predictions.parquet            one row for each example, with schema PREDICTION
        manifest.json                  last; its details hold what of the training is reported

MARK is the beginning of the scores' fingerprint: scores of another evaluation, or of other examples, lie beside these and stay, since
they may have cost hours. What a kill leaves is gone on from: a training by its checkpoints, answers by the student. This runs in a Ray
task of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import pyarrow as pa

from pipelines.config import RunConfig
from pipelines.data.heldout import Heldout, has_heldout_files, heldout_examples
from pipelines.methods import METHODS
from pipelines.reuse import decide
from pipelines.scoring.costs import training_s
from pipelines.scoring.identity import answers_identity, labels_identity
from pipelines.scoring.predict import PredictorPool, Respondent, Trained, Untrained
from pipelines.scoring.reference_systems import TeacherAnswers, teacher_answers
from pipelines.scoring.system import System
from pipelines.scoring.systems import scored_examples, student_inputs, student_system
from pipelines.storage.fingerprint import fingerprint, model_fingerprint
from pipelines.storage.manifest import Manifest, manifest_of, require_manifest, write_manifest
from pipelines.storage.parquet import parquet_bytes
from pipelines.storage.store import Store
from pipelines.tasks import Example, Task, load_task, task_spec
from pipelines.train.identity import train_identity
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
    return heldout_examples(with_split(run, split), task)


def with_split(run: RunConfig, split: Split) -> RunConfig:
    """The run whose held-out examples are the split's."""
    if split == "heldout":
        return run
    return run.model_copy(update={"corpus": run.corpus.model_copy(update={"test": None})})


@dataclass(frozen=True)
class Scores:
    """Where the scores of one student on one split are, and what decides them."""

    store: Store
    identity: dict[str, Any]

    @classmethod
    def of_cell(cls, run: RunConfig, split: Split, task: Task, labels: Manifest, examples: Sequence[Example]) -> Self:
        """Those of a cell, whose student need not be there yet. `examples`: the split's, with gold labels."""
        made = {"student": fingerprint(train_identity(run, task, labels)), **answers_identity(run, task, examples)}
        if METHODS[run.student.method].reads_rationale:  # what it reads of a held-out example is no part of the student
            made["labels"] = labels_identity(labels)
            if not has_heldout_files(with_split(run, split).corpus):
                made["rejects_read"] = True  # scores of before knew no rationale that a filter had rejected
        return cls._in(Store(run.output), split, made)

    @classmethod
    def of_untrained(cls, run: RunConfig, name: str, task: Task, examples: Sequence[Example]) -> Self:
        """Those of the run's student before any training, on the held-out examples."""
        start = {
            "model": model_fingerprint(run.student.model),
            "init": run.student.init.model_dump(mode="json"),
            "seed": run.training.seed,
            "limits": [run.training.max_input_tokens, run.training.max_target_tokens],
        }
        folder = Store(run.output).child("compare/untrained")
        return cls._in(folder, name, {"untrained": start, **answers_identity(run, task, examples)})

    @classmethod
    def _in(cls, folder: Store, name: str, identity: dict[str, Any]) -> Self:
        return cls(folder.child(f"{name}-{fingerprint(identity)[:12]}"), identity)

    def finished(self) -> Manifest | None:
        """Their manifest; None where they are not there yet. Looking removes nothing."""
        return decide(self.store, "scores", self.identity, replace=True).reused

    def rights(self) -> list[bool]:
        """Whether each example is right, in the order of the examples."""
        import pyarrow.parquet as pq

        with self.store.fs.open_input_file(self.store.path("predictions.parquet")) as file:
            found: list[bool] = pq.read_table(file, columns=["right"])["right"].to_pylist()
        return found


def score_cell(run: RunConfig, labels_at: str, split: Split) -> Manifest:
    """Train the cell's student where that is not done, and score it on a split.

    Raises:
        UserError, StageFailedError: of the train stage, or a student failed to answer.
    """
    task, labels = task_of(run), require_manifest(Store(labels_at), "labels", "label RUN")
    examples = scored_examples(with_split(run, split), split_of(run, split, task))
    target = Scores.of_cell(run, split, task, labels, examples)
    if done := target.finished():
        return done
    answers = answers_of_teacher(run, split, Store(labels_at), examples, task)
    inputs = student_inputs(run, answers, examples)
    student = train(run, replace=True, labels_at=labels_at)
    details = {
        "training": {key: student.details["training"][key] for key in _REPORTED},
        "parameters": student.details["parameters"],
        "train_examples": student.counts["train_examples"],
        "tokens": student.counts["tokens"],
        "train_s": training_s(student),
        "student": student.fingerprint,
    }
    source = Trained(Store(run.output).child("student").uri)
    with PredictorPool(run.evaluation) as answerers:
        manifest = _score(run, task, examples, inputs, answerers.of(source), target, details)
    if split == "heldout" and not run.compare.keep_students:
        drop_student(run)
    return manifest


def drop_student(run: RunConfig) -> None:
    """Remove the weights of a cell that is scored, or that a search did not choose."""
    Store(run.output).child("student").clear()


def score_untrained(run: RunConfig, name: str, answerers: PredictorPool) -> Manifest:
    """Score the run's student as it is before any training, reading plain inputs, in OUTPUT/compare/untrained/NAME-MARK."""
    task = task_of(run)
    examples = scored_examples(run, split_of(run, "heldout", task))
    target = Scores.of_untrained(run, name, task, examples)
    if done := target.finished():
        return done
    training = run.training
    source = Untrained(run.student, training.seed, training.max_input_tokens, training.max_target_tokens)
    return _score(run, task, examples, [example.input for example in examples], answerers.of(source), target, {})


def answers_of_teacher(
    run: RunConfig, split: Split, labels: Store, examples: Sequence[Example], task: Task
) -> TeacherAnswers:
    """The teacher's answers to the examples of a split.

    A validation file beside a test set is never labelled. Its ids may be those of other rows, whose answers are none to it.
    """
    if split == "validation" and isinstance(run.corpus.validation, str):
        return TeacherAnswers()
    return teacher_answers(labels, with_split(run, split).corpus, examples, task)


def _score(
    run: RunConfig, task: Task, examples: Sequence[Example], inputs: Sequence[str], student: Respondent, target: Scores,
    details: dict[str, Any],
) -> Manifest:  # fmt: skip
    system = student_system("student", student, run, task, examples, inputs)
    target.store.write("predictions.parquet", _predictions(examples, system))
    row = system.row()
    manifest = manifest_of(
        "scores",
        target.identity,
        config=run.model_dump(mode="json"),
        counts={key: row[key] for key in ("correct", "total", "unanswered", "too_long")},
        timings_s={"answers": row["seconds"]},
        details={**details, **{key: row[key] for key in row if key.endswith("_per_example")}},
        provenance={},
    )
    write_manifest(target.store, manifest)
    return manifest


def _predictions(examples: Sequence[Example], system: System) -> bytes:
    columns = [[example.id for example in examples], system.texts, system.labels, system.right, system.confidences]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, PREDICTION, strict=True)]
    return parquet_bytes(pa.Table.from_arrays(arrays, schema=PREDICTION))
