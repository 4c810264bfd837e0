"""What the train stage refuses, before any worker starts. Every check raises UserError; none writes anything.

In: the run, its labels and its model's config. Out: `TokenSettings`, and the identity that a student's fingerprint is made of.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from pipelines.config import RunConfig, TrainingConfig
from pipelines.data.heldout import validation_identity, validation_share
from pipelines.errors import UserError
from pipelines.methods import METHODS
from pipelines.storage.fingerprint import model_fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.students.decoding import model_family
from pipelines.students.init import max_positions, student_config, student_tokenizer
from pipelines.students.tokenizer_fingerprint import tokenizer_fingerprint
from pipelines.tasks import Task, load_task, task_spec
from pipelines.train.data.sequences import TokenSettings
from pipelines.train.data.token_table import TokenCounts
from pipelines.train.loss_terms import term_weights

FORMAT = 3
"""Bumped when this stage makes another student from the same input. 3: a tokenizer of its own knows the training rows alone."""

_WITHOUT_EFFECT = {
    "workers",
    "min_workers",
    "gpus_per_worker",
    "placement",
    "zero_stage",
    "tokens_per_micro_batch",
    "offload",
    "activation_checkpointing",
    "max_failures",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "keep_checkpoints",
    "max_loss_spike",
    "compile",
    "trackers",
}
"""Settings of `training` that decide how the same student is computed."""
_WIDEST = {
    False: "longest sequence has",
    True: "widest example has, with all labels that it compares and their padding",
}


def with_absolute_model(run: RunConfig) -> RunConfig:
    """The run with its model folder named in full: workers have another working directory."""
    path = Path(run.student.model).expanduser()
    if not path.is_dir():
        return run
    return run.model_copy(update={"student": run.student.model_copy(update={"model": str(path.absolute())})})


def train_identity(run: RunConfig, task: Task, labels: Manifest) -> dict[str, Any]:
    """What decides the student; its fingerprint is the artifact's."""
    return {
        "format": FORMAT,
        "task": {"name": task.name, "version": task.version},
        "student": {**run.student.effective(), "model": model_fingerprint(run.student.model)},
        "training": deciding_settings(run.training),
        "corpus": {"validation": validation_identity(run.corpus)},
        "labels": {"fingerprint": labels.fingerprint, "content": labels.details.get("content")},
    }


def deciding_settings(training: TrainingConfig) -> dict[str, Any]:
    """What of the run file's `training` decides a student, however it is computed."""
    return training.model_dump(exclude=_WITHOUT_EFFECT)


def token_settings(run: RunConfig) -> TokenSettings:
    """What to tokenise, checked against the model."""
    student, training = run.student, run.training
    config = student_config(student)
    student_tokenizer(student.model)
    family, positions = model_family(config), max_positions(config)
    limits = (training.max_input_tokens, training.max_target_tokens)
    needed = max(limits) if family == "encoder-decoder" else sum(limits)
    if positions is not None and needed > positions:
        how = "the larger of" if family == "encoder-decoder" else "the sum of"
        value = f"training.max_input_tokens {limits[0]} and max_target_tokens {limits[1]}"
        rule = f"{how} both is {needed}, {student.model} has {positions} positions"
        raise UserError(value, rule, "Lower them, or give a model with more positions.")
    return TokenSettings(
        model=student.model,
        family=family,
        method=student.method,
        terms=tuple(term_weights(student)),
        label_column=student.label_column,
        validation_share=validation_share(run.corpus.validation),
        max_input_tokens=training.max_input_tokens,
        max_target_tokens=training.max_target_tokens,
        task=task_spec(run.task, run.task_options),
        fraction=training.fraction,
        seed=training.seed,
    )


def check_task(labels: Manifest, run: RunConfig, where: str) -> None:
    """Refuse labels of another task than the run's: what they hold was asked, read and normalised by other rules.

    Args:
        where: the labels, as a message names them.
    """
    spec = task_spec(run.task, run.task_options)
    task, made_for = load_task(spec), labels.details["task"]
    rule = ""
    if (made_for["name"], made_for["version"]) != (task.name, task.version):
        rule = f"they are for task {made_for['name']} {made_for['version']}, the run's is {task.name} {task.version}"
    elif made_with := labels.identity.get("task"):
        source = None if spec.source is None else hashlib.sha256(spec.source.encode()).hexdigest()
        if made_with["options"] != json.loads(json.dumps(spec.options)):
            rule = "they were made with other task_options than the run's"
        elif made_with["source"] != source:
            rule = f"they were made with another content of the task file {run.task}"
    if rule:
        raise UserError(where, rule, "Run `raystill label RUN --replace`, restore the task, or set another output.")


def check_trackers(training: TrainingConfig) -> None:
    """Refuse trackers that cannot be told anything: their package is not there, or they do not know whom to tell."""
    for tracker in training.trackers:
        if importlib.util.find_spec(tracker) is None:
            remedy = f"Install it here and on the workers (pip install 'raystill[{tracker}]'), or remove it."
            raise UserError(f"training.trackers {tracker}", "its package is not installed", remedy)
    if "mlflow" in training.trackers and not os.environ.get("MLFLOW_TRACKING_URI"):
        remedy = "Set it to the server's address or a folder (file:///...), here and on the workers, or remove mlflow."
        raise UserError("training.trackers mlflow", "the environment has no MLFLOW_TRACKING_URI", remedy)
    if "wandb" in training.trackers and not _knows_wandb():
        remedy = (
            "Log in (wandb login), set WANDB_API_KEY, or WANDB_MODE=offline, here and on the workers, or remove wandb."
        )
        raise UserError("training.trackers wandb", "there is no key of Weights & Biases", remedy)


