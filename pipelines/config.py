"""THE run file: one typed tree. Unknown keys are refused; each key's rule stands beside it.

In: a YAML file and `--set section.key=value` overrides. Out: a `RunConfig`. The keys of product documentation are fixed:
tests/test_surface.py holds the list, so that a key is added on purpose.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.errors import UserError

Method = Literal["finetune", "step-by-step"]
METHODS: tuple[Method, ...] = ("finetune", "step-by-step")
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A part of the run file: immutable, no unknown keys, no silent conversion of text into numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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


class ReplicasConfig(Section):
    """How many replicas there may be at a time."""

    min: Annotated[int, Field(ge=0)] = 1
    max: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; lower min or raise max")
        return self


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

    gold: Literal["keep", "drop-disagreeing"] = "keep"
    min_agreement: Share = 0.0


class EngineConfig(Section):
    """Settings of the vLLM engine inside each teacher replica."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    max_model_len: Annotated[int, Field(ge=16)] = 2048
    """Tokens of prompt and answer together; longer prompts are rejected as `too_long`."""
    max_num_seqs: Annotated[int, Field(ge=1)] = 256
    """Sequences in the batch at a time; prompts in flight follow from it."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    cpu_kv_cache_gib: Annotated[int, Field(ge=1)] = 1
    enforce_eager: bool = False
    """True: no compilation and no CUDA graphs. CPU replicas are always eager: there it only costs start-up time."""


class TeacherConfig(Section):
    """Who answers. `model` for vllm, `outputs` for replay, neither for echo."""

    engine: Literal["vllm", "replay", "echo"]
    model: str | None = None
    """Hub id or folder."""
    outputs: str | None = None
    """replay: JSON Lines of {id, output}, one answer per example."""
    replicas: ReplicasConfig = ReplicasConfig()
    gpus_per_replica: Annotated[int, Field(ge=0)] = 0
    """0 = CPU; above 1 = tensor parallel over that many GPUs."""
    prompt: Literal["plain", "chat"] = "plain"
    """plain: few-shot text that the model continues. chat: the same shots as turns of the model's chat template."""
    system: str | None = None
    """chat: the system message."""
    sampling: SamplingConfig = SamplingConfig()
    filters: FiltersConfig = FiltersConfig()
    vllm: EngineConfig = EngineConfig()
    latency_s: Annotated[float, Field(ge=0.0)] = 0.0
    """echo: seconds until it answers."""

    @model_validator(mode="after")
    def _engine_has_what_it_needs(self) -> Self:
        if self.engine == "vllm" and not self.model:
            raise ValueError("engine vllm needs `model`: a hub id or a folder")
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


class InitConfig(Section):
    """What the student starts from. The kind of `student.model`'s architecture decides the family."""

    kind: Literal["pretrained", "first-layers", "random"] = "pretrained"
    """pretrained: model as it is. first-layers: its first `layers`. random: its config and tokenizer, fresh weights."""
    layers: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _layers_where_cut(self) -> Self:
        if (self.kind == "first-layers") != (self.layers is not None):
            raise ValueError("`layers` goes with kind: first-layers, and with no other")
        return self


class StudentConfig(Section):
    """What is trained, and how."""

    model: str
    """Hub id or folder."""
    init: InitConfig = InitConfig()
    method: Method = "step-by-step"
    labels: Literal["gold", "teacher"] | None = None
    """Which label the label task learns; step-by-step only, `gold` where it is not set."""
    rationale_weight: Share = 0.5
    """w in loss = (1 - w) x label loss + w x rationale loss."""

    @model_validator(mode="after")
    def _labels_where_chosen(self) -> Self:
        if self.labels is not None and self.method == "finetune":
            raise ValueError("`labels` has no effect with method finetune, which learns gold labels; remove it")
        return self


class TrainingConfig(Section):
    """How the student is trained. Sizes that follow from these are derived, never configured."""

    workers: Annotated[int, Field(ge=1)] = 2
    gpus_per_worker: Literal[0, 1] = 0
    zero_stage: Literal[0, 1, 2, 3] = 2
    precision: Literal["bf16", "fp32"] = "bf16"
    epochs: Annotated[float, Field(gt=0.0)] = 3
    tokens_per_batch: Annotated[int, Field(ge=1)] = 16384
    """Real (unpadded) tokens of both tasks, over all workers, per optimizer step."""
    tokens_per_micro_batch: Annotated[int, Field(ge=1)] = 8192
    """Padded tokens that one worker holds at a time; accumulation steps follow from it."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1.0e-4
    warmup: Share = 0.05
    """Share of the steps over which the learning rate rises; it then falls to 0 in a straight line."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    gradient_clipping: Annotated[float, Field(gt=0.0)] = 1.0
    max_input_tokens: Annotated[int, Field(ge=1)] = 1024
    max_target_tokens: Annotated[int, Field(ge=1)] = 256
    checkpoint_every_steps: Annotated[int, Field(ge=1)] = 500
    max_failures: Annotated[int, Field(ge=0)] = 2
    """Worker deaths that the run survives by going on from its last checkpoint."""
    seed: int = 0


