"""The run file's `teacher` and `labelling`: who answers, how answers are sampled and filtered, and what they may cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.config.base import ReplicasConfig, Section, Share


class SamplingConfig(Section):
    """How the teacher's answers are sampled."""

    n: Annotated[int, Field(ge=1, le=256)] = 1
    """Answers of each row, of which the most frequent label counts."""
    temperature: Annotated[float, Field(ge=0.0, le=5.0)] = 0.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    min_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0.0, le=2.0)] | None = None
    stop: list[Annotated[str, Field(min_length=1)]] | None = None
    """Stop strings instead of the task's."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Of one answer. A longer one is rejected as `truncated` if it is cut within its statement."""
    seed: int | None = 0
    """Each row draws by a hash of seed and id. None: unseeded draws, which no later run repeats."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.n > 1 and self.temperature == 0.0:
            raise ValueError(f"n {self.n} with temperature 0 samples the same answer {self.n} times; raise temperature")
        return self


class FiltersConfig(Section):
    """Which answers are kept. Applied in the order in which docs/reference/artifacts.md lists the reasons."""

    gold: Literal["keep", "drop-disagreeing", "rationalise"] = "keep"
    """If the teacher's label is not the gold label: keep the row, reject it, or ask again with the gold label as a hint."""
    min_agreement: Share = 0.0
    """Reject a row if a smaller share of its samples gave the label."""
    min_rationale_words: Annotated[int, Field(ge=0)] = 0
    max_rationale_words: Annotated[int, Field(ge=1)] | None = None
    drop_giveaways: bool = False
    """Reject a rationale that only states the label."""
    near_duplicates: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Reject inputs at least this similar to an earlier one: Jaccard similarity of word 3-grams, estimated by MinHash. None: keep all."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_rationale_words is not None and self.min_rationale_words > self.max_rationale_words:
            rule = f"min_rationale_words {self.min_rationale_words} is above max_rationale_words {self.max_rationale_words}"
            raise ValueError(f"{rule}; lower it")
        return self

    @classmethod
    def chosen(cls, filters: Mapping[str, Any]) -> dict[str, Any]:
        """The filters of a manifest that differ from their default."""
        plain = cls().model_dump()
        return {name: value for name, value in filters.items() if value != plain.get(name)}


class EngineConfig(Section):
    """Settings of the vLLM engine inside each teacher replica."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """auto: bfloat16 if the GPU or CPU computes in it, else float32."""
    max_model_len: Annotated[int, Field(ge=16)] = 2048
    """Tokens of prompt and answer together. Longer prompts are rejected as `too_long`."""
    max_num_seqs: Annotated[int, Field(ge=1)] = 256
    """Sequences in the batch at a time. The number of prompts in flight follows from it."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    cpu_kv_cache_gib: Annotated[int, Field(ge=1)] = 1
    lora: str | None = None
    """Folder or hub id of a LoRA adapter, which answers instead of the model alone."""
    engine_args: dict[str, Any] = {}
    """Other arguments of vLLM's engine, such as quantization or kv_cache_dtype. Checked against vLLM's names before weights are loaded."""
    enforce_eager: bool = False
    """No compilation and no CUDA graphs. CPU replicas are always eager, since compilation would only cost start-up time."""


class RemoteConfig(Section):
    """An OpenAI-compatible endpoint, for engine openai."""

    url: str | None = None
    """Its base URL, including `/v1`. The URL is not part of the labels' identity, since servers move; `teacher.model` is. Serve other
    weights under another name."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key. The key is never written to a file or log."""
    max_concurrent_requests: Annotated[int, Field(ge=1)] = 64
    """Fewer while the endpoint's rate limit refuses requests."""
    max_attempts: Annotated[int, Field(ge=1)] = 8
    """Of each request."""
    timeout_s: Annotated[float, Field(gt=0.0)] = 120.0
    """Of one attempt."""
    batch: bool = False
    """Send all prompts through OpenAI's Batch API: answers within a day, for less. What it does not answer is sent as usual."""
    batch_rows: Annotated[int, Field(ge=1, le=50_000)] = 50_000
    """Requests of one batch, at most."""
    batch_poll_s: Annotated[float, Field(gt=0.0)] = 60.0
    batch_price: Share = 0.5
    """What a batch costs, as a share of teacher.price."""
    max_outage_s: Annotated[float, Field(gt=0.0)] = 3600.0
    """If most requests fail, labelling pauses and probes. It fails if the endpoint stays out longer. Rows keep their attempts."""


class BudgetConfig(Section):
    """Limits of labelling. A row starts only if the most that it can use still fits. None: no limit."""

    tokens: Annotated[int, Field(ge=1)] | None = None
    """Prompts and answers together."""
    money: Annotated[float, Field(gt=0.0)] | None = None
    """In the currency of `teacher.price`."""
    gpu_hours: Annotated[float, Field(gt=0.0)] | None = None
    """Of one run's engines, their start included. Rows in flight come on top."""


