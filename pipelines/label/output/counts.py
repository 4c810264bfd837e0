"""Counts of outcomes. They add up over any parts of the labels, in any order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.label_manifest import CountsJson
from pipelines.label.teachers.base import TokensUsed
from pipelines.tasks.failures import RAISED

AGREEMENT_BINS = 10
_COUNTED = [
    "split", "gold", "agreement", "prompt_tokens", "output_tokens", "cached_tokens", "stored", "reason", "detail", "agrees",
    "in_prompt", "note", "content", "node", "dtype",
]  # fmt: skip
"""Columns of outcomes.OUTCOME."""
TASK_RAISED = "the task raised an error: rejected"
"""Note of rows on which the task's code raised an unexpected error."""


@dataclass
class Counts:
    """Sums over rows with an outcome. Field names are the keys of commit records and of the manifest's `tally`."""

    accepted: int = 0
    """Train rows, as are the next counts."""
    rejected: Counter[str] = field(default_factory=Counter)
    """By reason."""
    heldout_answered: int = 0
    heldout_rejected: Counter[str] = field(default_factory=Counter)
    with_gold: int = 0
    agreeing: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that an endpoint had in its cache."""
    stored: int = 0
    """Rows whose answer was stored before. Their tokens are part of the two counts above, and these:"""
    stored_prompt_tokens: int = 0
    stored_output_tokens: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    agreements: Counter[str] = field(default_factory=Counter)
    """Accepted rows by tenth of agreement: `0` is [0, 0.1), `9` is [0.9, 1]."""
    nodes: Counter[str] = field(default_factory=Counter)
    """Rows by the node that decided them, except rejects of the scan and `engine_error`."""
    dtypes: Counter[str] = field(default_factory=Counter)
    """The same rows by the dtype that vLLM computed in. With dtype `auto` it may differ between nodes."""
    content: int = 0
    """Sum modulo 2^64 of the accepted rows' `content` hashes: equal for equal labels in any order."""
    heldout_content: int = 0
    """The same sum over the answered held-out rows."""

    @property
    def done(self) -> int:
        """Rows with an outcome, held-out rows included."""
        return self.train + self.heldout

    @property
    def train(self) -> int:
        """Train rows with an outcome."""
        return self.accepted + self.rejected.total()

    @property
    def heldout(self) -> int:
        """Held-out rows with an outcome."""
        return self.heldout_answered + self.heldout_rejected.total()

    @property
    def engine_errors(self) -> int:
        """Rows that no engine could answer."""
        return self.rejected["engine_error"] + self.heldout_rejected["engine_error"]

    @property
    def paid_tokens(self) -> TokensUsed:
        """Of the answers that were not stored before."""
        prompt, output = self.prompt_tokens - self.stored_prompt_tokens, self.output_tokens - self.stored_output_tokens
        return TokensUsed(prompt, output, self.cached_tokens)

    def add(self, other: Counts) -> None:
        """Add other counts, some of which may be negative."""
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)
        self.content %= 2**64
        self.heldout_content %= 2**64

    @classmethod
    def of(cls, outcomes: pa.Table) -> Self:
        """Counts of a table of outcomes (outcomes.OUTCOME)."""
        outcomes = outcomes.select(_COUNTED).combine_chunks()
        train = outcomes.filter(pc.equal(outcomes["split"], "train"))
        heldout = outcomes.filter(pc.equal(outcomes["split"], "heldout"))
        accepted = train.filter(pc.is_null(train["reason"]))
        asked = train.filter(pc.invert(pc.fill_null(train["in_prompt"], False)))
        stored = outcomes.filter(pc.fill_null(outcomes["stored"], False))
        decided = outcomes.filter(pc.fill_null(pc.not_equal(outcomes["reason"], "engine_error"), True))
        # An agreement is a float32: 0.7 must not fall into [0.6, 0.7).
        tenths = pc.min_element_wise(pc.floor(pc.multiply(accepted["agreement"].cast(pa.float64()), 10.0001)), 9)
        return cls(
            accepted=len(accepted),
            rejected=_counts(train["reason"]),
            heldout_answered=heldout["reason"].null_count,
            heldout_rejected=_counts(heldout["reason"]),
            with_gold=len(asked) - asked["gold"].null_count,
            agreeing=pc.sum(asked["agrees"]).as_py() or 0,
            prompt_tokens=_total(outcomes["prompt_tokens"]),
            output_tokens=_total(outcomes["output_tokens"]),
            cached_tokens=_total(outcomes["cached_tokens"]),
            stored=len(stored),
            stored_prompt_tokens=_total(stored["prompt_tokens"]),
            stored_output_tokens=_total(stored["output_tokens"]),
            notes=_counts(outcomes["note"]) + _task_failures(outcomes["detail"]),
            agreements=_counts(tenths.cast(pa.int32()).cast(pa.string())),
            nodes=_counts(decided["node"]),
            dtypes=_counts(decided["dtype"]),
            content=_sum(accepted["content"]),
            heldout_content=_sum(heldout["content"].drop_null()),
        )

    def as_json(self) -> CountsJson:
        """For a commit record or a manifest. `from_json` reads it back."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, tree: CountsJson) -> Self:
        """Counts of a commit record or a manifest."""
        fields = {name: Counter(value) if isinstance(value, dict) else value for name, value in tree.items()}
        return cls(**fields)  # type: ignore[arg-type]


def _task_failures(details: pa.ChunkedArray) -> Counter[str]:
    count = pc.sum(pc.starts_with(details, RAISED)).as_py() or 0
    return Counter({TASK_RAISED: count} if count else {})


def _total(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column).as_py() or 0)


def _sum(hashes: pa.ChunkedArray) -> int:
    return int(hashes.to_numpy().sum(dtype="uint64")) if len(hashes) else 0


def _counts(column: pa.ChunkedArray) -> Counter[str]:
    counted = ((entry["values"].as_py(), entry["counts"].as_py()) for entry in pc.value_counts(column))
    return Counter({value: count for value, count in counted if value})