class EvaluationConfig(Section):
    """How held-out examples are answered."""

    batch_size: Annotated[int, Field(ge=1)] = 64
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    workers: Annotated[int, Field(ge=1)] = 1
    gpus_per_worker: Literal[0, 1] = 0


class ServingConfig(Section):
    """The endpoint. Times in seconds."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    replicas: ReplicasConfig = ReplicasConfig(min=0, max=4)
    gpus_per_replica: Literal[0, 1] = 0
    target_ongoing_requests: Annotated[int, Field(ge=1)] = 8
    max_batch_size: Annotated[int, Field(ge=1)] = 16
    batch_wait_s: Annotated[float, Field(ge=0.0)] = 0.01
    max_queued_requests: Annotated[int, Field(ge=1)] = 256
    request_timeout_s: Annotated[float, Field(gt=0.0)] = 60.0
    max_new_tokens: Annotated[int, Field(ge=1)] = 64


class CompareConfig(Section):
    """The grid of `raystill compare`."""

    methods: list[Method] = list(METHODS)
    fractions: list[Annotated[float, Field(gt=0.0, le=1.0)]] = [0.25, 1.0]
    students: list[str] | None = None
    seeds: list[int] = [0, 1, 2]


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
    student: StudentConfig
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    serving: ServingConfig = ServingConfig()
    compare: CompareConfig = CompareConfig()


def load_run(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run file and apply `section.key=value` overrides, whose values are YAML.

    Raises:
        UserError: the file is missing or is not YAML, a key is unknown, or a value breaks its rule.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(str(path), "there is no such run file", "Give the path of a YAML run file.")
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(str(path), f"not readable as YAML ({error})", "Mend the file.") from error
    if not isinstance(tree, dict):
        raise UserError(str(path), "a run file is a mapping of sections", "Begin with `name: ...`, `output: ...`.")
    return parse_run(apply_overrides(tree, overrides), origin=str(path))


def apply_overrides(tree: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The tree with `section.key=value` overrides applied, values being YAML. Raises UserError where one is malformed."""
    result = copy.deepcopy(dict(tree))
    for override in overrides:
        _apply(result, override)
    return result


def parse_run(tree: Mapping[str, Any], origin: str = "run") -> RunConfig:
    """Validate a tree as a run. Raises UserError with every broken rule, each with its key."""
    try:
        return RunConfig.model_validate(_numbers_for_floats(RunConfig, tree))
    except ValidationError as error:
        problems = [_explain(e) for e in error.errors()]
        raise UserError(origin, "; ".join(problems), "Correct the run file or the --set.") from error


def _apply(tree: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        raise UserError(f"--set {override}", "it reads section.key=value", "For example: --set teacher.engine=echo")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}", "the value is not YAML", "Quote it.") from error
    if isinstance(value, str) and value == text.strip():
        value = _number(value)
    node = tree
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise UserError(f"--set {override}", f"`{part}` is a value, not a section", "Set the key above it.")
        node = child
    node[parts[-1]] = value


def _number(text: str) -> str | float:
    """YAML 1.1 reads 1e-4 as text; a user of --set means the number."""
    try:
        return float(text) if text[:1].isdigit() and "e" in text.lower() else text
    except ValueError:
        return text


def _numbers_for_floats(model: type[BaseModel], tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with YAML's `1e-4` (text to YAML 1.1) as a number where the field is a float."""
    result = dict(tree)
    for name, field in model.model_fields.items():
        value = result.get(name)
        kind = field.annotation
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, BaseModel):
            result[name] = _numbers_for_floats(kind, value)
        elif isinstance(value, str) and kind is float:
            result[name] = _number(value)
    return result


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if not str(part).startswith(("constrained", "function")))
    if error["type"] == "extra_forbidden":
        *parents, name = (str(p) for p in error["loc"])
        known = _keys(parents)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean `{close[0]}`? " if close else ""
        return f"unknown key `{where}` ({hint}known here: {', '.join(known)})"
    if error["type"] == "missing":
        return f"`{where}` is missing"
    message = error["msg"].removeprefix("Value error, ")
    given = error["input"]
    shown = "" if isinstance(given, dict | BaseModel) else f" (it is {given!r})"
    return f"`{where}`: {message}{shown}" if where else f"{message}"


def _keys(parents: list[str]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for part in parents:
        field = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)
