"""The run file's `teacher`: who answers, how answers are drawn and which of them are kept, and what they may cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.config.base import ReplicasConfig, Section, Share


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

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """auto: bfloat16 on GPUs and on CPUs that have instructions for it, else float32."""
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
    """What labelling may use up. Engine `openai` stops before it uses more; the others when the rows that have come have used it up, and
    what their engines are answering then comes on top. None: no limit."""

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
