"""The arithmetic of a plan: tokens, time, GPU-hours, storage, cost. Pure: reads no file.

Throughput is that of one replica. If the teacher was never measured, it is scaled from `REFERENCES`, which were measured for this project:
decoding a token reads every active weight once, so tokens/s are proportional to 1 / parameters. The plan calls that a rough guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cluster.planning.model import Basis, Histogram, LabelBudget, LabelEstimate, LabelStorage, ReplicaThroughput
from pipelines.config import RunConfig, TeacherConfig
from pipelines.data.label_manifest import LabelCounts, LabelDetails
from pipelines.data.schema import LABEL
from pipelines.storage.manifest import Manifest

if TYPE_CHECKING:
    from pipelines.label.teachers.base import TokensUsed

ConfigJson = Mapping[str, Any]
"""A model's config.json."""
OUTPUT_SHARE = 0.5
"""Share of sampling.max_tokens that an answer is assumed to have."""
CHARACTERS_PER_TOKEN = 4.0
_LOGPROB_BYTES = 8  # a token id and a number, of 4 bytes each
_NUMBER_BYTES = 4


@dataclass(frozen=True)
class Reference:
    """A measured rate of bare vLLM. `parameters` of its model; `gpus` 0 means CPUs."""

    model: str
    parameters: float
    hardware: str
    gpus: int
    output_tokens_per_s: Mapping[str, float]
    """By task; "" for any other task."""
    engine_start_s: float | None


_GPU_BY_TASK = {"arithmetic": 20_639.0, "multiple-choice": 14_733.0, "grade-school-math": 18_584.0, "": 18_584.0}
REFERENCES = (
    Reference("Qwen2.5-Coder-1.5B-Instruct, vLLM 0.24", 1.54e9, "one NVIDIA H100 80GB", 1, _GPU_BY_TASK, 38.0),
    # docs/benchmarks.md, fixed costs: blocks of 32 tokens, no third process.
    Reference("SmolLM2-135M-Instruct, vLLM 0.29", 134.5e6, "2 CPU cores", 0, {"": 288.0}, 22.0),
)


