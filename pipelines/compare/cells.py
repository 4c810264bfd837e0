"""One cell of the grid: train its student, answer the examples of a split, score. Finished parts are never made again.

In: the cell's run (grid.run_of) and the labels. Out, in the cell's folder OUTPUT/compare/cells/NAME:

    student/                            removed when the cell is scored, unless compare.keep_students
    validation-MARK/ or heldout-MARK/   scores of a split, written when all examples are answered:
        predictions.parquet               one row per example, with schema PREDICTION
        manifest.json                     last; its details are model.CellDetails

MARK is the start of the scores' fingerprint: scores of other evaluation settings or examples stay beside these. After a kill, training
resumes from its checkpoints, and scoring from the finished student. A cell runs in a Ray task of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import pyarrow as pa
from pydantic import JsonValue

from pipelines.compare.grid import student_name
from pipelines.compare.model import AnswerDetails, CellDetails, CellTraining
from pipelines.config import RunConfig
from pipelines.data.heldout import Heldout, has_heldout_files, heldout_examples
from pipelines.methods import METHODS
from pipelines.reuse import decide
from pipelines.runtime.progress_file import ProgressFile
from pipelines.scoring.costs import training_s
from pipelines.scoring.heldout_part import scored_examples
from pipelines.scoring.identity import answers_identity, labels_identity
from pipelines.scoring.model import JsonObject
from pipelines.scoring.predict import Predictions, PredictRequest, predict
from pipelines.scoring.reference_systems import TeacherAnswers, teacher_answers
from pipelines.scoring.sources import Untrained, trained
from pipelines.scoring.system import System
from pipelines.scoring.systems import label_request, student_inputs, student_system
from pipelines.storage.fingerprint import fingerprint, model_fingerprint
from pipelines.storage.manifest import Manifest, manifest_of, require_manifest, write_manifest
from pipelines.storage.parquet import parquet_bytes
from pipelines.storage.store import Store
from pipelines.tasks import Example, Task, load_task, task_spec
from pipelines.train.identity import train_identity
from pipelines.train.stage import train_locked

Split = Literal["validation", "heldout"]
PREDICTION = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),  # as the student wrote it
        pa.field("label", pa.string()),  # normalised; null if the text is no label
        pa.field("right", pa.bool_(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
    ]
)
_TRAINING_DETAILS = ("steps", "tokens_per_s", "padding_share", "loss", "world_size")


def task_of(run: RunConfig) -> Task:
    """The task of the run, loaded."""
    return load_task(task_spec(run.task, run.task_options))


def split_of(run: RunConfig, split: Split, task: Task) -> Heldout:
    """The examples of a split. `validation` is part of train, also if there is a test set."""
    return heldout_examples(with_split(run, split), task)


def with_split(run: RunConfig, split: Split) -> RunConfig:
    """The run with a split as its held-out examples."""
    if split == "heldout":
        return run
    return run.model_copy(update={"corpus": run.corpus.model_copy(update={"test": None})})


@dataclass(frozen=True)
class Scores:
    """The folder and the identity of one student's scores on one split."""

    store: Store
    identity: JsonObject

    @classmethod
    def of_cell(cls, run: RunConfig, split: Split, task: Task, labels: Manifest, examples: Sequence[Example]) -> Self:
        """Scores of a cell, whose student need not exist. `examples`: those of the split, with gold labels."""
        identity = {"student": fingerprint(train_identity(run, task, labels)), **answers_identity(run, task, examples)}
        if METHODS[run.student.method].reads_rationale:
            # The teacher's answers to held-out examples are inputs here, and not part of the student's identity.
            identity["labels"] = labels_identity(labels)
            if not has_heldout_files(with_split(run, split).corpus):
                identity["rejects_read"] = True  # early scores ignored rationales that a filter had rejected
        return cls._in(Store(run.output), split, identity)

    @classmethod
    def before_training(
        cls, kind: Literal["untrained", "few-shot"], run: RunConfig, task: Task, examples: Sequence[Example],
        limits: Mapping[str, JsonValue], **more: str,
    ) -> Self:  # fmt: skip
        """Scores of the run's student before any training, on the held-out examples.

        Args:
            limits: of tokens.
            more: what else decides the answers.
        """
        student = run.student
        start: JsonObject = {
            "model": model_fingerprint(student.model),
            "init": student.init.model_dump(mode="json"),
            "seed": run.training.seed,
            **limits,
        }
        if student.prompt != "plain":  # early scores lack it
            start["prompt"] = student.prompt
        identity: JsonObject = {kind.replace("-", "_"): start, **more, **answers_identity(run, task, examples)}
        return cls._in(Store(run.output).child(f"compare/{kind}"), student_name(student.model), identity)

    @classmethod
    def _in(cls, folder: Store, name: str, identity: JsonObject) -> Self:
        return cls(folder.child(f"{name}-{fingerprint(identity)[:12]}"), identity)

    def finished(self) -> Manifest | None:
        """Their manifest; None if they are not finished, or damaged. Changes nothing on disk."""
        return decide(self.store, "scores", self.identity, replace=True, damage=self._damage).reused

    def rights(self) -> list[bool]:
        """For each example, True if the answer is right."""
        import pyarrow.parquet as pq

        file = pa.BufferReader(self.store.read("predictions.parquet"))
        found: list[bool] = pq.read_table(file, columns=["right"])["right"].to_pylist()
        return found

    def _damage(self, manifest: Manifest) -> str | None:
        content = None if not self.store.exists("predictions.parquet") else self.rights
        try:
            same = content is not None and len(content()) == manifest.counts["total"]
        except (pa.ArrowException, OSError, KeyError):  # of Parquet: the store's own errors are UserErrors
            same = False
        return None if same else "its predictions.parquet is lost or damaged"

    def write(self, run: RunConfig, examples: Sequence[Example], system: System, details: AnswerDetails) -> Manifest:
        """Finish the scores."""
        scores = system.scores()
        columns = [[example.id for example in examples], system.texts, system.labels, system.right, system.confidences]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, PREDICTION, strict=True)]
        self.store.write("predictions.parquet", parquet_bytes(pa.Table.from_arrays(arrays, schema=PREDICTION)))
        manifest = manifest_of(
            "scores",
            self.identity,
            config=run.model_dump(mode="json"),
            counts=scores.model_dump(include={"correct", "total", "unanswered", "too_long"}),
            timings_s={"answers": scores.seconds},
            details=details.model_dump(mode="json"),
            provenance={},
        )
        write_manifest(self.store, manifest)
        return manifest


