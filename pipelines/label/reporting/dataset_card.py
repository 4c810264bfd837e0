"""The dataset card, `labels/README.md`. Its YAML head tells `datasets.load_dataset` which files are the data.

Corpus, prompts, the teacher's texts and names in the run file are foreign text: they appear in fenced blocks and code spans only
(markdown.py), and never in the head.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pyarrow.parquet as pq

from pipelines.config import RunConfig, TeacherConfig
from pipelines.config.teacher import FiltersConfig
from pipelines.data.label_distribution import label_distribution
from pipelines.data.label_manifest import LabelCounts, LabelDetails
from pipelines.data.reader import corpus_files, corpus_splits, read_split
from pipelines.data.schema import REJECT_REASONS
from pipelines.data.shots import read_shots
from pipelines.label.answers.prompts import PromptMaker, prompt_text
from pipelines.label.output.parts import RATIONALES_FOLDER
from pipelines.label.reporting.markdown import code, fenced
from pipelines.label.reporting.result_lines import result_lines
from pipelines.runtime.durations import duration
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.tasks import Example, Task, load_task, task_spec

_HEAD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/part-*.parquet
license: unknown
tags:
- distillation
- raystill
---
"""
_LOADING = """import datasets, pyarrow.parquet

labels = datasets.load_dataset("THIS_FOLDER")["train"]
table = pyarrow.parquet.read_table("THIS_FOLDER/data")
rejects = pyarrow.parquet.read_table("THIS_FOLDER/rejects")   # id, reason, detail, output: the raw text"""
_LICENCE = (
    "The licence of these labels is unknown. That of the corpus applies to inputs and gold labels. That of the teacher model, or the "
    "terms of its endpoint, applies to labels and rationales. Check both before you pass the labels on."
)
_EXAMPLES = 10
_COLUMNS = ("id", "input", "gold", "rationale", "label", "agreement")
_MAX_CELL_CHARACTERS = 500
_MAX_PROMPT_CHARACTERS = 20_000
_PROBED_ROWS = 100
EXPLANATIONS = {
    "bad_input": "the task cannot read the row",
    "duplicate": "an earlier row has this id",
    "near_duplicate": "an earlier row's input is nearly the same",
    "too_long": "the prompt leaves no room for the answer",
    "engine_error": "no engine could answer; the next run retries it",
    "truncated": "every answer was cut at max_tokens",
    "unparsable": "the task finds no label in the answer",
    "tie": "two labels have the most votes",
    "low_agreement": "too few samples agree",
    "disagrees_with_gold": "the label is not the gold label",
    "rationale_length": "the rationale has too few or too many words",
    "gives_label_away": "the rationale states the label and nothing that leads to it",
}
"""Of schema.REJECT_REASONS."""


def dataset_card(run: RunConfig, manifest: Manifest, store: Store) -> str:
    """The card as Markdown with a YAML head.

    Args:
        run: of the labels. Its corpus is opened once more, for the prompt of the first readable row.
        manifest: before it is written.
        store: the labels folder, with all parts.
    """
    counts = LabelCounts.model_validate(manifest.counts)
    details = LabelDetails.model_validate(manifest.details)
    examples = json.dumps(list(_examples(details, store)), ensure_ascii=False, indent=2)
    lines = [
        f"# Labels of run {code(run.name)}",
        "",
        f"{counts.read:,} rows read = {counts.accepted:,} accepted + {counts.rejected:,} rejected. A teacher model wrote label and "
        "rationale of each. Made by Raystill.",
        *_section("Load it", fenced(_LOADING, "python")),
        *_section("How it was made", _made(run, details)),
        *_section("Prompt", _prompt(run)),
        *_section("What was dropped", _dropped(counts, run.teacher.filters)),
        *_section("Results", _results(counts, details, manifest.timings_s, store)),
        *_section("Examples", ["The first accepted rows. Long text is cut.", "", *fenced(examples, "json")]),
        *_section("Licence", [_LICENCE]),
        *_section("Versions", [f"- {name} {code(version)}" for name, version in manifest.versions.items()]),
    ]
    return _HEAD + "\n".join(lines) + "\n"


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", f"## {title}", "", *lines] if lines else []


def _made(run: RunConfig, details: LabelDetails) -> list[str]:
    teacher, sampling = run.teacher, run.teacher.sampling
    wording = {"plain": "few-shot text that the model continues", "chat": "messages in the model's chat template"}
    lines = [
        f"- task: {code(details.task.name)}, version {code(details.task.version)}",
        f"- teacher: {teacher.engine}{_teacher_name(teacher)}",
        f"- prompt: {code(details.prompt_version)}, {wording[teacher.prompt]}",
        f"- sampling: n {sampling.n}, temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, "
        f"max_tokens {sampling.max_tokens:,}, seed {sampling.seed}",
    ]
    if details.dtypes:
        dtypes = ", ".join(f"{dtype} ({count:,} rows)" for dtype, count in details.dtypes.items())
        lines.append(f"- computed in: {dtypes}")
    if sampling.n > 1:
        lines.append(
            "- label: majority of the samples by meaning; rationale: one of the samples that voted for it; "
            "agreement: votes / n, where n includes unparsable samples"
        )
    if any(name.startswith(f"{RATIONALES_FOLDER}/") for name in details.parts):
        lines.append(
            "- rationales/: all rationales of the samples that voted for the label, for rows with several; "
            "0 is the row's own, then the shorter ones first"
        )
    if teacher.constrained:
        lines.append("- the form of the answers was enforced: a rationale, then one of the task's labels")
    if teacher.soft_labels == "logprobs":
        lines.append("- soft_label: the teacher's probabilities of the label tokens")
    if teacher.token_logprobs:
        lines.append(f"- token_logprobs/: the {teacher.token_logprobs} likeliest tokens at each position of the answer")
    return lines


