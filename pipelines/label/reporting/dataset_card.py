"""The dataset card of a labels folder. Its YAML head tells `datasets.load_dataset` which files are the data.

Corpus, prompt and the teacher's text are other people's, and so are names in a run file: none of it may become Markdown, HTML or YAML.
Long text stands in fences longer than any run of backticks in it, names in code spans made the same way, the head holds no text but ours.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from pipelines.config import RunConfig, TeacherConfig
from pipelines.data.reader import corpus_files, corpus_splits, read_split
from pipelines.data.schema import REJECT_REASONS
from pipelines.label.answers.prompts import PromptMaker, prompt_text, read_shots
from pipelines.label.output.counts import AGREEMENT_BINS
from pipelines.runtime.durations import duration
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.tasks import Example, load_task, task_spec

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
_EXAMPLES = 10
_SHOWN = ("id", "input", "gold", "rationale", "label", "agreement")
_MAX_CELL_CHARACTERS = 500
_MAX_PROMPT_CHARACTERS = 20_000
_PROBED_ROWS = 100
# Controls, and the marks that reorder text on the screen, so that it reads as something else than it is.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_WHAT_IT_IS = {
    "bad_input": "the task cannot read the row",
    "duplicate": "an earlier row has this id",
    "near_duplicate": "an earlier row's input is nearly the same",
    "too_long": "the prompt leaves no room for the answer",
    "engine_error": "no engine could answer; tried again by the next run",
    "truncated": "every answer was cut at max_tokens",
    "unparsable": "the task finds no label in the answer",
    "tie": "two labels have the most votes",
    "low_agreement": "fewer samples agree than asked for",
    "disagrees_with_gold": "the label is not the gold label",
    "rationale_length": "the rationale has too few or too many words",
    "gives_label_away": "the rationale states the label and nothing that leads to it",
}


def dataset_card(run: RunConfig, manifest: Manifest, store: Store) -> str:
    """Markdown with a YAML head: what the labels are, how they were made, what was dropped, what it took, ten of them.

    Args:
        run: the run that made them; its corpus is opened once more, for the prompt of its first readable row.
        manifest: as it is about to be written. `details` may lack dtypes, throughput, agreement_histogram and cost.
        store: the labels folder, whose parts are there.
    """
    counts, details = manifest.counts, manifest.details
    lines = [
        f"# Labels of run {code(run.name)}",
        "",
        f"{counts['read']:,} rows read = {counts['accepted']:,} accepted + {counts['rejected']:,} rejected, labelled by a "
        "teacher model with label and rationale. Made by Raystill.",
        *_section("Load it", _loading()),
        *_section("How it was made", _made(run, details)),
        *_section("Prompt", _prompt(run)),
        *_section("What was dropped", _dropped(counts, run.teacher)),
        *_section("Counts", _counts(manifest)),
        *_section("Agreement", _agreement(details)),
        *_section("What it took", _took(manifest)),
        *_section("Examples", ["The first accepted rows, long text cut.", "", *fenced(_examples(manifest, store), "json")]),
        *_section("Licence", [
            "The licence of these labels is unknown to us: that of the corpus applies to inputs and gold labels, that of the "
            "teacher model (or the terms of its endpoint) to labels and rationales. Look at both before you pass them on.",
        ]),
        *_section("Versions", [f"- {name} {code(version)}" for name, version in manifest.versions.items()]),
    ]  # fmt: skip
    return _HEAD + "\n".join(lines) + "\n"


def fenced(text: str, language: str = "text") -> list[str]:
    """The text as a fenced block that no text can close: the fence is longer than any run of backticks in it."""
    text = visible(text)
    fence = "`" * max(3, _longest_run(text) + 1)
    return [f"{fence}{language}", *text.split("\n"), fence]


def code(text: object) -> str:
    """A value as a code span on one line, whatever it holds; not for table cells."""
    flat = " ".join(visible(str(text)).split()) or " "
    ticks = "`" * (_longest_run(flat) + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{ticks}{pad}{flat}{pad}{ticks}"


def visible(text: str) -> str:
    """The text with its line ends as line feeds, and controls and direction marks spelled out (`\\u202e`)."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", f"## {title}", "", *lines] if lines else []


