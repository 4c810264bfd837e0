"""THE run file: one typed tree. Unknown keys are refused; each key's rule stands beside it.

run_file.py reads it from YAML. The keys of product documentation are fixed: tests/test_surface.py holds the list, so that a key is
added on purpose.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.config_base import LossyWeights, ReplicasConfig, Section, Share
from pipelines.config_serving import ServingConfig
from pipelines.config_student import InitConfig, LoraConfig, StudentConfig
from pipelines.config_teacher import (
    READER_CPUS,
    BudgetConfig,
    EngineConfig,
    FiltersConfig,
    PriceConfig,
    RemoteConfig,
    SamplingConfig,
    TeacherConfig,
)
from pipelines.methods import Method

__all__ = [
    "READER_CPUS",
    "BudgetConfig",
    "EngineConfig",
    "FiltersConfig",
    "InitConfig",
    "LoraConfig",
    "PriceConfig",
    "RemoteConfig",
    "ReplicasConfig",
    "RunConfig",
    "SamplingConfig",
    "ServingConfig",
    "StudentConfig",
    "TeacherConfig",
    "TrainingConfig",
]


class CorpusConfig(Section):
    """Where the examples are, and what their columns are called."""

    train: str | list[str]
    """File, list, glob, folder or URI of JSON Lines, CSV or Parquet."""
    validation: Share | str = 0.1
    """Share of train held out by hash of the id, or a file of its own."""
    test: str | list[str] | None = None
    """Held out: answered by the teacher and scored, never trained on. None: the validation split is scored."""
    fields: dict[str, str] = {}
    """The task's name for a field -> this corpus' column. Fields that are not named have the task's own name."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """First N rows of each file set, for a try."""


class LabellingConfig(Section):
    """How the label stage goes about it. Nothing here changes a label."""

    commit_rows: Annotated[int, Field(ge=1)] = 16_384
    """Rows with an outcome are made durable when there are so many of them,"""
    commit_every_s: Annotated[float, Field(gt=0.0)] = 5.0
    """or when so many seconds have passed: what a kill costs at the most, beside what is in flight."""
    first_rows: Annotated[int, Field(ge=1)] = 200
    """After so many answered rows the rejects are looked at:"""
    max_reject_share: Share = 0.9
    """more of them than this stop the run, since then the prompt or the parser is wrong, not the rows. 1: never."""
    max_engine_error_share: Share = 0.01
    """More rows than this that no engine could answer, and the stage fails at its end (they are tried again by the next one)."""
    lease_s: Annotated[float, Field(ge=3.0)] = 60.0
    """On an object store: how long a driver on another machine that gives no sign of life keeps the next one from going on."""