def _teacher_name(teacher: TeacherConfig) -> str:
    name = teacher.model or teacher.outputs
    if name:
        return f" {code(name)}"
    return " (its answers are made from the gold labels)" if teacher.engine == "echo" else ""


def _prompt(run: RunConfig) -> list[str]:
    task = load_task(task_spec(run.task, run.task_options))
    example = _first_example(run, task)
    if example is None:
        return []
    text = prompt_text(PromptMaker(task, run.teacher, read_shots(run.teacher, task)).render(example))
    cut = text if len(text) <= _MAX_PROMPT_CHARACTERS else f"{text[:_MAX_PROMPT_CHARACTERS]}\n... (cut)"
    return [f"The whole prompt of row {code(_cut(example.id))}:", "", *fenced(cut)]


def _first_example(run: RunConfig, task: Task) -> Example | None:
    for split in corpus_splits(corpus_files(run.corpus.train, "corpus.train"), "train", limit=_PROBED_ROWS):
        for row in read_split(split, task, run.corpus.fields):
            if row.example is not None:
                return row.example
    return None


def _dropped(counts: LabelCounts, filters: FiltersConfig) -> list[str]:
    """Reasons in the order of the checks: those of the run's filters, and any that occurred."""
    settings = _filter_settings(filters)
    by_reason = counts.rejected_by_reason
    rows = [
        f"| {reason} | {by_reason.get(reason, 0):,} | {EXPLANATIONS[reason]} | {settings.get(reason, '')} |"
        for reason in REJECT_REASONS
        if by_reason.get(reason) or reason in settings
    ]
    if not rows:
        return ["Nothing: every row was accepted, and no filter was set."]
    head = ["A row gets the first reason that applies, in this order.", ""]
    return [*head, "| reason | rows | meaning | setting |", "| --- | ---: | --- | --- |", *rows]


def _filter_settings(filters: FiltersConfig) -> dict[str, str]:
    """Reject reason -> setting, of the filters that are on."""
    settings: dict[str, str] = {}
    if filters.near_duplicates is not None:
        settings["near_duplicate"] = str(filters.near_duplicates)
    if filters.min_agreement:
        settings["low_agreement"] = str(filters.min_agreement)
    if filters.gold != "keep":
        settings["disagrees_with_gold"] = filters.gold
    if filters.min_rationale_words or filters.max_rationale_words:
        most = filters.max_rationale_words or "any number of"
        settings["rationale_length"] = f"{filters.min_rationale_words} to {most} words"
    if filters.drop_giveaways:
        settings["gives_label_away"] = str(filters.drop_giveaways)
    return settings


def _results(counts: LabelCounts, details: LabelDetails, timings_s: dict[str, float], store: Store) -> list[str]:
    heldout = counts.heldout
    lines = [f"- tokens: {details.tokens.prompt:,} in prompts, {details.tokens.output:,} in answers"]
    if heldout.read:
        lines.append(
            f"- held out, in `heldout/`: {heldout.read:,} read, {heldout.answered:,} answered; never trained on"
        )
    lines += [f"- noted by the parser: {code(note)} {count:,} times" for note, count in counts.notes.items()]
    lines += [f"- {name.replace('_', ' ')}: {duration(seconds)}" for name, seconds in timings_s.items()]
    found = list(result_lines(counts, details, timings_s, label_distribution(store, details.parts)))
    return [*lines, "", *fenced("\n".join(found))] if found else lines


def _examples(details: LabelDetails, store: Store) -> Iterator[dict[str, object]]:
    for row in itertools.islice(_accepted(details, store), _EXAMPLES):
        yield {name: _cut(row[name]) for name in _COLUMNS}


def _accepted(details: LabelDetails, store: Store) -> Iterator[dict[str, object]]:
    """Accepted train rows, in the order of the parts."""
    for part in sorted(p for p in details.parts if p.startswith("data/")):
        with store.fs.open_input_file(store.path(part)) as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=_EXAMPLES, columns=list(_COLUMNS)):
                yield from batch.to_pylist()


def _cut(value: object) -> object:
    """Long text cut, and a float32 without digits that it does not have."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, str) and len(value) > _MAX_CELL_CHARACTERS:
        return value[:_MAX_CELL_CHARACTERS] + "..."
    return value