def score_cell(
    run: RunConfig, labels_at: str, split: Split, trained_on: str | None = None, tokens_at: str | None = None
) -> Manifest:
    """Train the cell's student, unless it is trained, and score it on a split, unless it is scored.

    Args:
        labels_at: the run's labels, with the teacher's answers to held-out examples.
        trained_on: labels to train on; None: the run's.
        tokens_at: folder that keeps token tables for other cells.

    Raises:
        UserError, StageFailedError: from the train stage, or a student failed to answer.
    """
    trained_on = trained_on or labels_at
    task, labels = task_of(run), require_manifest(Store(trained_on), "labels", "compare RUN")
    examples = scored_examples(with_split(run, split), split_of(run, split, task))
    target = Scores.of_cell(run, split, task, labels, examples)
    if done := target.finished():
        return done
    answers = answers_of_teacher(run, split, Store(labels_at), examples, task)
    inputs = student_inputs(run, answers, examples)
    tokens = None if tokens_at is None else Store(tokens_at)
    student = train_locked(run, replace=True, labels_at=trained_on, tokens_at=tokens)
    source = trained(run, Store(run.output).child("student").uri, student.details["family"])
    with ProgressFile(Store(run.output), "evaluate", "examples") as live:
        [predicted] = predict([label_request("student", source, run, task, examples, inputs)], run.evaluation, live)
    system = student_system(predicted, run, task, examples, "student")
    manifest = target.write(run, examples, system, _cell_details(student, system))
    if split == "heldout" and not run.compare.keep_students:
        drop_student(run)
    return manifest


def drop_student(run: RunConfig) -> None:
    """Remove the weights of a cell, and their conversion for CTranslate2."""
    for name in ("student", "student-ctranslate2"):
        Store(run.output).child(name).clear()


def score_untrained(
    runs: Mapping[str, RunConfig], task: Task, examples: Sequence[Example], live: ProgressFile | None = None
) -> dict[str, Manifest]:
    """Score the students of some runs before any training, on plain inputs, in OUTPUT/compare/untrained/NAME-MARK.

    Args:
        runs: by model; equal in all but the student.
        live: progress file of the comparison.
    """
    prepared = {}
    for model, run in runs.items():
        limits = (run.training.max_input_tokens, run.training.max_target_tokens)
        source, inputs = Untrained(run.student, run.training.seed, *limits), [example.input for example in examples]
        request = label_request(f"untrained {model}", source, run, task, examples, inputs)
        scores = Scores.before_training("untrained", run, task, examples, {"limits": list(limits)})
        prepared[model] = run, request, scores
    return score_missing(prepared, task, examples, live)


def score_missing(
    prepared: Mapping[str, tuple[RunConfig, PredictRequest, Scores]], task: Task, examples: Sequence[Example],
    live: ProgressFile | None, read: Callable[[Predictions], Predictions] = lambda predicted: predicted,
) -> dict[str, Manifest]:  # fmt: skip
    """Ask the students without finished scores. Returns the scores of all, by model.

    Args:
        read: finds the answers that count.
    """
    left = [one for one in prepared.values() if not one[-1].finished()]
    if left:
        found = predict([request for _, request, _ in left], left[0][0].evaluation, live)
        for (run, _, scores), predicted in zip(left, found, strict=True):
            system = student_system(read(predicted), run, task, examples, "untrained")
            scores.write(run, examples, system, AnswerDetails(**_per_answer(system)))
    return {model: manifest for model, (*_, scores) in prepared.items() if (manifest := scores.finished())}


def answers_of_teacher(
    run: RunConfig, split: Split, labels: Store, examples: Sequence[Example], task: Task
) -> TeacherAnswers:
    """The teacher's answers to the examples of a split.

    A validation file beside a test set is never labelled. Its ids may equal those of other rows, whose answers do not apply to it.
    """
    if split == "validation" and isinstance(run.corpus.validation, str):
        return TeacherAnswers()
    return teacher_answers(labels, with_split(run, split).corpus, examples, task)


def _cell_details(student: Manifest, system: System) -> CellDetails:
    training = student.details["training"]
    return CellDetails(
        training=CellTraining.model_validate({key: training[key] for key in _TRAINING_DETAILS}),
        parameters=student.details["parameters"],
        train_examples=student.counts["train_examples"],
        tokens=student.counts["tokens"],
        train_s=training_s(student),
        student=student.fingerprint,
        **_per_answer(system),
    )


def _per_answer(system: System) -> dict[str, float | None]:
    return system.scores().model_dump(include=set(AnswerDetails.model_fields))