def _knows_wandb() -> bool:
    netrc = Path("~/.netrc").expanduser()
    logged_in = netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8", errors="replace")
    return bool(os.environ.get("WANDB_API_KEY")) or os.environ.get("WANDB_MODE") in ("offline", "disabled") or logged_in


def check_gold(labels: Store, settings: TokenSettings) -> None:
    """Refuse to train on gold labels that are not there; the message says how many are missing."""
    import pyarrow.dataset as ds

    if settings.label_column != "gold" or not {"label", "text"} & set(settings.terms):
        return
    files = [labels.path(name) for name in labels.files("data", ".parquet")]
    rows = ds.dataset(files, filesystem=labels.fs, format="parquet")
    gold = ds.field("gold")
    lacking = rows.count_rows(filter=gold.is_null() | (gold == ""))
    if lacking:
        asked = f"method {settings.method}" if METHODS[settings.method].label_column else "student.labels gold"
        rule = f"it learns gold labels, and {lacking:,} of {rows.count_rows():,} labelled examples have none"
        remedy = "Add gold labels to the corpus, or set method: step-by-step with labels: teacher."
        raise UserError(asked, rule, remedy)


def check_tops(labels: Manifest, run: RunConfig) -> None:
    """Refuse token-kd without the teacher's token log-probabilities, and with a student whose tokens are others."""
    if not METHODS[run.student.method].learns_teacher_tokens:
        return
    tokenizer = labels.details.get("tokenizer")
    if tokenizer is None:
        rule = "it learns the teacher's distributions over tokens, and the labels hold none"
        remedy = "Label with teacher.token_logprobs: 20 (engine vllm), or choose another method."
        raise UserError(f"method {run.student.method}", rule, remedy)
    if tokenizer != tokenizer_fingerprint(run.student.model):
        teacher = (labels.details.get("teacher") or {}).get("model")
        rule = f"its tokenizer is not that of the teacher {teacher}, so that their tokens cannot be compared"
        remedy = "Give a student of the teacher's family, or choose another method, such as rationale-then-label."
        raise UserError(f"student.model {run.student.model}", rule, remedy)


def check_validation(run: RunConfig) -> None:
    """Refuse to measure in between what a validation file cannot measure: it holds no word of the teacher's."""
    is_file, method = isinstance(run.corpus.validation, str), run.student.method
    if run.training.validate_every_steps is not None and is_file and METHODS[method].needs_teacher_text:
        rule = f"corpus.validation is a file, without the teacher's answers that method {method} is measured on"
        raise UserError("training.validate_every_steps", rule, "Set corpus.validation to a share, or remove it.")


def check_counts(counts: TokenCounts, run: RunConfig, settings: TokenSettings) -> None:
    """Refuse splits without examples, and examples that no batch has room for."""
    if not counts.train:
        if counts.nothing_to_learn:
            rule = f"{counts.nothing_to_learn:,} labelled examples hold nothing that it learns from, and none is left"
            raise UserError(f"method {settings.method}", rule, METHODS[settings.method].remedy)
        rule = f"no example is left to train on ({counts.validation:,} held out, {counts.too_long:,} too long)"
        raise UserError(Store(run.output).shown("labels"), rule, "Label more examples, or lower corpus.validation.")
    if settings.validation_share and not counts.validation:
        rule = f"of {counts.train:,} examples none is held out"
        raise UserError(f"corpus.validation {settings.validation_share:g}", rule, "Raise it, or set it to 0.")
    validation = run.corpus.validation
    if isinstance(validation, str) and not METHODS[settings.method].needs_teacher_text and not counts.validation:
        rule = f"no row of it is readable, has a gold label, and is within the limits ({counts.too_long:,} rows in all are too long)"
        raise UserError(f"corpus.validation {validation}", rule, "Mend the file, or give a share of train.")
    if "rationale" in settings.terms and not counts.rationales:
        rule = f"none of {counts.train:,} examples has a rationale"
        raise UserError(
            f"method {settings.method}", rule, "Label with a prompt that asks for one, or set method: finetune."
        )
    if settings.compares_labels and not counts.compared:
        rule = f"none of {counts.train:,} examples has a distribution over several labels"
        remedy = "Label with teacher.sampling.n above 1, or with soft_labels: logprobs, or choose another method."
        raise UserError(f"method {settings.method}", rule, remedy)
    if run.training.validate_every_steps is not None and not counts.validation:
        rule = "no example is held out for validation"
        raise UserError("training.validate_every_steps", rule, "Set corpus.validation to a share, or remove it.")
    limits = (
        ("tokens_per_batch", counts.largest, "largest example has, its sequences together"),
        ("tokens_per_micro_batch", counts.widest, _WIDEST[settings.compares_labels]),
    )
    for name, needed, what in limits:
        given = getattr(run.training, name)
        if needed > given:
            rule = f"it is below the {needed} tokens that the {what}"
            raise UserError(
                f"training.{name} {given}", rule, f"Raise it to {needed} at least, or lower max_input_tokens."
            )
