"""The manifest of labels: the models of its `counts` and `details`. Stages after labelling read labels by these (label_parts.py).

Keys are those on disk. A key that an older version did not write takes its default.
"""

from __future__ import annotations

from pydantic import BaseModel

from pipelines.config import SamplingConfig
from pipelines.storage.fingerprint import FileHash

CountsJson = dict[str, int | dict[str, int]]
"""`label.output.counts.Counts` as JSON."""


class HeldoutCounts(BaseModel):
    """Held-out rows."""

    read: int = 0
    answered: int = 0
    unanswered: int = 0
    unanswered_by_reason: dict[str, int] = {}


class GoldCounts(BaseModel):
    """Train rows that the teacher answered."""

    with_gold: int = 0
    agreeing: int = 0
    """Rows whose label means the gold label, before any filter."""


class LabelCounts(BaseModel):
    """`counts`. accepted + rejected = read; held-out rows are counted apart."""

    read: int = 0
    accepted: int = 0
    rejected: int = 0
    rejected_by_reason: dict[str, int] = {}
    heldout: HeldoutCounts = HeldoutCounts()
    gold: GoldCounts = GoldCounts()
    notes: dict[str, int] = {}
    """Peculiarities that parsers noted, such as a letter and a text that disagree."""


class TaskVersion(BaseModel):
    """The task that the labels were made for."""

    name: str = ""
    version: str = ""


class TeacherUsed(BaseModel):
    """The teacher of the labels."""

    engine: str = ""
    model: str | None = None
    revision: str | None = None
    """Commit of a hub id, if it is known."""
    sampling: SamplingConfig = SamplingConfig()


class Tokens(BaseModel):
    """Tokens of the teacher."""

    prompt: int = 0
    output: int = 0


class StoredAnswers(BaseModel):
    """Rows that took over answers which were stored before."""

    rows: int = 0
    prompt_tokens: int = 0
    """Part of `tokens`, and not charged again, as the next."""
    output_tokens: int = 0
    cost: float | None = None
    """Of these tokens at the prices of this run: what was not paid again. None without a price of tokens."""


class EngineUsage(BaseModel):
    """What the engines of one run did, in seconds summed over them."""

    engines: int
    start_s: float
    up_s: float
    """From each engine's readiness to its end."""
    busy_s: float
    """Part of `up_s` with at least one row in the engine."""
    deaths: int
    ready_for_s: float | None
    """Since the first engine was ready; None if none was."""


class Throughput(BaseModel):
    """Rates of all replicas together, without the engine start. A rate is None if nothing was answered."""

    rows: int
    """Rows that the rates cover."""
    seconds: float
    replicas: float | None
    """Average number of engines."""
    rows_per_s: float | None
    prompt_tokens_per_s: float | None
    output_tokens_per_s: float | None
    engine_busy_share: float | None


class Cost(BaseModel):
    """Estimated cost of the teacher, in the currency of `teacher.price`."""

    amount: float
    basis: str
    """The arithmetic, such as `1.24 GPU-hours at 2.5`."""


class LabelCost(Cost):
    """The cost of labels. GPU-hours cover the rows of `rows`; tokens are those of all runs, without stored answers."""

    rows: int = 0
    this_run: float | None = None
    """Part of `amount`: of the last run. None if its tokens are not known, or GPU-hours are charged."""


class PartFile(FileHash):
    """One Parquet file of labels."""

    rows: int


class LabelDetails(BaseModel):
    """`details`."""

    content: str = ""
    """Sum of hashes of (id, label, rationales) of the accepted rows, in hex: equal for equal labels in any order."""
    heldout_content: str = ""
    prompt_version: str = ""
    task: TaskVersion = TaskVersion()
    teacher: TeacherUsed = TeacherUsed()
    tokens: Tokens = Tokens()
    cached_tokens: int = 0
    """Prompt tokens that an endpoint had in its cache."""
    stored: StoredAnswers = StoredAnswers()
    nodes: dict[str, int] = {}
    """Rows by the address of the node that answered them."""
    dtypes: dict[str, int] = {}
    """The same rows by the dtype that vLLM computed in."""
    parts: dict[str, int] = {}
    """Files of the artifact with their rows."""
    files: dict[str, PartFile] = {}
    """The same files with size and hash. Empty for labels of 0.1."""
    tally: CountsJson = {}
    tokenizer: str | None = None
    """Fingerprint of the teacher's tokenizer, with teacher.token_logprobs."""
    resumed_at_rows: int = 0
    engines: EngineUsage | None = None
    throughput: Throughput | None = None
    agreement_histogram: list[int] | None = None
    """Accepted rows by agreement in [0, 0.1), ... [0.9, 1]. None with one sample per example."""
    cost: LabelCost | None = None
    gpu_hours: float | None = None
    """Engine start included. None on CPUs."""