class TrainingConfig(Section):
    """How the student is trained. Sizes that follow from these are derived, never configured."""

    workers: Annotated[int, Field(ge=1)] = 2
    gpus_per_worker: Literal[0, 1] = 0
    placement: Literal["pack", "spread"] = "pack"
    """pack: on as few nodes as have room, since workers of one node talk fastest. spread: on as many as there are, for the memory and cores
    of each; on CPUs, where a worker can use all cores of its node."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    precision: Literal["bf16", "fp32"] = "bf16"
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the training examples that is used, by hash of id and seed: a smaller share is part of a larger one."""
    epochs: Annotated[float, Field(gt=0.0)] = 3
    tokens_per_batch: Annotated[int, Field(ge=1)] = 16384
    """Real (unpadded) tokens of both tasks, over all workers, per optimizer step."""
    tokens_per_micro_batch: Annotated[int, Field(ge=1)] = 8192
    """Padded tokens that one worker holds at a time; accumulation steps follow from it."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1.0e-4
    warmup: Share = 0.05
    """Share of the steps over which the learning rate rises."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How it goes on then: to 0 in a straight line, along half a wave, or not at all."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    gradient_clipping: Annotated[float, Field(gt=0.0)] = 1.0
    max_input_tokens: Annotated[int, Field(ge=1)] = 1024
    max_target_tokens: Annotated[int, Field(ge=1)] = 256
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """What is kept in the memory of the CPU: optimizer state (ZeRO 1 to 3), parameters too (ZeRO 3)."""
    activation_checkpointing: bool = False
    """Compute activations a second time in the backward pass rather than keep them."""
    compile: bool = False
    """torch.compile on every layer: faster after a start of a minute or so, on GPUs above all. Not with zero_stage 3."""
    trackers: list[Literal["mlflow", "wandb"]] = []
    """Who is told of every step, besides the TensorBoard files in OUTPUT/tensorboard. Each is an extra: `raystill[mlflow]`."""
    validate_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Measure the validation split in between, and export the weights whose loss on it is lowest. None: before and after only."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many measurements without a better one; goes with validate_every_steps."""
    max_loss_spike: Annotated[float, Field(gt=1.0)] | None = None
    """Stop where a step's loss is above so many times the median of the 50 before it."""
    checkpoint_every_steps: Annotated[int, Field(ge=1)] = 500
    checkpoint_every_minutes: Annotated[float, Field(gt=0.0)] | None = None
    """Also after so many minutes without one."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """The last so many are kept: where one is damaged, the one before is gone on from."""
    min_workers: Annotated[int, Field(ge=1)] | None = None
    """Begin, and go on after a loss, with fewer workers than `workers`, but so many at the least, where the cluster has no more."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """Worker deaths that the run survives by going on from its last checkpoint."""
    seed: int = 0

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.patience is not None and self.validate_every_steps is None:
            raise ValueError("`patience` counts measurements; set `validate_every_steps` too, or remove it")
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise ValueError("offload: optimizer needs zero_stage 1, 2 or 3, it is 0")
        if self.offload == "parameters" and self.zero_stage != 3:
            raise ValueError(f"offload: parameters needs zero_stage 3, it is {self.zero_stage}")
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError(f"trackers {self.trackers} names one twice; remove it")
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile does not go with zero_stage 3, which fetches weights in the middle of a layer")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} is above workers {self.workers}")
        return self


class SamplesConfig(Section):
    """How many answers a student gives to each held-out example, and how they are drawn."""

    n: Annotated[int, Field(ge=1, le=256)] = 1
    """1: the greedy answer. More: drawn ones, of which the most frequent label counts; temperature and seed are theirs."""
    temperature: Annotated[float, Field(gt=0.0, le=5.0)] = 0.7
    seed: int = 0


class EvaluationConfig(Section):
    """How held-out examples are answered."""

    batch_size: Annotated[int, Field(ge=1)] = 64
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    workers: Annotated[int, Field(ge=1)] = 1
    gpus_per_worker: Literal[0, 1] = 0
    samples: SamplesConfig = SamplesConfig()
    weights: list[LossyWeights] = []
    """Score the student in these too, beside float32: what `serving.weights` would cost. By `evaluate`; `compare` leaves them out."""

    @model_validator(mode="after")
    def _weights_are_compared_greedily(self) -> Self:
        if len(set(self.weights)) < len(self.weights):
            raise ValueError(f"weights {self.weights} names one twice; remove it")
        if self.weights and self.samples.n > 1:
            raise ValueError(
                f"weights {self.weights} are compared by greedy answers; set samples.n to 1, or remove weights"
            )
        return self


_Range = Annotated[list[Annotated[float, Field(ge=0.0)]], Field(min_length=2, max_length=2)]


class SearchConfig(Section):
    """Settings that every method may try: equally many for each, judged by the accuracy on the validation split and nothing else.

    They are tried with one fraction and the first seed; what wins there is used for all cells of that student and method.
    """

    trials: Annotated[int, Field(ge=1, le=64)] = 1
    """1: no search, every cell takes training.learning_rate and the student's own weight."""
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Of the labels, to try with; None: the largest of the grid."""
    learning_rate: _Range | None = None
    """[lowest, highest]: the trials are spread evenly over its logarithm."""
    weight: _Range | None = None
    """[lowest, highest] of the method's loss weight (rationale_weight, soft_weight), each trial's another; None: the student's own."""

    @model_validator(mode="after")
    def _trials_differ(self) -> Self:
        if self.trials > 1 and self.learning_rate is None:
            raise ValueError(f"{self.trials} trials need something to vary; give `learning_rate: [lowest, highest]`")
        if self.trials == 1 and (self.learning_rate or self.weight or self.fraction):
            raise ValueError("with 1 trial nothing is searched; raise `trials`, or remove the rest of `search`")
        for name, bounds in (("learning_rate", self.learning_rate), ("weight", self.weight)):
            if bounds and bounds[0] >= bounds[1]:
                raise ValueError(f"{name} {bounds} is not [lowest, highest]")
        if self.learning_rate and self.learning_rate[0] <= 0.0:
            raise ValueError(f"learning_rate {self.learning_rate} must be above 0")
        if self.weight and self.weight[1] > 1.0:
            raise ValueError(f"weight {self.weight} is a share, at most 1")
        return self


class CompareConfig(Section):
    """The grid of `raystill compare`: every method with every fraction of the labels, student and seed."""

    methods: Annotated[list[Method], Field(min_length=1)] = ["finetune", "step-by-step"]
    fractions: Annotated[list[Annotated[float, Field(gt=0.0, le=1.0)]], Field(min_length=1)] = [0.25, 1.0]
    students: Annotated[list[str], Field(min_length=1)] | None = None
    """Hub ids or folders; None: student.model."""
    seeds: Annotated[list[int], Field(min_length=1)] = [0, 1, 2]
    search: SearchConfig = SearchConfig()
    keep_students: bool = False
    """Keep the weights of every cell. False: a cell keeps its answers and figures."""
    price_per_worker_hour: Annotated[float, Field(ge=0.0)] | None = None
    """What a training or evaluation worker costs, for the costs in the report."""

    @model_validator(mode="after")
    def _no_cell_twice(self) -> Self:
        for name in ("methods", "fractions", "students", "seeds"):
            values = getattr(self, name) or []
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {values} names one twice; remove it")
        return self


class RunConfig(Section):
    """One run: a corpus, a teacher, a student, and what is made of them."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    output: str
    """Folder or URI that holds the run's artifacts."""
    task: str
    """A built-in task's name, or the path of a task file of your own."""
    task_options: dict[str, Any] = {}
    """What a task can be told in YAML (classification: labels, instruction, examples)."""
    corpus: CorpusConfig
    teacher: TeacherConfig
    labelling: LabellingConfig = LabellingConfig()
    student: StudentConfig
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    serving: ServingConfig = ServingConfig()
    compare: CompareConfig = CompareConfig()