def _loading() -> list[str]:
    return fenced(
        "import datasets, pyarrow.parquet\n\n"
        'labels = datasets.load_dataset("THIS_FOLDER")["train"]\n'
        'table = pyarrow.parquet.read_table("THIS_FOLDER/data")\n'
        'rejects = pyarrow.parquet.read_table("THIS_FOLDER/rejects")   # id, reason, detail, output: the raw text',
        "python",
    )


def _made(run: RunConfig, details: dict[str, Any]) -> list[str]:
    teacher, sampling = run.teacher, run.teacher.sampling
    wording = {"plain": "few-shot text that the model continues", "chat": "messages in the model's chat template"}
    lines = [
        f"- task: {code(details['task']['name'])}, version {code(details['task']['version'])}",
        f"- teacher: {teacher.engine} {code(teacher.model or teacher.outputs or '')}"
        if teacher.model or teacher.outputs
        else f"- teacher: {teacher.engine}" + (" (its answers are made from the gold labels)" if teacher.engine == "echo" else ""),
        f"- prompt: {code(details['prompt_version'])}, {wording[teacher.prompt]}",
        f"- sampling: n {sampling.n}, temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, "
        f"max_tokens {sampling.max_tokens:,}, seed {sampling.seed}",
    ]  # fmt: skip
    if details.get("dtypes"):
        shown = ", ".join(f"{dtype} ({count:,} rows)" for dtype, count in details["dtypes"].items())
        lines.append(f"- computed in: {shown}")
    if sampling.n > 1:
        lines.append(
            "- label: majority of the samples by meaning; rationale: one of the samples that voted for it; "
            "agreement: votes / n, unparsable samples counted in n"
        )
    if teacher.constrained:
        lines.append("- the form of the answers was enforced: a rationale, then one of the task's labels")
    if teacher.soft_labels == "logprobs":
        lines.append("- soft_label: the teacher's probabilities of the label tokens")
    if teacher.token_logprobs:
        lines.append(f"- token_logprobs/: the {teacher.token_logprobs} likeliest tokens at each position of the answer")
    return lines


def _prompt(run: RunConfig) -> list[str]:
    example = _first_example(run)
    if example is None:
        return []
    task = load_task(task_spec(run.task, run.task_options))
    text = prompt_text(PromptMaker(task, run.teacher, read_shots(run.teacher, task)).render(example))
    cut = text if len(text) <= _MAX_PROMPT_CHARACTERS else f"{text[:_MAX_PROMPT_CHARACTERS]}\n... (cut)"
    return [f"The whole prompt of row {code(_cut(example.id))}:", "", *fenced(cut)]


def _first_example(run: RunConfig) -> Example | None:
    task = load_task(task_spec(run.task, run.task_options))
    for split in corpus_splits(corpus_files(run.corpus.train, "corpus.train"), "train", limit=_PROBED_ROWS):
        for row in read_split(split, task, run.corpus.fields):
            if row.example is not None:
                return row.example
    return None


def _dropped(counts: dict[str, Any], teacher: TeacherConfig) -> list[str]:
    """The reasons in the order in which they are decided: those of this run's filters, and any that came about."""
    filters = teacher.filters
    asked = {
        "near_duplicate": filters.near_duplicates,
        "low_agreement": filters.min_agreement or None,
        "disagrees_with_gold": None if filters.gold == "keep" else filters.gold,
        "rationale_length": f"{filters.min_rationale_words} to {filters.max_rationale_words or 'any number of'} words"
        if filters.min_rationale_words or filters.max_rationale_words
        else None,
        "gives_label_away": filters.drop_giveaways or None,
    }
    by_reason = counts["rejected_by_reason"]
    rows = [
        f"| {reason} | {by_reason.get(reason, 0):,} | {_WHAT_IT_IS[reason]} | {'' if asked.get(reason) is None else asked[reason]} |"
        for reason in REJECT_REASONS
        if by_reason.get(reason) or asked.get(reason) is not None
    ]  # fmt: skip
    if not rows:
        return ["Nothing: every row was accepted, and no filter was set."]
    head = ["A row gets the first reason that applies, in this order.", ""]
    return [*head, "| reason | rows | what it is | setting |", "| --- | ---: | --- | --- |", *rows]


