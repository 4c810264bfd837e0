"""The plan of a run, as `raystill plan --json` prints it. Times in seconds, sizes in bytes; None means unknown."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipelines.data.label_manifest import Cost

NO_STUDENT = "not planned: the run file has no student"
Basis = Literal["calibration", "labels", "reference", "unknown"]


class Part(BaseModel):
    """A part of the plan."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RowSample(Part):
    """What an estimate of the rows is made from."""

    read: int
    """Rows that were read."""
    error: float | None
    """Half of the 95% interval of the train rows, as a share of them. None: not known."""


class Rows(Part):
    """Rows of the corpus."""

    train: int
    heldout: int
    unreadable: int
    sample: RowSample | None = None
    """None: the train rows were counted."""


class CorpusRows(Part):
    """What the first 20,000 rows of `corpus.train` are."""

    checked: int
    with_gold: int
    labels: dict[str, int]
    """Gold label -> rows, of the most frequent ones."""
    repeated_ids: int
    unreadable: dict[str, int]
    """Problem -> rows."""
    warnings: list[str]
    """What the labels would suffer from."""


class ScoredRows(Part):
    """Held-out rows: of the test file, or of the share of train that is scored instead."""

    rows: int
    with_gold: int
    """Only these are scored."""
    counted: bool
    """False: estimated from some of the rows."""
    half_width: float | None
    """Half of the 95% interval of an accuracy of 50%. None without a row."""


class PromptTokens(Part):
    """Tokens of a prompt, over the rows that were counted; `total` over all rows."""

    mean: float
    median: int
    p95: int
    max: int
    total: int


class Histogram(Part):
    """Bin i holds lengths in [edges[i], edges[i + 1])."""

    edges: list[int]
    counts: list[int]


class Tokens(Part):
    """What the teacher reads and may write."""

    counted_with: str
    rows_counted: int
    prompt: PromptTokens
    histogram: Histogram
    too_long: int
    """Counted rows whose prompt leaves no room for the answer."""
    output_at_most: int


class ReplicaThroughput(Part):
    """What one replica of the teacher does, and how that is known."""

    basis: Basis
    source: str
    rows_per_s: float | None = None
    output_tokens_per_s: float | None = None
    output_tokens_per_row: float | None = None
    engine_start_s: float | None = None
    reject_share: float | None = None
    bytes_per_row: float | None = None


class LabelStorage(Part):
    """Size of the labels."""

    labels: int
    labels_how: str
    texts: int = 0
    """The raw text of all samples, before compression."""
    token_logprobs: int | None


class LabelBudget(Part):
    """The limit of `teacher.budget` that ends first."""

    key: Literal["tokens", "money", "gpu_hours"]
    limit: float
    used: float
    """By earlier runs on these labels."""
    estimate: float
    """Of the rows that are left."""
    rows: int
    """Rows that fit, of those that are left."""


class LabelEstimate(Part):
    """Labelling with `replicas` replicas of the teacher. `rows` and tokens are those that are left."""

    rows: int
    """Sent to the teacher."""
    rows_stored: int = 0
    """Rows that take over stored answers; estimated if the corpus was sampled."""
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_row: float
    output_assumption: str
    replicas: int
    seconds: float | None
    engine_start_s: float | None
    replica_hours: float | None
    gpu_hours: float | None
    storage_bytes: LabelStorage
    cost: Cost | None
    budget: LabelBudget | None = None
    """None without a budget."""


class StageEstimate(Part):
    """Training or evaluation."""

    seconds: float | None
    gpu_hours: float | None
    source: str


class TrainMemory(Part):
    """Memory of one training worker, and the student's parameters."""

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    attention: int
    """Of T5, whose attentions keep their matrices; 0 for other students."""
    total: int


class TrainStorage(Part):
    """Bytes that a training writes."""

    student: int
    checkpoints: int
    """At most, until the student is finished."""


class TrainingSteps(Part):
    """Optimizer steps of the training."""

    steps: int
    source: str


class TrainEstimate(StageEstimate):
    """Training, with the memory of one worker."""

    memory: TrainMemory | None
    steps: TrainingSteps | None = None
    storage_bytes: TrainStorage | None = None


class StageEstimates(Part):
    """Each stage of the run."""

    label: LabelEstimate
    train: TrainEstimate
    evaluate: StageEstimate


class Capacity(Part):
    """The replicas that a deadline needs. `replicas`, `gpus` and `label` are None if there is a `problem`."""

    deadline_s: float
    other_s: float
    """Of the deadline, for training and evaluation."""
    left_out: list[str]
    """Stages of unknown duration."""
    replicas: int | None = None
    gpus: int | None = None
    label: LabelEstimate | None = None
    rows_per_s: float | None = None
    """Of all replicas together."""
    driver_rows_per_s: float
    """What one driver has been measured to keep up with."""
    problem: str | None = None


class Existing(Part):
    """What OUTPUT holds of a stage, and whether the run reuses it."""

    state: str
    reused: bool
    detail: str


class ExistingLabels(Existing):
    """The labels; an unfinished folder has finished rows."""

    rows_finished: int
    rows_retried: int


class ExistingArtifacts(Part):
    """What OUTPUT holds."""

    label: ExistingLabels
    train: Existing
    evaluate: Existing


class ComparisonPlan(Part):
    """What `raystill compare` would train, and what it could show. Only for run files with `compare`."""

    trainings: int
    """Cells and trials of the search, without controls whose use depends on the labels."""
    examples: int
    """Held-out examples."""
    seeds: int
    budget: str
    """The common budget and its rule."""
    detectable: float | None
    """Smallest difference of accuracies that is shown with 80% power. None: no difference can be shown."""
    power: str
    """The same with its assumptions, or a warning."""


class Plan(Part):
    """What a run would do and take."""

    config: dict[str, Any]
    """The resolved run file, without credentials."""
    prompts: list[str]
    rows: Rows
    tokens: Tokens
    throughput: ReplicaThroughput
    stages: StageEstimates
    capacity: Capacity | None
    exists: ExistingArtifacts
    comparison: ComparisonPlan | None = None
    corpus: CorpusRows | None = None
    scored: ScoredRows | None = None
    """None if the run file has no student."""
