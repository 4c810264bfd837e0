"""What the train stage refuses before any worker starts. Every check raises UserError, and none writes anything.

In: the run, its labels and its model's config. Out: `TokenSettings`.
"""

from __future__ import annotations

import hashlib
import json

from pipelines.config import RunConfig, TrainingConfig
from pipelines.data.heldout import validation_share
from pipelines.data.label_parts import LabelParts
from pipelines.errors import UserError
from pipelines.methods import METHODS
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.students.decoding import model_family
from pipelines.students.init import max_positions, student_config, student_tokenizer
from pipelines.students.tokenizer_fingerprint import tokenizer_fingerprint
from pipelines.tasks import load_task, task_spec
from pipelines.train.data.sequences import TokenSettings
from pipelines.train.data.step_counts import few_steps, planned_steps
from pipelines.train.data.token_table import TokenCounts
from pipelines.train.loss_terms import term_weights

METHOD_WITHOUT_GOLD = "Remove it from compare.methods; compare.gold_fractions compares finetune on the rows with gold."
"""Remedy for a method of a grid that learns gold labels alone, and rows lack them."""
_ENOUGH_GOLD = 20
"""Rows with a gold label, from which on a share says something."""


def token_settings(run: RunConfig) -> TokenSettings:
    """What to tokenise, checked against the model."""
    student, training = run.student, run.training
    config = student_config(student)
    family, positions = model_family(config), max_positions(config)
    if student.prompt == "chat" and family == "encoder-decoder":
        rule = f"{student.model} is an encoder-decoder, and only decoder-only models read chats"
        raise UserError("student.prompt chat", rule, "Set student.prompt: plain.")
    student_tokenizer(student.model, student.prompt)
    limits = (training.max_input_tokens, training.max_target_tokens)
    needed = max(limits) if family == "encoder-decoder" else sum(limits)
    if positions is not None and needed > positions:
        which = "the larger" if family == "encoder-decoder" else "the sum"
        value = f"training.max_input_tokens {limits[0]} and max_target_tokens {limits[1]}"
        rule = f"{which} of both is {needed}, {student.model} has {positions} positions"
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
        prompt=student.prompt,
        fraction=training.fraction,
        seed=training.seed,
        rationales_per_row=student.rationales.per_row,
        rationale_share=student.rationales.share,
        max_rationale_words=student.rationales.max_words,
    )


def check_task(labels: Manifest, run: RunConfig, shown: str) -> None:
    """Refuse labels of another task: their answers were prompted, parsed and normalised by other rules.

    Args:
        shown: the labels' place, for messages.
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
        raise UserError(shown, rule, "Run `raystill label RUN --replace`, restore the task, or set another output.")


def check_gold(labels: Store, settings: TokenSettings, *, leaves_out: bool = False, in_grid: bool = False) -> None:
    """Refuse to train on gold labels that are missing.

    Args:
        leaves_out: rows without one are left out, so that some are enough.
        in_grid: the message is for `raystill compare`, which leaves out no rows.
    """
    import pyarrow.dataset as ds

    if settings.label_column != "gold" or not {"label", "text"} & set(settings.terms):
        return
    gold = ds.field("gold")
    with LabelParts.of(labels).naming_damage("data") as files:
        rows = ds.dataset(files, filesystem=labels.fs, format="parquet")
        missing, count = rows.count_rows(filter=gold.is_null() | (gold == "")), rows.count_rows()
    if missing == 0 or (leaves_out and missing < count):
        return
    fixed = METHODS[settings.method].label_column is not None
    value = f"method {settings.method}" if fixed else "student.labels"
    rule = f"it learns gold labels, and {missing:,} of {count:,} labelled examples have none"
    alone = "Set student.labels: gold to learn the rows with gold alone" if missing < count else "Add gold labels"
    remedy = f"{alone}, or method: step-by-step with labels: gold-else-teacher or teacher to learn all."
    if in_grid:
        remedy = METHOD_WITHOUT_GOLD if fixed else "Set student.labels: gold-else-teacher or teacher."
    raise UserError(value, rule, remedy)


def check_token_logprobs(labels: Manifest, run: RunConfig) -> None:
    """Refuse to learn the teacher's tokens if the labels lack them, or the student has another tokenizer."""
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


def check_rationales(labels: Store, settings: TokenSettings) -> None:
    """Refuse to learn several rationales of a row if the labels keep one."""
    if not settings.rotates_rationales or LabelParts.of(labels).names("rationales"):
        return
    several, rule = settings.rationales_per_row, f"{labels.shown()} has one rationale for each row"
    remedy = f"Label with teacher.sampling.n: {several} or more and a temperature above 0, or set per_row: 1."
    raise UserError(f"student.rationales.per_row {several}", rule, remedy)


def check_validation(run: RunConfig) -> None:
    """Refuse to measure a method by what the validation split, or the method, lacks."""
    is_file, method = isinstance(run.corpus.validation, str), run.student.method
    if run.training.validate_every_steps is not None and is_file and METHODS[method].needs_teacher_text:
        rule = f"corpus.validation is a file, without the teacher's answers that method {method} is measured on"
        raise UserError("training.validate_every_steps", rule, "Set corpus.validation to a share, or remove it.")
    if run.training.choose_by == "accuracy" and "label" not in term_weights(run.student):
        rule = f"method {method} writes no label of its own, or has rationale_weight 1"
        raise UserError("training.choose_by accuracy", rule, "Set choose_by: label-loss.")