def _counts(manifest: Manifest) -> list[str]:
    counts, tokens = manifest.counts, manifest.details["tokens"]
    gold, heldout = counts["gold"], counts["heldout"]
    lines = [
        f"- read {counts['read']:,}, accepted {counts['accepted']:,}, rejected {counts['rejected']:,}",
        f"- tokens: {tokens['prompt']:,} in prompts, {tokens['output']:,} in answers",
    ]
    if gold["with_gold"]:
        share = gold["agreeing"] / gold["with_gold"]
        lines.append(
            f"- the teacher's label is the gold label in {gold['agreeing']:,} of {gold['with_gold']:,} rows ({share:.1%})"
        )
    if heldout["read"]:
        lines.append(
            f"- held out, in `heldout/`: {heldout['read']:,} read, {heldout['answered']:,} answered; never trained on"
        )
    notes = counts.get("notes") or {}
    return lines + [f"- noted by the parser: {code(note)} {count:,} times" for note, count in notes.items()]


def _agreement(details: dict[str, Any]) -> list[str]:
    bins = details.get("agreement_histogram")
    if not bins:
        return []
    rows = [
        f"| {index / AGREEMENT_BINS:.1f} to {(index + 1) / AGREEMENT_BINS:.1f} | {count:,} |"
        for index, count in enumerate(bins)
    ]
    head = [
        "Accepted rows by the share of samples that voted for the label.",
        "",
        "| agreement | rows |",
        "| --- | ---: |",
    ]
    return head + rows


def _took(manifest: Manifest) -> list[str]:
    details, timings = manifest.details, manifest.timings_s
    lines = []
    rates = details.get("throughput") or {}
    if rates.get("rows_per_s"):
        lines.append(
            f"- {rates['rows_per_s']:,.1f} rows/s, {rates['prompt_tokens_per_s']:,.0f} prompt and "
            f"{rates['output_tokens_per_s']:,.0f} output tokens/s over {rates['rows']:,} rows, engine start excluded; "
            f"{rates['replicas']:.1f} replicas on average"
        )
    if rates.get("engine_busy_share") is not None:
        lines.append(f"- the engines were busy {rates['engine_busy_share']:.1%} of the time")
    if details.get("gpu_hours") is not None:
        lines.append(f"- {details['gpu_hours']:.2f} GPU-hours, engine start included")
    if details.get("cost"):
        cost = details["cost"]
        lines.append(f"- estimated cost {cost['amount']:,.2f} (in the currency of the prices): {cost['basis']}")
    return lines + [f"- {name.replace('_', ' ')}: {duration(seconds)}" for name, seconds in timings.items()]


def _examples(manifest: Manifest, store: Store) -> str:
    rows = [
        {name: _cut(row[name]) for name in _SHOWN} for row in itertools.islice(_accepted(manifest, store), _EXAMPLES)
    ]
    return json.dumps(rows, ensure_ascii=False, indent=2)


def _accepted(manifest: Manifest, store: Store) -> Iterator[dict[str, Any]]:
    for part in sorted(p for p in manifest.details["parts"] if p.startswith("data/")):
        with store.fs.open_input_file(store.path(part)) as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=_EXAMPLES, columns=list(_SHOWN)):
                yield from batch.to_pylist()


def _cut(value: Any) -> Any:
    """Long text shortened; a float32 without the digits that it does not have."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, str) and len(value) > _MAX_CELL_CHARACTERS:
        return value[:_MAX_CELL_CHARACTERS] + "..."
    return value
