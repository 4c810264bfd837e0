"""A generation as a row of labels/texts, and back.

Texts are kept as the teacher wrote them, thoughts included, so that another parser or filter can read them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.data.schema import SAMPLE, TEXT
from pipelines.label.teachers.base import Generation, Sample

STORED = pa.struct([TEXT.field("key"), TEXT.field("prompt_tokens"), pa.field("samples", pa.list_(SAMPLE))])
"""An answer in a table of outcomes."""
Entry = dict[str, Any]
"""A value of STORED."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The answer to one prompt."""

    key: bytes
    """AnswerKeys.of its prompt."""
    generation: Generation
    """As the teacher returned it."""

    def entry(self) -> Entry:
        """As a value of STORED."""
        samples = [_sample_entry(sample) for sample in self.generation.samples]
        return {"key": self.key, "prompt_tokens": self.generation.prompt_tokens, "samples": samples}


def stored_generation(row: Mapping[str, Any]) -> Generation:
    """The generation of a row of schema.TEXT. Its thoughts are not cut yet."""
    return Generation(tuple(_sample(entry) for entry in row["samples"]), row["prompt_tokens"])


def _sample_entry(sample: Sample) -> Entry:
    probabilities = sample.label_probabilities
    return {
        "text": sample.raw or sample.text,
        "tokens": sample.tokens,
        "finish_reason": sample.finish_reason,
        # Thoughts that were cut from the text are in `raw`.
        "thoughts": (not sample.raw and sample.thoughts) or None,
        "opened": sample.opened,
        "label_probabilities": probabilities and [{"label": name, "probability": p} for name, p in probabilities],
    }


def _sample(entry: Mapping[str, Any]) -> Sample:
    text, thoughts, probabilities = entry["text"], entry["thoughts"] or "", entry["label_probabilities"]
    return Sample(
        text,
        entry["tokens"],
        entry["finish_reason"],
        label_probabilities=probabilities and tuple((found["label"], found["probability"]) for found in probabilities),
        thoughts=thoughts,
        thoughts_end=not thoughts or bool(text.strip()),
        opened=entry["opened"],
    )
