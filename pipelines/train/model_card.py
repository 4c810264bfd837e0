"""README.md of a student: what it is, what it learned from, and how its training went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipelines.config import FiltersConfig, RunConfig
from pipelines.methods import METHODS, with_rationale
from pipelines.students.chat_prompt import KEY, PromptKind
from pipelines.students.details import LabelsProvenance, StudentDetails, TrainingDetails, TrainingLosses
from pipelines.train.loss_terms import TERMS

_LABEL_SOURCES = {
    "gold": "gold, from people",
    "label": "the teacher's",
    "either": "gold if a row has one, else the teacher's",
}


def model_card(
    run: RunConfig, details: StudentDetails, labels: LabelsProvenance, counts: Mapping[str, int], versions: Mapping[str, str]
) -> str:  # fmt: skip
    """The card in Markdown.

    Args:
        counts: of the student's manifest.
        versions: of the libraries.
    """
    training = details.training
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "tags: [raystill, distillation]",
            "---",
            f"# {run.name}",
            "",
            f"A student for the task `{details.task.name}` (version {details.task.version}), trained by Raystill with the "
            f"method `{details.method}`.",
            "",
            "## What it is",
            f"- Started from `{_base_name(run.student.model)}` ({run.student.init.kind}{_layers(run)}), {details.family}, "
            f"{details.parameters:,} parameters.",
            f"- Reads up to {details.max_input_tokens:,} tokens, writes up to {details.max_target_tokens:,}.",
            _prompt_format(details, run.student.prompt),
            "",
            "## What it learned from",
            f"- Teacher: `{_teacher(labels)}`, prompt version `{labels.prompt_version}`. "
            f"Labels of the label task: {_LABEL_SOURCES[run.student.label_column]}.",
            f"- Labels artifact `{labels.fingerprint[:12]}`: {_label_counts(labels)} Filters: {_filters(labels)}.",
            f"- Trained on {counts['train_examples']:,} examples, {counts['tokens']:,} tokens {_budget(run, training)}; "
            f"{counts['validation_examples']:,} examples held out; {counts['too_long']:,} left out as too long"
            f"{_without_rationale(counts)}.",
            "",
            "## How the training went",
            f"- {training.steps:,} steps on {training.world_size} workers, ZeRO stage {training.zero_stage}, "
            f"{training.precision}, learning rate {run.training.learning_rate:g}, seed {run.training.seed}.",
            "",
            *_loss_table(training.loss),
            "",
            "## Made with",
            ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
            "",
        ]
    )


def _teacher(labels: LabelsProvenance) -> str:
    teacher = labels.teacher or {}
    model = teacher.get("model")
    return str((_base_name(str(model)) if model else None) or teacher.get("engine") or "unknown")


def _base_name(model: str) -> str:
    """A hub id, or the last part of a folder's path: where it lay is private."""
    return Path(model).name if Path(model).expanduser().is_dir() else model


def _layers(run: RunConfig) -> str:
    return f", {run.student.init.layers}" if run.student.init.layers else ""


def _prompt_format(details: StudentDetails, prompt: PromptKind) -> str:
    method = METHODS[details.method]
    end = "" if details.family == "encoder-decoder" else " followed by a line break"
    if prompt == "chat":
        end = f" as the user's turn of its chat template (texts around it: `{KEY}` in tokenizer_config.json)"
    if method.prefixed:
        return f"- Reads `[label] <input>` for the label and `[rationale] <input>` for the rationale{end}; decode greedily."
    if method.continues:
        more = "Generation that continues after that token writes the rationale"
        return f"- Reads `<input>`{end} and writes the label and an end-of-sequence token; decode greedily. {more}."
    if method.reads_rationale:
        return f"- Reads `{with_rationale('<input>', '<rationale>')}`{end} and writes the label; decode greedily."
    output = "a rationale and the label, as a teacher does" if method.writes_rationales else "the label"
    return f"- Reads `<input>`{end} and writes {output}; decode greedily."


def _without_rationale(counts: Mapping[str, int]) -> str:
    left_out = counts.get("sequences_too_long", 0)
    return f", {left_out:,} further sequences (rationales, other labels) too" if left_out else ""


def _budget(run: RunConfig, training: TrainingDetails) -> str:
    if run.training.epochs is None:
        return f"in {training.steps:,} steps"
    return f"over {run.training.epochs:g} epochs"


def _label_counts(labels: LabelsProvenance) -> str:
    keys = ("read", "accepted", "rejected")
    parts = [f"{labels.counts[key]:,} {key}" for key in keys if isinstance(labels.counts.get(key), int)]
    return ", ".join(parts) + "." if parts else "counts unknown."


def _filters(labels: LabelsProvenance) -> str:
    """The filters that are set."""
    if labels.filters is None:
        return "unknown"
    return ", ".join(f"{name} `{value}`" for name, value in FiltersConfig.chosen(labels.filters).items()) or "none"


def _loss_table(loss: TrainingLosses) -> list[str]:
    before, after = loss.validation.before, loss.validation.after
    rows = [
        "| nats per token (soft: per example) | first step | last step | validation before | validation after |",
        "| --- | --- | --- | --- | --- |",
    ]
    for term in (name for name in TERMS if name in loss.terms):
        values = (loss.terms[term].first, loss.terms[term].last, before.get(term), after.get(term))
        rows.append(f"| {term} | " + " | ".join("–" if v is None else f"{v:.4f}" for v in values) + " |")
    return rows