def check_counts(counts: TokenCounts, run: RunConfig, settings: TokenSettings) -> None:
    """Refuse splits without examples, and examples that fit into no batch."""
    _check_training_split(counts, run, settings)
    _check_validation_split(counts, run, settings)
    _check_sizes(counts, run, settings)


def budget_warnings(counts: TokenCounts, training: TrainingConfig) -> list[str]:
    """What is odd about the number of steps, or about their size."""
    steps = planned_steps(counts.tokens, training.tokens_per_batch, training.epochs, training.steps)
    few = few_steps(steps)
    found = [few] if few else []
    if counts.tokens < training.tokens_per_batch:
        rule = f"training.tokens_per_batch {training.tokens_per_batch:,}: all {counts.train:,} examples have {counts.tokens:,} tokens"
        found.append(f"{rule}, so that every step reads all of them. Lower it")
    return found


def teacher_warnings(labels: Manifest, run: RunConfig) -> list[str]:
    """That the student learns labels of a teacher who is right on less than half of the rows with a gold label."""
    gold = labels.counts.get("gold", {})
    known, right = gold.get("with_gold", 0), gold.get("agreeing", 0)
    if run.student.label_column == "gold" or known < _ENOUGH_GOLD or right >= known / 2:
        return []
    rule = f"the teacher's label is gold in {right:,} of {known:,} rows ({right / known:.1%}), and the student learns its labels"
    rule += " of the other rows" if run.student.label_column == "either" else ""
    alone = f"learn the {known:,} rows with gold alone (student.labels: gold)"
    return [f"{rule}. Give a better teacher or prompt, or {alone}. compare.gold_fractions measures which is better"]


def left_out_notices(counts: TokenCounts, run: RunConfig) -> list[str]:
    """The rows that `student.labels: gold` leaves out."""
    if not run.student.leaves_out_rows or not counts.nothing_to_learn:
        return []
    rows = counts.train + counts.validation + counts.too_long + counts.nothing_to_learn
    missing = "gold label or no rationale" if METHODS[run.student.method].reads_rationale else "gold label"
    return [f"student.labels: gold: {counts.nothing_to_learn:,} of {rows:,} rows have no {missing} and are left out"]


def rationale_notices(counts: TokenCounts, settings: TokenSettings) -> list[str]:
    """What `student.rationales` leaves out."""
    found, rows = [], f"of {counts.train:,} training rows"
    if counts.unshared:
        found.append(f"student.rationales.share: {counts.unshared:,} {rows} teach their label alone")
    if counts.long_rationales:
        longer = f"{counts.long_rationales:,} rationales have more than {settings.max_rationale_words} words"
        found.append(f"student.rationales.max_words: {longer} and are not learned")
    if settings.rotates_rationales:
        found.append(f"student.rationales.per_row: {counts.rotating:,} {rows} have several rationales to learn in turn")
    return found


def _check_training_split(counts: TokenCounts, run: RunConfig, settings: TokenSettings) -> None:
    method = f"method {settings.method}"
    if not counts.train and counts.nothing_to_learn:
        rule = f"{counts.nothing_to_learn:,} labelled examples hold nothing that it learns from, and none is left"
        raise UserError(method, rule, METHODS[settings.method].remedy)
    if not counts.train:
        rule = f"no example is left to train on ({counts.validation:,} held out, {counts.too_long:,} too long)"
        low = ["training.max_input_tokens, training.max_target_tokens"] if counts.too_long else []
        low += [f"training.fraction {settings.fraction:g}"] if settings.fraction < 1.0 else []
        remedy = f"Raise {', '.join(low)}." if low else "Label more examples, or lower corpus.validation."
        raise UserError(Store(run.output).shown("labels"), rule, remedy)
    if "rationale" in settings.terms and not counts.rationales:
        rule = f"none of {counts.train:,} examples has a rationale"
        raise UserError(method, rule, "Label with a prompt that asks for one, or set method: finetune.")
    if settings.compares_labels and not counts.compared:
        rule = f"none of {counts.train:,} examples has a distribution over several labels"
        remedy = "Label with teacher.sampling.n above 1, or with soft_labels: logprobs, or choose another method."
        raise UserError(method, rule, remedy)


def _check_validation_split(counts: TokenCounts, run: RunConfig, settings: TokenSettings) -> None:
    if counts.validation:
        return
    validation = run.corpus.validation
    if settings.validation_share:
        rule = f"of {counts.train:,} examples none is held out"
        raise UserError(f"corpus.validation {settings.validation_share:g}", rule, "Raise it, or set it to 0.")
    if isinstance(validation, str) and not METHODS[settings.method].needs_teacher_text:
        rule = (
            f"it has no readable row with a gold label within the limits ({counts.too_long:,} rows in all are too long)"
        )
        raise UserError(f"corpus.validation {validation}", rule, "Fix the file, or give a share of train.")
    if run.training.validate_every_steps is not None:
        rule = "no example is held out for validation"
        raise UserError("training.validate_every_steps", rule, "Set corpus.validation to a share, or remove it.")


def _check_sizes(counts: TokenCounts, run: RunConfig, settings: TokenSettings) -> None:
    widest = "the longest sequence has"
    if settings.compares_labels:
        widest = "the widest example has, with all labels that it compares and their padding"
    limits = (
        ("tokens_per_batch", counts.largest, "the largest example has in all its sequences"),
        ("tokens_per_micro_batch", counts.widest, widest),
    )
    for name, needed, owner in limits:
        value = getattr(run.training, name)
        if needed > value:
            rule = f"it is below the {needed} tokens that {owner}"
            remedy = f"Raise it to {needed} at least, or lower max_input_tokens."
            raise UserError(f"training.{name} {value}", rule, remedy)
