"""THE run file: one typed tree. Unknown keys are refused; each key's rule stands beside it.

run_file.py reads it from YAML. The keys of product documentation are fixed: tests/test_surface.py holds the list, so that a key is
added on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.config_base import LossyWeights, ReplicasConfig, Section, Share
from pipelines.config_serving import ServingConfig
from pipelines.config_student import InitConfig, LoraConfig, StudentConfig
from pipelines.methods import Method

__all__ = [
    "InitConfig",
    "LoraConfig",
    "ReplicasConfig",
    "RunConfig",
    "ServingConfig",
    "StudentConfig",
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


class SamplingConfig(Section):
    """How the teacher's answers are drawn."""

    n: Annotated[int, Field(ge=1, le=256)] = 1
    temperature: Annotated[float, Field(ge=0.0, le=5.0)] = 0.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_tokens: Annotated[int, Field(ge=1)] = 256
    seed: int = 0

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.n > 1 and self.temperature == 0.0:
            raise ValueError(f"n {self.n} with temperature 0 draws the same answer {self.n} times; raise temperature")
        return self


class FiltersConfig(Section):
    """Which answers are kept. Applied in the order of schema.REJECT_REASONS."""

    gold: Literal["keep", "drop-disagreeing", "rationalise"] = "keep"
    """What happens where the teacher's label is not the gold label. rationalise: it is asked again with the gold label as a hint."""
    min_agreement: Share = 0.0
    min_rationale_words: Annotated[int, Field(ge=0)] = 0
    max_rationale_words: Annotated[int, Field(ge=1)] | None = None
    drop_giveaways: bool = False
    """Reject a rationale that states the label and nothing that leads to it."""
    near_duplicates: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Reject inputs whose word 3-grams are at least this similar (Jaccard, estimated by MinHash) to an earlier one's; None: none."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_rationale_words is not None and self.min_rationale_words > self.max_rationale_words:
            rule = f"min_rationale_words {self.min_rationale_words} is above max_rationale_words {self.max_rationale_words}"
            raise ValueError(f"{rule}; lower it")
        return self

    @classmethod
    def chosen(cls, filters: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a manifest's filters that are not at their default."""
        plain = cls().model_dump()
        return {name: value for name, value in filters.items() if value != plain.get(name)}


class EngineConfig(Section):
    """Settings of the vLLM engine inside each teacher replica."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = (
        "auto"  # bfloat16 on GPUs and CPUs that compute in it, else float32
    )
    max_model_len: Annotated[int, Field(ge=16)] = 2048
    """Tokens of prompt and answer together; longer prompts are rejected as `too_long`."""
    max_num_seqs: Annotated[int, Field(ge=1)] = 256
    """Sequences in the batch at a time; prompts in flight follow from it."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    cpu_kv_cache_gib: Annotated[int, Field(ge=1)] = 1
    enforce_eager: bool = False
    """True: no compilation and no CUDA graphs. CPU replicas are always eager: there it only costs start-up time."""


class RemoteConfig(Section):
    """An OpenAI-compatible endpoint, for engine openai."""

    url: str | None = None
    """Its base URL, up to and with `/v1`. It may change under the same labels, since servers move: what tells the model is `teacher.model`,
    so that other weights behind it must be served under another name."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key. The key itself never stands in a file or a log."""
    max_concurrent_requests: Annotated[int, Field(ge=1)] = 64
    """At most so many at a time; fewer while the endpoint refuses some for its rate limit."""
    max_attempts: Annotated[int, Field(ge=1)] = 8
    timeout_s: Annotated[float, Field(gt=0.0)] = 120.0


class BudgetConfig(Section):
    """What labelling may use up; it stops cleanly before it uses more. None: no limit."""

    tokens: Annotated[int, Field(ge=1)] | None = None
    """Of prompts and answers together."""
    money: Annotated[float, Field(gt=0.0)] | None = None
    """In the currency of `teacher.price`."""


class PriceConfig(Section):
    """What things cost, in any one currency. For estimates, and for `teacher.budget.money`."""

    per_million_prompt_tokens: Annotated[float, Field(ge=0.0)] | None = None
    per_million_output_tokens: Annotated[float, Field(ge=0.0)] | None = None
    per_gpu_hour: Annotated[float, Field(ge=0.0)] | None = None


READER_CPUS = 0.5
"""That a task which reads a part of the corpus asks Ray for."""


class TeacherConfig(Section):
    """Who answers. `model` for vllm and openai, `outputs` for replay, neither for echo."""

    engine: Literal["vllm", "openai", "replay", "echo"]
    model: str | None = None
    """Hub id or folder; openai: the endpoint's name for it."""
    outputs: str | None = None
    """replay: JSON Lines of {id, output}, one answer per example."""
    replicas: ReplicasConfig = ReplicasConfig()
    gpus_per_replica: Annotated[int, Field(ge=0)] = 0
    """0 = CPU; above 1 = tensor parallel over that many GPUs."""
    prompt: Literal["plain", "chat"] = "plain"
    """plain: few-shot text that the model continues. chat: the same shots as turns of the model's chat template."""
    system: str | None = None
    """chat: the system message."""
    shots: str | None = None
    """JSON Lines of {question, answer}: few-shot examples instead of the task's own."""
    constrained: bool = False
    """vllm: the answer's form is enforced where the task has a closed label set: a rationale, then one of the labels."""
    sampling: SamplingConfig = SamplingConfig()
    soft_labels: Literal["votes", "logprobs"] = "votes"
    """votes: shares of the samples. logprobs: the teacher's probabilities of the label tokens, for closed label sets (vllm)."""
    token_logprobs: Annotated[int, Field(ge=1, le=20)] | None = None
    """vllm: store the probabilities of the k likeliest tokens at each position of the kept answer, in labels/token_logprobs."""
    filters: FiltersConfig = FiltersConfig()
    vllm: EngineConfig = EngineConfig()
    remote: RemoteConfig = RemoteConfig()
    budget: BudgetConfig = BudgetConfig()
    price: PriceConfig = PriceConfig()
    latency_s: Annotated[float, Field(ge=0.0)] = 0.0
    """echo: seconds until it answers, on average."""
    latency_tail: Annotated[float, Field(gt=1.0)] | None = None
    """echo: shape of a Pareto distribution that latencies are drawn from (smaller: a heavier tail). None: all the same."""

    @model_validator(mode="after")
    def _engine_has_what_it_needs(self) -> Self:
        if self.engine in ("vllm", "openai") and not self.model:
            raise ValueError(f"engine {self.engine} needs `model`")
        if self.engine == "openai" and not self.remote.url:
            raise ValueError("engine openai needs `remote.url`: the endpoint's base URL, up to and with /v1")
        if self.engine == "replay" and not self.outputs:
            raise ValueError("engine replay needs `outputs`: a JSON Lines file of {id, output}")
        if self.engine != "replay" and self.outputs:
            raise ValueError(f"`outputs` has no effect with engine {self.engine}; remove it or set engine: replay")
        if self.engine == "replay" and self.sampling.n != 1:
            raise ValueError(f"a recording holds one answer per example, sampling.n is {self.sampling.n}; set it to 1")
        if self.system and self.prompt == "plain":
            raise ValueError("`system` has no effect with prompt: plain; set prompt: chat")
        if self.replicas.min < 1:
            raise ValueError("replicas.min of a teacher is at least 1")
        return self

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.engine != "vllm":
            for key in ("constrained", "token_logprobs"):
                if getattr(self, key):
                    raise ValueError(f"`{key}` has no effect with engine {self.engine}; remove it or set engine: vllm")
            if self.soft_labels == "logprobs":
                raise ValueError(f"soft_labels: logprobs needs engine vllm, engine is {self.engine}; set votes")
        if self.engine == "replay" and self.filters.gold == "rationalise":
            raise ValueError(
                "filters.gold: rationalise has no effect with engine replay, which cannot be asked again; set drop-disagreeing"
            )
        if self.budget.money is not None:
            missing = [
                k for k in ("per_million_prompt_tokens", "per_million_output_tokens") if getattr(self.price, k) is None
            ]
            if missing:
                raise ValueError(f"budget.money needs price.{missing[0]}; set it, or use budget.tokens")
        return self


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
