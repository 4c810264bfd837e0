"""The arithmetic of a plan."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from cluster.planning.estimate import (
    Throughput,
    active_parameters,
    by_labels,
    by_reference,
    histogram,
    label_estimate,
    share_at,
)
from cluster.planning.plan_text import histogram_lines, size
from pipelines.config import RunConfig, TeacherConfig
from pipelines.config.load import parse_run

QWEN_1_5B = {
    "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_hidden_layers": 28,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
QWEN_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_hidden_layers": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
SMOLLM_135M = {
    "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_hidden_layers": 30,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True, "head_dim": 64,
}  # fmt: skip
QWEN_30B_A3B = {
    "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts_per_tok": 8,
    "num_attention_heads": 32, "head_dim": 128, "num_hidden_layers": 48, "num_key_value_heads": 4, "vocab_size": 151936,
}  # fmt: skip


def a_run(**teacher: Any) -> RunConfig:
    return parse_run(
        {
            "name": "small",
            "output": "out",
            "task": "arithmetic",
            "corpus": {"train": "train.jsonl"},
            "teacher": {"engine": "vllm", "model": "some/model", **teacher},
            "student": {"model": "some/model"},
        }
    )


def a_teacher(**settings: Any) -> TeacherConfig:
    return a_run(**settings).teacher


@pytest.mark.parametrize(
    ("config", "published"),
    [(QWEN_1_5B, 1.54e9), (QWEN_7B, 7.61e9), (SMOLLM_135M, 134.5e6), (QWEN_30B_A3B, 3.3e9), ({"text_config": QWEN_7B}, 7.61e9)],
)  # fmt: skip
def test_parameters_are_those_of_the_model_cards(config: dict[str, Any], published: float) -> None:
    assert active_parameters(config) == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize("config", [{}, {"d_model": 768, "num_layers": 12}, {**QWEN_7B, "is_encoder_decoder": True}])
def test_parameters_of_an_unknown_shape_are_unknown(config: dict[str, Any]) -> None:
    assert active_parameters(config) is None


def test_a_larger_model_is_scaled_from_the_measured_one_and_says_so() -> None:
    found = by_reference(QWEN_7B, a_teacher(gpus_per_replica=1), "arithmetic")
    assert found.basis == "reference"
    assert found.output_tokens_per_s == pytest.approx(20_639 * 1.54 / 7.61, rel=0.03)
    assert found.rows_per_s is None
    assert found.engine_start_s == 38.0
    assert found.source.startswith("a rough guess: 20,639 output tokens/s measured with Qwen2.5-Coder-1.5B-Instruct")
    assert "one NVIDIA H100 80GB, times 0.2 (1,540M / 7,6" in found.source


def test_the_reference_is_of_the_same_kind_of_hardware_and_the_nearest_size() -> None:
    small = by_reference(SMOLLM_135M, a_teacher(), "nli")
    assert small.output_tokens_per_s == pytest.approx(184, rel=0.01)
    assert "2 CPU cores" in small.source
    assert by_reference(QWEN_1_5B, a_teacher(), "nli").output_tokens_per_s == pytest.approx(32, rel=0.03)
    on_gpu = by_reference(QWEN_1_5B, a_teacher(gpus_per_replica=1), "nli")
    assert on_gpu.output_tokens_per_s == pytest.approx(18_584, rel=0.03)


def test_tensor_parallel_is_taken_to_scale() -> None:
    one, four = (by_reference(QWEN_7B, a_teacher(gpus_per_replica=n), "nli") for n in (1, 4))
    assert one.output_tokens_per_s is not None
    assert four.output_tokens_per_s == pytest.approx(4 * one.output_tokens_per_s)
    assert "times 4 GPUs" in four.source


@pytest.mark.parametrize(
    ("config", "teacher", "why"),
    [
        (None, {}, "unknown for some/model (its config.json is not on this machine): use --calibrate"),
        ({"d_model": 1}, {}, "unknown for some/model (its config.json is of an unknown shape): use --calibrate"),
        (None, {"engine": "openai", "remote": {"url": "http://x/v1"}}, "unknown for engine openai: use --calibrate"),
        (None, {"engine": "echo", "model": None}, "unknown for engine echo: use --calibrate"),
    ],
)
def test_unknown_is_said(config: Any, teacher: dict[str, Any], why: str) -> None:
    found = by_reference(config, a_teacher(**teacher), "arithmetic")
    assert (found.basis, found.rows_per_s, found.output_tokens_per_s) == ("unknown", None, None)
    assert found.source.startswith(why)


def test_finished_labels_give_the_rates_of_one_replica() -> None:
    rates = {"rows_per_s": 20.0, "output_tokens_per_s": 1000.0, "replicas": 2.0}
    manifest = {"details": {"throughput": rates}, "counts": {"read": 100, "accepted": 80, "rejected": 20},
                "timings_s": {"engine_start": 40.0}}  # fmt: skip
    assert by_labels(manifest, "labels", "here", 8000) == Throughput(
        "labels", "here", 10.0, 500.0, 50.0, 40.0, 0.2, 100.0
    )
    assert by_labels({**manifest, "details": {}}, "labels", "here", 8000) is None


def test_measured_rows_decide_time_hours_and_cost() -> None:
    """10,000 rows at 10 rows/s by each of 4 replicas with 2 GPUs: 250 s, and 50 s of engine start."""
    run = a_run(gpus_per_replica=2, replicas={"min": 1, "max": 4}, price={"per_gpu_hour": 3.0})
    throughput = Throughput("calibration", "here", 10.0, 400.0, 40.0, 50.0, 0.1, 120.0)
    found = label_estimate(run, 10_000, 2_000_000, 100.0, throughput)
    assert found["output_tokens"] == 400_000
    assert found["seconds"] == pytest.approx(300.0)
    assert found["gpu_hours"] == pytest.approx(300 * 8 / 3600)
    assert found["cost"]["amount"] == pytest.approx(3 * 300 * 8 / 3600)
    assert found["storage_bytes"]["labels"] == 1_200_000
    assert found["output_assumption"] == "measured, as the throughput"


def test_without_measured_rows_the_output_tokens_decide_and_the_assumption_is_stated() -> None:
    run = a_run(sampling={"n": 4, "temperature": 1.0, "max_tokens": 100}, token_logprobs=5)
    found = label_estimate(run, 1000, 50_000, 200.0, Throughput("reference", "there", None, 1000.0))
    assert found["output_tokens"] == 200_000
    assert found["output_assumption"] == "an assumption: 50% of sampling.n x max_tokens"
    assert found["seconds"] == pytest.approx(200.0)
    assert (found["gpu_hours"], found["cost"]) == (None, None)
    assert found["replica_hours"] == pytest.approx(200 / 3600)
    # One of four answers is kept: 50 tokens, 4 bytes of text each; a row has four numbers of 4 bytes.
    assert found["storage_bytes"]["labels"] == 1000 * (200 + 50 * 4 + 4 * 4)
    assert found["storage_bytes"]["token_logprobs"] == 1000 * 50 * (5 * 8 + 4)


def test_what_is_not_known_is_not_made_up() -> None:
    found = label_estimate(a_run(gpus_per_replica=1), 1000, 50_000, 200.0, Throughput("unknown", "use --calibrate"))
    assert [found[key] for key in ("seconds", "replica_hours", "gpu_hours", "cost")] == [None] * 4
    assert found["output_tokens"] == 128_000


def test_tokens_are_charged_also_where_the_time_is_unknown() -> None:
    run = a_run(price={"per_million_prompt_tokens": 1.0, "per_million_output_tokens": 10.0})
    found = label_estimate(run, 1000, 2_000_000, 200.0, Throughput("unknown", ""))
    assert found["cost"]["amount"] == pytest.approx(2.0 + 1.28)


def test_nothing_to_ask_costs_nothing() -> None:
    found = label_estimate(a_run(), 0, 0, 200.0, Throughput("reference", "there", None, 1000.0, None, 38.0))
    assert (found["seconds"], found["output_tokens"], found["storage_bytes"]["labels"]) == (0, 0, 0)


@pytest.mark.parametrize("lengths", [[5], [7, 7, 7], list(range(100)), [1, 1_000_000], [3, 900, 14, 14, 15, 16, 2047]])
def test_histogram_counts_every_length_once(lengths: list[int]) -> None:
    found = histogram(lengths, bins=12)
    edges, counts = found["edges"], found["counts"]
    assert len(edges) == len(counts) + 1 <= 13
    assert counts == [sum(low <= n < high for n in lengths) for low, high in itertools.pairwise(edges)]
    assert sum(counts) == len(lengths)
    assert counts[0] > 0 < counts[-1]


def test_histogram_bars() -> None:
    lines = list(histogram_lines({"edges": [0, 5, 10, 15], "counts": [1, 0, 80]}))
    assert [line.strip() for line in lines] == ["0 to 4  █ 1", "5 to 9   0", "10 to 14  " + "█" * 40 + " 80"]


def test_share_at() -> None:
    assert [share_at(list(range(1, 101)), share) for share in (0.0, 0.5, 0.95, 1.0)] == [1, 50, 95, 100]
    assert share_at([7], 0.95) == 7


def test_size() -> None:
    assert [size(n) for n in (0, 171_000, 1_440_000, 23e9)] == ["0 kB", "171 kB", "1.4 MB", "23.0 GB"]
