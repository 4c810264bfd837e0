"""The evaluate stage: which of four systems is right on the same held-out examples, and how sure that is.

In: OUTPUT/student, OUTPUT/labels and the held-out part of the corpus. Out: OUTPUT/report:

    report/report.json           what was measured; its schema stands in pipelines.evaluate.report
    report/report.md             the same to read
    report/accuracy.png          the systems' accuracy with intervals
    report/predictions.parquet   every answer to every example
    report/manifest.json         last
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.artifacts import (
    Manifest,
    Store,
    fingerprint,
    finished,
    library_versions,
    manifest_of,
    model_fingerprint,
    now,
    require_manifest,
    write_manifest,
)
from pipelines.config import RunConfig, StudentConfig
from pipelines.corpus import Heldout, heldout_examples
from pipelines.errors import UserError
from pipelines.evaluate import plots, report
from pipelines.evaluate.baselines import Majority, TeacherAnswer, majority_label, teacher_answers
from pipelines.evaluate.overlap import overlap_part, seen_in_training
from pipelines.evaluate.predict import Prediction, Source, Trained, Untrained, predict
from pipelines.evaluate.report import System
from pipelines.methods import NEEDS_A_TEACHER, read_answer, with_rationale
from pipelines.tasks import Example, Task, load_task, task_spec

_FORMAT = 2
_LISTED_IDS = 100


def evaluate(run: RunConfig, *, replace: bool = False) -> Manifest:
    """Score the run's student, the untrained student, the teacher and the majority label on the same held-out examples.

    `replace` changes nothing here: a report of another student or of other examples is made anew either way.

    Raises:
        UserError: student or labels are not finished or do not belong to this run, or there is no example to score.
        StageFailedError: a student failed to answer.
    """
    began = time.monotonic()
    output = Store(run.output)
    labels_store, student_store, store = (output.child(name) for name in ("labels", "student", "report"))
    student = require_manifest(student_store, "student", "train RUN")
    labels = require_manifest(labels_store, "labels", "label RUN")
    task = load_task(task_spec(run.task, run.task_options))
    _check_belongs(run, task, student, labels)
    heldout = heldout_examples(run, task)
    examples = [example for example in heldout.examples if example.gold is not None]
    if not examples:
        rows = len(heldout.examples) + heldout.unreadable
        rule = f"none of its {rows:,} rows has a gold label that the task can read"
        raise UserError(_heldout_key(run), rule, "Give held-out examples with gold labels.")
    identity = _identity(run, task, student, labels, heldout)
    # Stale labels and students are refused, as they cost hours. A report costs minutes and follows from them alone: it
    # is made anew. It goes before the work begins: if that breaks off, no earlier student's lies beside this one.
    if done := finished(store, "report", identity, replace=True):
        return done

    seen = seen_in_training(labels_store, run.corpus, examples)
    overlap = overlap_part(seen, len(examples), _heldout_key(run))
    answers = teacher_answers(labels_store, run.corpus, [example.id for example in examples])
    inputs = [example.input for example in examples]
    if run.student.method == NEEDS_A_TEACHER:
        rationales = (answers[e.id].rationale if e.id in answers else "" for e in examples)
        inputs = [with_rationale(text, rationale) for text, rationale in zip(inputs, rationales, strict=True)]
    limits = (student.details["max_input_tokens"], student.details["max_target_tokens"])
    own_tokenizer = student_store.uri if run.student.init.vocabulary is not None else None
    untrained = Untrained(run.student, run.training.seed, *limits, own_tokenizer)
    trained_system = _student_system("student", Trained(student_store.uri), run, task, examples, inputs)
    majority = majority_label(labels_store, run.corpus, task, {example.id for example in heldout.examples})
    others = [
        _student_system("untrained", untrained, run, task, examples, inputs),
        _teacher_system(run, task, answers, examples),
        _majority_system(task, majority, examples),
    ]
    content: dict[str, Any] = {
        "format": _FORMAT,
        "run": run.name,
        "task": {"name": task.name, "version": task.version},
        "heldout": {**_heldout_part(run, heldout, len(examples)), "trained_on": overlap},
        "student": {
            "fingerprint": student.fingerprint,
            **{key: student.details[key] for key in ("method", "family", "parameters")},
        },
        **report.results(examples, trained_system, others, student.details["parameters"]),
        "majority": vars(majority) if majority else None,
        "provenance": student.provenance,
        "versions": library_versions(),
        "seconds": round(time.monotonic() - began, 3),
        "created": now(),
    }
    return _write(store, run, identity, content, examples, [trained_system, *others])


def _check_belongs(run: RunConfig, task: Task, student: Manifest, labels: Manifest) -> None:
    """Refuse what is of another task, a student of other labels, and one trained otherwise than the run says."""
    for kind, manifest, command in (("labels", labels, "label RUN"), ("student", student, "train RUN")):
        made_for = manifest.details["task"]
        if made_for["name"] not in (task.name, run.task) or made_for["version"] != task.version:
            rule = f"it is for task {made_for['name']} {made_for['version']}, the run's is {task.name} {task.version}"
            raise UserError(f"{run.output}/{kind}", rule, f"Run `raystill {command} --replace`, or set another output.")
    if student.provenance["labels"]["fingerprint"] != labels.fingerprint:
        rule = "it was trained on other labels than those beside it"
        raise UserError(f"{run.output}/student", rule, "Run `raystill train RUN --replace`, or set another output.")
    trained_as = StudentConfig.model_validate(student.config["student"]).effective()
    asked = run.student.effective()
    for key in sorted({*trained_as, *asked}):
        if trained_as.get(key) != asked.get(key):
            rule = f"its student.{key} was {trained_as.get(key)}, the run says {asked.get(key)}"
            raise UserError(f"{run.output}/student", rule, "Run `raystill train RUN --replace`, or correct the run.")


def _identity(run: RunConfig, task: Task, student: Manifest, labels: Manifest, heldout: Heldout) -> dict[str, Any]:
    rows = [[e.id, e.input, e.gold, list(e.choices)] for e in heldout.examples]
    return {
        "format": _FORMAT,
        "evaluation": run.evaluation.model_dump(mode="json", exclude={"batch_size", "workers"}),
        "task": {"name": task.name, "version": task.version, "options": run.task_options},
        "student": student.fingerprint,
        "untrained": {
            "model": model_fingerprint(run.student.model),
            "init": run.student.init.model_dump(mode="json"),
            "seed": run.training.seed,
        },
        "labels": {"fingerprint": labels.fingerprint, "content": labels.details["content"]},
        "heldout": fingerprint({"rows": rows, "unreadable": heldout.unreadable}),
    }


def _student_system(
    name: str, source: Source, run: RunConfig, task: Task, examples: Sequence[Example], inputs: Sequence[str]
) -> System:
    began = time.monotonic()
    answers: list[Prediction] = predict(source, inputs, run.evaluation, f"evaluate {report.TITLES[name]}")
    read = [
        read_answer(run.student.method, answer.text, task, example)
        for answer, example in zip(answers, examples, strict=True)
    ]
    labels = tuple(None if found is None else found.label for found in read)
    return System(
        name,
        labels=labels,
        right=tuple(
            label is not None and _right(task, label, example) for label, example in zip(labels, examples, strict=True)
        ),
        texts=tuple(answer.text for answer in answers),
        confidences=tuple(answer.confidence for answer in answers),
        too_long=sum(answer.too_long for answer in answers),
        seconds=round(time.monotonic() - began, 3),
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        output_tokens=sum(answer.output_tokens for answer in answers),
    )


def _teacher_system(
    run: RunConfig, task: Task, found: Mapping[str, TeacherAnswer], examples: Sequence[Example]
) -> System:
    if not found:
        return System("teacher", note="the labels hold none of its answers to the held-out examples")
    answers = [found[example.id].label if example.id in found else None for example in examples]
    right = tuple(a is not None and _right(task, a, e) for a, e in zip(answers, examples, strict=True))
    note = "engine echo repeats the gold label" if run.teacher.engine == "echo" else ""
    return System("teacher", labels=tuple(answers), right=right, note=note)


def _majority_system(task: Task, majority: Majority | None, examples: Sequence[Example]) -> System:
    if majority is None:
        return System("majority", note="there are no training rows")
    # By key, not as an answer: the label of another example's choices is no answer to this one, only wrong.
    right = tuple(task.key(majority.label) == task.key(_gold(example)) for example in examples)
    source = "" if majority.of == "gold" else " by the teacher, as no training row has a gold label"
    note = f"`{majority.label}`, the label of {majority.count:,} of {majority.rows:,} training rows{source}"
    return System("majority", labels=(majority.label,) * len(examples), right=right, note=note)


def _right(task: Task, text: str, example: Example) -> bool:
    return task.same(text, _gold(example), example)


def _gold(example: Example) -> str:
    assert example.gold is not None, "only examples with a gold label are scored"
    return example.gold


def _heldout_key(run: RunConfig) -> str:
    return "corpus.test" if run.corpus.test is not None else "corpus.validation"


def _heldout_part(run: RunConfig, heldout: Heldout, scored: int) -> dict[str, Any]:
    missing = [example.id for example in heldout.examples if example.gold is None]
    return {
        "split": _heldout_key(run).removeprefix("corpus."),
        "scored": scored,
        "without_gold": {"count": len(missing), "ids": missing[:_LISTED_IDS]},
        "unreadable": heldout.unreadable,
    }


def _write(
    store: Store,
    run: RunConfig,
    identity: dict[str, Any],
    content: dict[str, Any],
    examples: Sequence[Example],
    systems: Sequence[System],
) -> Manifest:
    store.write("predictions.parquet", report.predictions(examples, systems))
    store.write("accuracy.png", plots.accuracy_png(content, report.TITLES))
    store.write("report.md", report.markdown(content).encode())
    store.write(report.REPORT, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
    measured = {system["name"]: system for system in content["systems"]}
    manifest = manifest_of(
        "report",
        identity,
        config=run.model_dump(mode="json"),
        counts={
            "scored": content["heldout"]["scored"],
            "without_gold": content["heldout"]["without_gold"]["count"],
            "unreadable": content["heldout"]["unreadable"],
            "correct": {name: system["correct"] for name, system in measured.items()},
            "unanswered": {name: system["unanswered"] for name, system in measured.items()},
        },
        timings_s={"total": content["seconds"], "student": measured["student"]["seconds"],
                   "untrained": measured["untrained"]["seconds"]},
        details={"headline": content["headline"], "comparisons": content["comparisons"]},
        provenance={**content["provenance"], "student": content["student"]},
    )  # fmt: skip
    write_manifest(store, manifest)
    return manifest
