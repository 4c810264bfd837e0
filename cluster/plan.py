"""What a run would do, found out without starting anything heavy: no Ray, no engine, no weights.

Token counts come from the teacher's own tokenizer where it is a local folder, else from the length of the text (4 characters a token),
and the plan says which. Only the first 1,000 rows are rendered; the totals scale them up to the rows that are there.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from pipelines.artifacts import Store, read_manifest
from pipelines.config import RunConfig
from pipelines.corpus import corpus_files, corpus_splits, heldout_files, read_split
from pipelines.errors import UserError
from pipelines.tasks import load_task, task_spec

_RENDERED_ROWS = 1000
_CHARACTERS_PER_TOKEN = 4.0
_BYTES_PER_LABEL = 400  # of a compressed Parquet row beside its text


def make_plan(run: RunConfig, prompts: int) -> dict[str, Any]:
    """The plan as one tree: config, prompts, rows, tokens, storage, artifacts. Raises UserError for wrong input."""
    from pipelines.label.prompts import render_prompt
    from pipelines.label.stage import check_label

    check_label(run)
    task = load_task(task_spec(run.task, run.task_options))
    train = corpus_files(run.corpus.train, "corpus.train")
    rows = {"train": _count(train, run, task), "heldout": _count(heldout_files(run.corpus) or [], run, task)}
    shown = itertools.islice(_examples(train, run, task), _RENDERED_ROWS)
    rendered = [render_prompt(task, example, run.teacher) for example in shown]
    if not rendered:
        raise UserError("corpus.train", "no row of it can be read by the task", "Look at corpus.fields.")
    count, how = _counter(run.teacher.model)
    lengths = [count(prompt.text) for prompt in rendered]
    total = sum(rows.values())
    answer = run.teacher.sampling.n * run.teacher.sampling.max_tokens
    text = statistics.mean(len(prompt.example.input) for prompt in rendered)
    return {
        "config": run.model_dump(),
        "prompts": [prompt.text for prompt in rendered[:prompts]],
        "rows": rows,
        "tokens": {
            "counted_with": how,
            "prompt": {
                "mean": statistics.mean(lengths),
                "max": max(lengths),
                "total": round(statistics.mean(lengths) * total),
            },
            "output_at_most": answer * total,
        },
        "storage_bytes": {"labels": round(total * (text + _BYTES_PER_LABEL))},
        "exists": _existing(run),
    }


def print_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    """The plan on stdout."""
    if as_json:
        json.dump(plan, sys.stdout, ensure_ascii=False, indent=2)
        print()
        return
    import yaml

    tokens = plan["tokens"]
    print(yaml.safe_dump(plan["config"], sort_keys=False, allow_unicode=True))
    for number, prompt in enumerate(plan["prompts"], 1):
        print(f"--- prompt {number}\n{prompt}\n")
    print(f"rows      {plan['rows']['train']:,} train, {plan['rows']['heldout']:,} held out")
    print(f"prompts   {tokens['prompt']['mean']:.0f} tokens on average, {tokens['prompt']['max']:,} at most, "
          f"{tokens['prompt']['total']:,} in all ({tokens['counted_with']})")  # fmt: skip
    print(f"answers   {tokens['output_at_most']:,} tokens at most")
    print(f"storage   about {plan['storage_bytes']['labels'] / 1e6:.1f} MB of labels")
    for stage, state in plan["exists"].items():
        print(f"{stage:9} {state}")


def _count(files: list[str], run: RunConfig, task: Any) -> int:
    splits = corpus_splits(files, "train", limit=run.corpus.limit) if files else []
    return sum(1 for split in splits for _ in read_split(split, task, run.corpus.fields))


def _examples(files: list[str], run: RunConfig, task: Any) -> Any:
    for split in corpus_splits(files, "train", limit=run.corpus.limit):
        for row in read_split(split, task, run.corpus.fields):
            if row.example is not None:
                yield row.example


def _counter(model: str | None) -> tuple[Any, str]:
    tokenizer_file = Path(model or "", "tokenizer.json")
    if model and tokenizer_file.is_file():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        return (lambda text: len(tokenizer.encode(text).ids)), "the teacher's tokenizer"
    return (lambda text: round(len(text) / _CHARACTERS_PER_TOKEN)), "estimated, 4 characters a token"


def _existing(run: RunConfig) -> dict[str, str]:
    states = {}
    kinds: dict[str, Any] = {"labels": "labels", "student": "student", "report": "report"}
    for name, kind in kinds.items():
        manifest = read_manifest(Store(run.output).child(name), kind)
        states[name] = (
            f"finished {manifest.created}, fingerprint {manifest.fingerprint[:12]}" if manifest else "to be made"
        )
    return states
