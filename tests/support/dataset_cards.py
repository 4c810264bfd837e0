"""Dataset cards of labels whose texts are hostile, and how a Markdown reader sees them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from markdown_it import MarkdownIt

from pipelines.config import RunConfig
from pipelines.data.schema import LABEL
from pipelines.storage.manifest import Manifest
from pipelines.storage.parquet import parquet_bytes
from pipelines.storage.store import Store
from tests.support.corpora import run_config, write_jsonl

FIGURES: dict[str, Any] = {
    "throughput": {"rows": 25, "seconds": 61.5, "replicas": 1.9, "rows_per_s": 13.0, "prompt_tokens_per_s": 3000.0,
                   "output_tokens_per_s": 500.4, "engine_busy_share": 0.973},
    "agreement_histogram": [0, 0, 1, 0, 3, 0, 5, 0, 2, 7], "gpu_hours": 1.236, "dtypes": {"bfloat16": 1000, "float32": 20},
    "cost": {"amount": 3.09, "basis": "1.24 GPU-hours at 2.5", "rows": 25},
}  # fmt: skip
"""Details of a manifest beside those of `labels_of`."""
LINES = (
    "20 rows read = 14 accepted + 6 rejected",
    "- task: `classification`, version `1`",
    "- teacher: vllm `some/model`",
    "- sampling: n 5, temperature 0.7, top_p 1, max_tokens 256, seed 0",
    "- computed in: bfloat16 (1,000 rows), float32 (20 rows)",
    "- token_logprobs/: the 5 likeliest tokens",
    "| bad_input | 2 | the task cannot read the row |  |",
    "| low_agreement | 4 | too few samples agree | 0.4 |",
    "| disagrees_with_gold | 0 | the label is not the gold label | drop-disagreeing |",
    "| rationale_length | 0 | the rationale has too few or too many words | 0 to 80 words |",
    "- tokens: 5,000 in prompts, 800 in answers",
    "the teacher's label is gold in 9 of 10 (90.0%)\nlabels: text 0 1 (7%), text 1 1 (7%)",
    "- held out, in `heldout/`: 5 read, 4 answered",
    "13.0 rows/s; tokens/s 3,000 in, 500 out; engine start 38 s, apart\nengines busy 97.3% of the time, 1.9 of them on average",
    "1.24 GPU-hours\nestimated cost 3.09: 1.24 GPU-hours at 2.5\n```",
    "- engine start: 38 s",
    "- ray `2.60.0`",
    "The licence of these labels is unknown.",
    'datasets.load_dataset("THIS_FOLDER")',
    "The whole prompt of row `0 Is it good?`",
    "Q: Is it good?\nA:",
)
"""Texts in the card of 14 labels with these figures, by n 5, three filters and token_logprobs 5."""
NASTY = [
    "```\n# injected\n<script>alert(1)</script>\n```",
    "````````````````\n## injected\n",
    "~~~\n# injected",
    "`` ` `` <img src=x onerror=alert(1)>",
    "[click](javascript:alert(1)) ![x](http://evil.example/x.png) <http://evil.example> www.evil.example",
    "a | b | c\n--- | --- | ---\n\\| `<b>` \\|",
    "---\nconfigs:\n- data_files: evil.parquet\n---\n",
    "\r```\r\n# injected\r",
    "\u2028# injected\u2029<b>\u202ereversed\u2066\x07\x1b[31m",
    "&lt;script&gt; {{ jinja }} {% raw %} ${shell}",
    "x" * 100_000 + "`" * 1000,
    "\\`\\` ``",
    "&#96;&#96;&#96;",
    "</details><h1>injected</h1>",
]


def card_run(tmp_path: Path, texts: list[str], **teacher: Any) -> RunConfig:
    """A run over a corpus with these texts as inputs."""
    tmp_path.mkdir(exist_ok=True)
    corpus = write_jsonl(tmp_path / "train.jsonl", [{"id": f"{i} {t[:400]}", "input": t} for i, t in enumerate(texts)])
    options = {"labels": ["yes", "no"], "instruction": texts[0], "examples": []}
    settings = {"engine": "vllm", "model": "some/model", **teacher}
    return run_config(settings, train=corpus, task="classification", task_options=options)


def labels_of(tmp_path: Path, texts: list[str], **details: Any) -> tuple[Manifest, Store]:
    """A labels folder whose every text column holds these texts, and its manifest."""
    store = Store(str(tmp_path / "out/labels"))
    rows = [
        {"id": text[:400], "input": text, "gold": text, "label": text, "rationale": text, "votes": 3, "agreement": 0.6,
         "soft_label": None, "prompt_tokens": 7, "output_tokens": 5, "finish_reason": "stop"}
        for text in texts
    ]  # fmt: skip
    store.write("data/part-000000.parquet", parquet_bytes(pa.Table.from_pylist(rows, schema=LABEL)))
    manifest = Manifest(
        type="labels", fingerprint="f" * 64, identity={}, config={}, versions={"ray": "2.60.0"}, provenance={},
        created="2026-01-02T03:04:05+00:00", timings_s={"scan": 1.0, "engine_start": 38.2, "label": 61.5},
        counts={
            "read": 20, "accepted": len(rows), "rejected": 20 - len(rows),
            "rejected_by_reason": {"low_agreement": 4, "bad_input": 2}, "gold": {"with_gold": 10, "agreeing": 9},
            "heldout": {"read": 5, "answered": 4, "unanswered": 1}, "notes": {"letter `and` text <differ>": 1},
        },
        details={
            "task": {"name": "classification", "version": "1"}, "prompt_version": "classification/1/abc",
            "tokens": {"prompt": 5000, "output": 800}, "parts": {"data/part-000000.parquet": len(rows)}, **details,
        },
    )  # fmt: skip
    return manifest, store


def body(card: str) -> str:
    """The Markdown below the YAML head, which must name the data files."""
    head, separator, rest = card.removeprefix("---\n").partition("\n---\n")
    assert separator
    assert yaml.safe_load(head)["configs"][0]["data_files"] == [{"split": "train", "path": "data/part-*.parquet"}]
    return rest


def shape(card: str) -> list[tuple[str, str]]:
    """The card's structure as a Markdown reader sees it: the types of its tokens, without the text of code."""
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(body(card))
    found: list[tuple[str, str]] = []
    for token in tokens:
        assert token.type != "html_block", token.content[:200]
        found.append((token.type, token.info))
        for child in token.children or []:
            assert child.type not in {"html_inline", "link_open", "image"}, child.content[:200]
            if child.type == "text":
                assert "evil" not in child.content
                assert "injected" not in child.content
    return found