def active_parameters(config: ConfigJson) -> float | None:
    """Roughly how many weights a token passes through, from a model's config.json. None for an unknown architecture.

    Known are decoder-only models like Llama: embeddings, grouped-query attention, and a gated MLP or the experts that one token uses.
    """
    config = config.get("text_config") or config
    try:
        hidden, layers, vocabulary = (int(config[k]) for k in ("hidden_size", "num_hidden_layers", "vocab_size"))
        heads = int(config["num_attention_heads"])
        inner = int(config.get("moe_intermediate_size") or config["intermediate_size"])
    except (KeyError, TypeError, ValueError):
        return None
    if config.get("is_encoder_decoder"):
        return None
    width = int(config.get("head_dim") or hidden // heads)
    groups = int(config.get("num_key_value_heads") or heads)
    experts = int(config.get("num_experts_per_tok") or 1)
    attention = 2 * hidden * width * (heads + groups)
    embeddings = hidden * vocabulary * (1 if config.get("tie_word_embeddings") else 2)
    return float(embeddings + layers * (attention + 3 * hidden * inner * experts))


def by_reference(config: ConfigJson | None, teacher: TeacherConfig, task: str) -> ReplicaThroughput:
    """A rough guess for a vLLM teacher with a config.json; unknown for any other teacher."""
    remedy = "use --calibrate N, which labels N rows and measures"
    if teacher.engine != "vllm":
        return ReplicaThroughput(basis="unknown", source=f"unknown for engine {teacher.engine}: {remedy}")
    parameters = active_parameters(config) if config else None
    if parameters is None:
        why = "its config.json is not on this machine" if config is None else "its architecture is unknown"
        return ReplicaThroughput(basis="unknown", source=f"unknown for {teacher.model} ({why}): {remedy}")
    fitting = [r for r in REFERENCES if bool(r.gpus) == bool(teacher.gpus_per_replica)]
    nearest = min(fitting, key=lambda r: abs(math.log(r.parameters / parameters)))
    gpus = max(teacher.gpus_per_replica, 1)
    factor = nearest.parameters / parameters * gpus
    measured = nearest.output_tokens_per_s.get(task, nearest.output_tokens_per_s[""])
    on_gpus = f", times {gpus} GPUs" if gpus > 1 else ""
    source = (
        f"a rough guess: {measured:,.0f} output tokens/s measured with {nearest.model} on {nearest.hardware}, times {factor:.2g} "
        f"({_millions(nearest.parameters)} / {_millions(parameters)} parameters{on_gpus}); assumes the same hardware"
    )
    return ReplicaThroughput(
        basis="reference", source=source, output_tokens_per_s=measured * factor, engine_start_s=nearest.engine_start_s
    )


def by_labels(manifest: Manifest, basis: Basis, source: str, data_bytes: int | None) -> ReplicaThroughput | None:
    """The rates of one replica that made finished labels. None if their manifest has no throughput.

    Args:
        data_bytes: size of the accepted rows' Parquet files.
    """
    counts = LabelCounts.model_validate(manifest.counts)
    rates = LabelDetails.model_validate(manifest.details).throughput
    if rates is None or not rates.rows_per_s or not rates.replicas or rates.output_tokens_per_s is None:
        return None
    return ReplicaThroughput(
        basis=basis,
        source=source,
        rows_per_s=rates.rows_per_s / rates.replicas,
        output_tokens_per_s=rates.output_tokens_per_s / rates.replicas,
        output_tokens_per_row=rates.output_tokens_per_s / rates.rows_per_s,
        engine_start_s=manifest.timings_s.get("engine_start"),
        reject_share=counts.rejected / counts.read if counts.read else None,
        bytes_per_row=data_bytes / counts.accepted if data_bytes is not None and counts.accepted else None,
    )


def label_estimate(
    run: RunConfig, rows: int, prompt_tokens: int, text_bytes: float, throughput: ReplicaThroughput, *, stored: int = 0,
    used: tuple[int, int, int] = (0, 0, 0),
) -> LabelEstimate:  # fmt: skip
    """What labelling takes with replicas.max replicas.

    Args:
        rows: still to label.
        prompt_tokens: of all these rows.
        text_bytes: mean size of a row's input, id and gold label.
        throughput: of one replica.
        stored: further rows, which take over stored answers.
        used: prompt, output and cached tokens that earlier runs have used of the budget.
    """
    from pipelines.label.reporting.usage import teacher_cost
    from pipelines.label.teachers.base import TokensUsed

    teacher, replicas = run.teacher, run.teacher.replicas.max
    sampling = teacher.sampling
    measured = throughput.output_tokens_per_row
    per_row = sampling.n * sampling.max_tokens * OUTPUT_SHARE if measured is None else measured
    output_tokens = round(per_row * rows)
    working = _working_seconds(rows, output_tokens, throughput)
    seconds = None if working is None else working / replicas + (throughput.engine_start_s or 0.0) * (rows > 0)
    hours = None if seconds is None else seconds * replicas / 3600
    gpu_hours = None if hours is None or not teacher.gpus_per_replica else hours * teacher.gpus_per_replica
    charged = teacher_cost(teacher, TokensUsed(prompt_tokens, output_tokens), gpu_hours=gpu_hours or 0.0)
    assumption = f"an assumption: {OUTPUT_SHARE:.0%} of sampling.n x max_tokens"
    return LabelEstimate(
        rows=rows,
        rows_stored=stored,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        output_tokens_per_row=per_row,
        output_assumption=assumption if measured is None else "measured with the throughput",
        replicas=replicas,
        seconds=seconds,
        engine_start_s=throughput.engine_start_s,
        replica_hours=hours,
        gpu_hours=gpu_hours,
        storage_bytes=_storage(run, rows, per_row, text_bytes, throughput),
        cost=charged,
        budget=_budget(teacher, rows, TokensUsed(prompt_tokens, output_tokens), TokensUsed(*used), gpu_hours),
    )


def _budget(
    teacher: TeacherConfig, rows: int, needed: TokensUsed, used: TokensUsed, gpu_hours: float | None
) -> LabelBudget | None:
    """The limit with room for the fewest rows. GPU-hours are those of one run."""
    from pipelines.label.reporting.usage import teacher_cost

    spent, cost = teacher_cost(teacher, used), teacher_cost(teacher, needed)
    amounts: list[tuple[Literal["tokens", "money", "gpu_hours"], float | None, float, float | None]] = [
        ("tokens", teacher.budget.tokens, used.prompt + used.output, needed.prompt + needed.output),
        ("money", teacher.budget.money, spent.amount if spent else 0.0, cost.amount if cost else None),
        ("gpu_hours", teacher.budget.gpu_hours, 0.0, gpu_hours),
    ]
    found = []
    for key, limit, before, estimate in amounts:
        if limit is not None and estimate is not None:
            share = max(limit - before, 0.0) / estimate if estimate else 1.0
            fitting = min(math.floor(rows * share + 1e-9), rows)  # 0.3 of 0.1 + 0.2 is all of it
            found.append(LabelBudget(key=key, limit=limit, used=before, estimate=estimate, rows=fitting))
    return min(found, key=lambda one: one.rows, default=None)


def _millions(parameters: float) -> str:
    return f"{parameters / 1e6:,.0f}M"


def _working_seconds(rows: int, output_tokens: int, throughput: ReplicaThroughput) -> float | None:
    """Of one replica, without its start."""
    if throughput.rows_per_s:
        return rows / throughput.rows_per_s
    if throughput.output_tokens_per_s:
        return output_tokens / throughput.output_tokens_per_s
    return None


def _storage(
    run: RunConfig, rows: int, output_tokens: float, text_bytes: float, throughput: ReplicaThroughput
) -> LabelStorage:
    """Labels by measured bytes per row, else by their text and numbers before compression. Log-probabilities before compression."""
    answer = output_tokens / run.teacher.sampling.n  # one of n is kept
    numbers = _NUMBER_BYTES * sum(field.type in ("int32", "float") for field in LABEL)
    if throughput.bytes_per_row is not None:
        labels, how = rows * throughput.bytes_per_row, "bytes per row measured with the throughput"
    else:
        labels, how = rows * (text_bytes + answer * CHARACTERS_PER_TOKEN + numbers), "before compression"
    top = run.teacher.token_logprobs
    logprobs = None if top is None else round(rows * answer * (top * _LOGPROB_BYTES + _NUMBER_BYTES))
    texts = round(rows * output_tokens * CHARACTERS_PER_TOKEN)
    return LabelStorage(labels=round(labels), labels_how=how, texts=texts, token_logprobs=logprobs)


def histogram(lengths: Sequence[int], bins: int = 12) -> Histogram:
    """The lengths in at most `bins` bins of equal width."""
    low, high = min(lengths), max(lengths)
    step = max(1, math.ceil((high + 1 - low) / bins))
    edges = [low + step * i for i in range(math.ceil((high + 1 - low) / step) + 1)]
    counts = [0] * (len(edges) - 1)
    for length in lengths:
        counts[(length - low) // step] += 1
    return Histogram(edges=edges, counts=counts)


def share_at(values: Sequence[int], share: float) -> int:
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]
