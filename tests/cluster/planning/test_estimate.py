import itertools
from typing import Any

import pytest

from cluster.planning.estimate import active_parameters, by_reference, histogram, label_estimate, share_at
from cluster.planning.model import Histogram, LabelStorage, ReplicaThroughput
from cluster.planning.plan_text import budget_line, histogram_lines, size
from pipelines.config import TeacherConfig
from tests.support.corpora import run_config
from tests.support.planned_runs import QWEN_7B

FIT = "of 1,000 rows will be labelled; raise teacher.budget."
VLLM = {"engine": "vllm", "model": "some/model"}
PRICE = {"per_million_prompt_tokens": 1.0, "per_million_output_tokens": 10.0}
QWEN_1_5B = {
    "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_hidden_layers": 28,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
SMOLLM_135M = {
    "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_hidden_layers": 30,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True, "head_dim": 64,
}  # fmt: skip
QWEN_30B_A3B = {
    "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts_per_tok": 8,
    "num_attention_heads": 32, "head_dim": 128, "num_hidden_layers": 48, "num_key_value_heads": 4, "vocab_size": 151936,
}  # fmt: skip


def rate(basis: str = "reference", **rates: float) -> ReplicaThroughput:
    return ReplicaThroughput.model_validate({"basis": basis, "source": "there", **rates})


def a_teacher(**settings: Any) -> TeacherConfig:
    return run_config({**VLLM, **settings}).teacher


@pytest.mark.parametrize(
    ("config", "published"),
    [(QWEN_1_5B, 1.54e9), (QWEN_7B, 7.61e9), (SMOLLM_135M, 134.5e6), (QWEN_30B_A3B, 3.3e9), ({"text_config": QWEN_7B}, 7.61e9),
     ({}, None), ({"d_model": 768, "num_layers": 12}, None), ({**QWEN_7B, "is_encoder_decoder": True}, None)],
)  # fmt: skip
def test_parameters_match_the_model_cards(config: dict[str, Any], published: float | None) -> None:
    assert active_parameters(config) == (published and pytest.approx(published, rel=0.03))


@pytest.mark.parametrize(
    ("config", "gpus", "task", "tokens_per_s", "source"),
    [
        (QWEN_7B, 1, "arithmetic", 20_639 * 1.54 / 7.61, "one NVIDIA H100 80GB, times 0.2 (1,540M / 7,6"),
        (QWEN_7B, 4, "arithmetic", 4 * 20_639 * 1.54 / 7.61, "times 4 GPUs"),
        (QWEN_1_5B, 1, "nli", 18_584, "Qwen2.5-Coder-1.5B-Instruct"),
        (QWEN_1_5B, 0, "nli", 288 * 134.5 / 1540, "2 CPU cores"),
        (SMOLLM_135M, 0, "nli", 288, "SmolLM2-135M-Instruct, vLLM 0.29 on 2 CPU cores"),
    ],
)
def test_a_guess_scales_a_reference(config: Any, gpus: int, task: str, tokens_per_s: float, source: str) -> None:
    found = by_reference(config, a_teacher(gpus_per_replica=gpus), task)
    assert (found.basis, found.rows_per_s, found.engine_start_s) == ("reference", None, 38.0 if gpus else 22.0)
    assert found.output_tokens_per_s == pytest.approx(tokens_per_s, rel=0.03)
    assert found.source.startswith("a rough guess: ")
    assert source in found.source


@pytest.mark.parametrize(
    ("config", "teacher", "why"),
    [
        (None, {}, "unknown for some/model (its config.json is not on this machine): use --calibrate"),
        ({"d_model": 1}, {}, "unknown for some/model (its architecture is unknown): use --calibrate"),
        (None, {"engine": "openai", "remote": {"url": "http://x/v1"}}, "unknown for engine openai: use --calibrate"),
        (None, {"engine": "echo", "model": None}, "unknown for engine echo: use --calibrate"),
    ],
)
def test_unknown_throughput_names_the_reason(config: Any, teacher: dict[str, Any], why: str) -> None:
    found = by_reference(config, a_teacher(**teacher), "arithmetic")
    assert (found.basis, found.rows_per_s, found.output_tokens_per_s) == ("unknown", None, None)
    assert found.source.startswith(why)


def test_rows_decide_time_hours_and_cost() -> None:
    """10,000 rows at 10 rows/s by each of 4 replicas with 2 GPUs: 250 s, and 50 s of engine start."""
    run = run_config({**VLLM, "gpus_per_replica": 2, "replicas": {"min": 1, "max": 4}, "price": {"per_gpu_hour": 3.0}})
    measured = rate(rows_per_s=10.0, output_tokens_per_row=40.0, engine_start_s=50.0, bytes_per_row=120.0)
    found = label_estimate(run, 10_000, 2_000_000, 100.0, measured)
    assert (found.output_tokens, found.output_assumption) == (400_000, "measured with the throughput")
    assert (found.seconds, found.gpu_hours) == (pytest.approx(300.0), pytest.approx(300 * 8 / 3600))
    assert found.cost.amount == pytest.approx(3 * 300 * 8 / 3600)
    assert found.storage_bytes.labels == 1_200_000
    run = run_config({**VLLM, "sampling": {"n": 4, "temperature": 1.0, "max_tokens": 100}, "token_logprobs": 5})
    found = label_estimate(run, 1000, 50_000, 200.0, rate(output_tokens_per_s=1000.0))
    assert (found.output_tokens, found.seconds) == (200_000, pytest.approx(200.0))
    assert found.output_assumption == "an assumption: 50% of sampling.n x max_tokens"
    assert (found.gpu_hours, found.cost, found.replica_hours) == (None, None, pytest.approx(200 / 3600))
    # One of four answers is kept: 50 tokens, 4 bytes of text each; a row has four numbers of 4 bytes.
    labels, logprobs = 1000 * (200 + 50 * 4 + 4 * 4), 1000 * 50 * (5 * 8 + 4)
    expected = LabelStorage(labels=labels, labels_how="before compression", texts=800_000, token_logprobs=logprobs)
    assert found.storage_bytes == expected
    run = run_config({**VLLM, "gpus_per_replica": 1, "price": PRICE})
    found = label_estimate(run, 1000, 2_000_000, 200.0, rate("unknown"))
    assert (found.seconds, found.replica_hours, found.gpu_hours, found.output_tokens) == (None, None, None, 128_000)
    assert found.cost.amount == pytest.approx(2.0 + 1.28)


@pytest.mark.parametrize(
    ("budget", "used", "line"),
    [
        ({}, 0, None),
        ({"money": 9.0}, 0, "cost 3.28 of a budget of 9.00: enough for all 1,000 rows"),
        ({"money": 3.28}, 0, "cost 3.28 of a budget of 3.28: enough for all 1,000 rows"),
        ({"money": 2.0}, 360_000, f"cost 3.28 of a budget of 2.00, of which 0.36 are used: about the first 500 {FIT}money for all"),
        ({"money": 0.05}, 60_000, f"cost 3.28 of a budget of 0.05, of which 0.06 are used: about the first 0 {FIT}money for all"),
        ({"money": 9.0, "tokens": 1_064_000}, 0, f"tokens 2,128,000 of a budget of 1,064,000: about the first 500 {FIT}tokens for all"),
    ],
)  # fmt: skip
def test_the_rows_that_fit_a_budget(budget: dict[str, float], used: int, line: str | None) -> None:
    run = run_config({**VLLM, "price": PRICE, "budget": budget})
    found = label_estimate(run, 1000, 2_000_000, 200.0, rate("unknown"), used=(used, 0, 0))
    assert (found.budget and budget_line(found.budget, 1000).removeprefix("budget      ")) == line


@pytest.mark.parametrize("lengths", [[5], [7, 7, 7], list(range(100)), [1, 1_000_000], [3, 900, 14, 14, 15, 16, 2047]])
def test_histogram_counts_every_length_once(lengths: list[int]) -> None:
    found = histogram(lengths, bins=12)
    edges, counts = found.edges, found.counts
    assert len(edges) == len(counts) + 1 <= 13
    assert counts == [sum(low <= n < high for n in lengths) for low, high in itertools.pairwise(edges)]
    assert sum(counts) == len(lengths)
    assert counts[0] > 0 < counts[-1]


def test_words_and_shares() -> None:
    lines = list(histogram_lines(Histogram(edges=[0, 5, 10, 15], counts=[1, 0, 80])))
    assert [line.strip() for line in lines] == ["0 to 4  █ 1", "5 to 9   0", "10 to 14  " + "█" * 40 + " 80"]
    assert [size(n) for n in (0, 171_000, 1_440_000, 23e9)] == ["0 kB", "171 kB", "1.4 MB", "23.0 GB"]
    assert [share_at(list(range(1, 101)), share) for share in (0.0, 0.5, 0.95, 1.0)] == [1, 50, 95, 100]
    assert share_at([7], 0.95) == 7