class PriceConfig(Section):
    """Prices in one currency, for estimates and for `teacher.budget.money`."""

    per_million_prompt_tokens: Annotated[float, Field(ge=0.0)] | None = None
    per_million_cached_tokens: Annotated[float, Field(ge=0.0)] | None = None
    """Prompt tokens that the endpoint had in its cache. None: as other prompt tokens."""
    per_million_output_tokens: Annotated[float, Field(ge=0.0)] | None = None
    per_gpu_hour: Annotated[float, Field(ge=0.0)] | None = None


READER_CPUS = 0.5
"""CPUs that Ray reserves for a task that reads a part of the corpus."""


class TeacherConfig(Section):
    """Who answers. vllm and openai need `model`, replay needs `outputs`, echo needs neither."""

    engine: Literal["vllm", "openai", "replay", "echo"]
    """vllm: a model on this machine or cluster. openai: a compatible endpoint. replay: recorded outputs. echo: no model, for tests."""
    model: str | None = None
    """Hub id or folder; `embedded`: SmolLM2-135M-Instruct, which needs no hub. openai: the endpoint's name of the model."""
    revision: str | None = None
    """Of a hub id: branch, tag or commit. Resolved to a commit, which the labels record."""
    outputs: str | None = None
    """replay: JSON Lines of {id, output}, one line per example."""
    replicas: ReplicasConfig = ReplicasConfig()
    gpus_per_replica: Annotated[int, Field(ge=0)] = 0
    """0: CPU. Above 1: tensor parallel."""
    pipeline_parallel: Annotated[int, Field(ge=1)] = 1
    """vllm: the layers in this many groups, each on gpus_per_replica / pipeline_parallel GPUs, so that a replica may span nodes."""
    resources: dict[str, Annotated[float, Field(gt=0.0)]] = {}
    """Custom Ray resources that a replica needs on its node."""
    accelerator_type: Annotated[str, Field(min_length=1)] | None = None
    """Type of the GPUs, as Ray names it, such as H100 or A10G."""
    prompt: Literal["plain", "chat"] = "plain"
    """plain: few-shot text to continue. chat: the same shots as turns of the model's chat template."""
    system: str | None = None
    """chat: the system message."""
    chat_template_kwargs: dict[str, Any] = {}
    """chat: arguments of the chat template, such as {enable_thinking: false}."""
    reasoning: Literal[
        "auto",
        "none",
        "think",
        "thinking",
        "thought",
        "reasoning",
        "mistral",
        "seed",
        "kimi",
        "gemma",
        "granite",
        "harmony",
    ] = "auto"
    """How a reasoning model marks its thoughts, which are cut from the answer. auto: any of these marks. none: nothing is cut."""
    keep_thoughts: bool = False
    """Keep the thoughts of accepted rows in a column of their own."""
    shots: str | None = None
    """JSON Lines of {question, answer}: few-shot examples instead of the task's own."""
    constrained: bool = False
    """vllm, closed label sets: enforce the form of the answer, a rationale and then one of the labels."""
    sampling: SamplingConfig = SamplingConfig()
    soft_labels: Literal["votes", "logprobs"] = "votes"
    """votes: shares of the samples. logprobs: the teacher's probabilities of the label tokens, for closed label sets (vllm)."""
    token_logprobs: Annotated[int, Field(ge=1, le=20)] | None = None
    """vllm: store the log-probabilities of the k likeliest tokens at each position of the kept answer, in labels/token_logprobs."""
    filters: FiltersConfig = FiltersConfig()
    vllm: EngineConfig = EngineConfig()
    remote: RemoteConfig = RemoteConfig()
    budget: BudgetConfig = BudgetConfig()
    price: PriceConfig = PriceConfig()
    latency_s: Annotated[float, Field(ge=0.0)] = 0.0
    """echo: mean seconds per answer."""
    latency_tail: Annotated[float, Field(gt=1.0)] | None = None
    """echo: shape of the Pareto distribution of latencies; smaller means a heavier tail. None: constant."""

    @property
    def charged(self) -> PriceConfig:
        """The prices of this teacher's tokens: those of batches, if it sends batches."""
        if not (self.engine == "openai" and self.remote.batch):
            return self.price
        tokens = {name: value for name, value in self.price if name.endswith("_tokens") and value is not None}
        return self.price.model_copy(update={name: value * self.remote.batch_price for name, value in tokens.items()})

    @model_validator(mode="after")
    def _engine_has_what_it_needs(self) -> Self:
        if self.engine in ("vllm", "openai") and not self.model:
            raise ValueError(f"engine {self.engine} needs `model`")
        if self.engine == "openai" and not self.remote.url:
            raise ValueError("engine openai needs `remote.url`: the endpoint's base URL, including /v1")
        if self.engine == "replay" and not self.outputs:
            raise ValueError("engine replay needs `outputs`: a JSON Lines file of {id, output}")
        if self.engine != "replay" and self.outputs:
            raise ValueError(f"`outputs` has no effect with engine {self.engine}; remove it or set engine: replay")
        if self.engine == "replay" and self.sampling.n != 1:
            raise ValueError(f"a recording has one answer per example, sampling.n is {self.sampling.n}; set it to 1")
        if self.system and self.prompt == "plain":
            raise ValueError("`system` has no effect with prompt: plain; set prompt: chat")
        if self.replicas.min < 1:
            raise ValueError(f"replicas.min {self.replicas.min} of a teacher must be at least 1; raise it")
        return self

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.keep_thoughts and self.reasoning == "none":
            raise ValueError("`keep_thoughts` has no effect with reasoning: none; set reasoning: auto")
        if self.chat_template_kwargs and (self.prompt == "plain" or self.engine not in ("vllm", "openai")):
            raise ValueError(
                "`chat_template_kwargs` needs engine vllm or openai and prompt: chat; set these or remove it"
            )
        if self.revision and (self.engine != "vllm" or not self.model or self.model.startswith((".", "/", "~"))):
            raise ValueError("`revision` needs engine vllm and a hub id as `model`; remove it")
        if self.engine != "vllm":
            for key in ("constrained", "token_logprobs"):
                if getattr(self, key):
                    raise ValueError(f"`{key}` has no effect with engine {self.engine}; remove it or set engine: vllm")
            if self.soft_labels == "logprobs":
                raise ValueError(f"soft_labels: logprobs needs engine vllm, engine is {self.engine}; set votes")
        if self.engine == "replay" and self.filters.gold == "rationalise":
            raise ValueError(
                "filters.gold: rationalise has no effect with engine replay, which has one answer per example; set drop-disagreeing"
            )
        if self.pipeline_parallel > 1 and (self.engine != "vllm" or self.gpus_per_replica % self.pipeline_parallel):
            rule = f"gpus_per_replica is {self.gpus_per_replica}"
            raise ValueError(
                f"pipeline_parallel {self.pipeline_parallel} needs engine vllm and a multiple of it as gpus_per_replica; {rule}"
            )
        if self.pipeline_parallel > 1 and not self.gpus_per_replica:
            raise ValueError(f"pipeline_parallel {self.pipeline_parallel} needs GPUs; set gpus_per_replica")
        if wrong := {"CPU", "GPU", "memory", "object_store_memory"} & set(self.resources):
            raise ValueError(f"resources: {min(wrong)} is no custom resource; set gpus_per_replica for GPUs")
        if self.accelerator_type and not self.gpus_per_replica:
            raise ValueError(
                "accelerator_type has no effect with gpus_per_replica: 0; remove it or set gpus_per_replica"
            )
        if self.vllm.lora and self.engine != "vllm":
            raise ValueError(f"vllm.lora has no effect with engine {self.engine}; remove it or set engine: vllm")
        if self.remote.batch and self.engine != "openai":
            raise ValueError(f"remote.batch has no effect with engine {self.engine}; remove it or set engine: openai")
        if self.budget.gpu_hours is not None and not self.gpus_per_replica:
            raise ValueError(
                "budget.gpu_hours has no effect with gpus_per_replica: 0; remove it or set gpus_per_replica"
            )
        if self.budget.money is not None:
            missing = [
                k for k in ("per_million_prompt_tokens", "per_million_output_tokens") if getattr(self.price, k) is None
            ]
            if missing:
                raise ValueError(f"budget.money needs price.{missing[0]}; set it, or use budget.tokens")
        return self


