"""The dataset card of a labels folder. Its YAML head tells `datasets.load_dataset` which files are the data."""

from __future__ import annotations

import pyarrow.parquet as pq

from pipelines.artifacts import Manifest, Store
from pipelines.config import RunConfig

_HEAD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/part-*.parquet
---
"""


def dataset_card(run: RunConfig, manifest: Manifest, store: Store) -> str:
    """Markdown: teacher, prompt, sampling, filters, counts, example rows."""
    counts, details = manifest.counts, manifest.details
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts["rejected_by_reason"].items()) or "none"
    teacher = run.teacher
    lines = [
        f"# Labels of run {run.name}",
        "",
        f"{counts['read']:,} rows read = {counts['accepted']:,} accepted + {counts['rejected']:,} rejected ({reasons}).",
        "",
        "| | |",
        "| --- | --- |",
        f"| task | {details['task']['name']} {details['task']['version']} |",
        f"| teacher | {teacher.engine} {teacher.model or ''} |",
        f"| prompt | {details['prompt_version']} ({teacher.prompt}) |",
        f"| sampling | n {teacher.sampling.n}, temperature {teacher.sampling.temperature}, seed {teacher.sampling.seed} |",
        f"| filters | gold: {teacher.filters.gold}, min_agreement: {teacher.filters.min_agreement} |",
        f"| teacher agrees with gold | {counts['gold']['agreeing']:,} of {counts['gold']['with_gold']:,} rows |",
        f"| tokens | {details['tokens']['prompt']:,} prompt, {details['tokens']['output']:,} output |",
        "",
        "## Examples",
        "",
        *_examples(manifest, store),
    ]
    return _HEAD + "\n".join(lines) + "\n"


def _examples(manifest: Manifest, store: Store, count: int = 10) -> list[str]:
    lines: list[str] = []
    for part in sorted(p for p in manifest.details["parts"] if p.startswith("data/")):
        with store.fs.open_input_file(store.path(part)) as file:
            for row in pq.read_table(file, columns=["input", "rationale", "label"]).to_pylist():
                lines += [f"- **{_line(row['input'])}**", f"  {_line(row['rationale'])} -> `{_line(row['label'])}`"]
                if len(lines) >= 2 * count:
                    return lines
    return lines


def _line(text: str) -> str:
    """One line of Markdown, whatever the text holds."""
    flat = " ".join(text.split()).replace("`", "'").replace("*", r"\*").replace("<", "&lt;")
    return flat if len(flat) <= 300 else flat[:297] + "..."