class LabellingConfig(Section):
    """How the label stage works. Nothing here changes a label."""

    commit_rows: Annotated[int, Field(ge=1)] = 16_384
    """Commit after this many rows with an outcome,"""
    commit_every_s: Annotated[float, Field(gt=0.0)] = 5.0
    """or after this many seconds. A kill loses no more than that and the rows in flight."""
    shards: Annotated[int, Field(ge=1, le=64)] = 1
    """Drivers that share the corpus, each an actor with its part of the replicas. One keeps up with some thousand rows per second."""
    first_rows: Annotated[int, Field(ge=1)] = 200
    """After this many answered rows the share of rejects is checked."""
    max_reject_share: Share = 0.9
    """A higher share stops the run, since then the prompt or the parser is wrong. 1: never."""
    max_task_error_share: Share = 0.01
    """If the task's code raises an error on a row, the row is `bad_input` or `unparsable`. A higher share of all rows stops the run. One
    row never does."""
    max_engine_error_share: Share = 0.01
    """The stage fails at its end if a higher share has `engine_error`. The next `label` retries these rows."""
    reuse: list[str] | None = None
    """Outputs of other runs, whose stored answers to the same prompts, of the same teacher and sampling, are taken over. `--replace` takes
    those of the labels that it replaces, too. []: no answer is taken over, and `--replace` discards them."""
    lease_s: Annotated[float, Field(ge=3.0)] = 60.0
    """Object store: how long a silent driver on another machine keeps the next one out of the folder of the stage."""
