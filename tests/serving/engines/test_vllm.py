"""vLLM's engine over a fake of it: health, labels, settings, and the death of its process."""

import asyncio
import importlib.util
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from pipelines.students.decoding import GenerationRequest, LabelSet
from pipelines.students.decoding.vllm_settings import sampling_parameters
from serving.engines import vllm as module
from serving.engines.vllm import engine_arguments
from serving.messages import TextRequest
from tests.support.fake_engines import vllm_engine
from tests.support.fake_students import card

# vLLM is imported in the tests: its import takes as long as all other imports of the suite.
NEEDS_VLLM = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
pytestmark = [pytest.mark.anyio, NEEDS_VLLM]
REQUEST = GenerationRequest("[label] 4 apples", 4)


async def cancelled_request(engine: module.VllmEngine) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await engine.complete(REQUEST)


async def test_an_unanswered_request_is_followed_by_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if its client has disconnected. An engine that owes nothing is not probed, nor is one that is only slow."""
    monkeypatch.setattr(module, "_PROBE_S", 0.2)
    engine, llm = vllm_engine(silent_after_s=0.0)
    for _ in range(2):
        await engine.check_health()  # at first one token
        assert len(llm.prompts) == 1
    llm.hold()
    await cancelled_request(engine)
    with pytest.raises(RuntimeError, match="does not answer a probe"):
        await engine.check_health()
    llm.release()
    for _ in range(2):
        await engine.check_health()  # one probe, then it is trusted again
        assert len(llm.prompts) == 4
    slow, llm = vllm_engine(silent_after_s=60.0)
    await slow.check_health()
    llm.hold()
    await cancelled_request(slow)
    await slow.check_health()
    assert len(llm.prompts) == 2


@pytest.mark.parametrize("error", ["EngineDeadError", "EngineGenerateError", "ValueError"])
async def test_it_is_healthy_after_its_first_token(error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM starts with models that it cannot compute. This process must not end for them again and again."""
    from vllm.v1.engine import exceptions

    engine, llm = vllm_engine()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_FIRST_TOKEN_S", 0.1)
        llm.hold()
        with pytest.raises(RuntimeError, match="has not generated a token after 100 ms"):
            await engine.check_health()
        llm.release()
    llm.error = getattr(exceptions, error, ValueError)()
    with pytest.raises(RuntimeError, match=r"fails at its first token.*serving\.engine: transformers"):
        await engine.check_health()
    llm.error = None
    for _ in range(2):
        await engine.check_health()
        assert len(llm.prompts) == 3


async def test_closed_labels_request_the_tokens_that_differ() -> None:
    from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS

    engine, llm = vllm_engine()
    end = llm.tokenizer.eos_token_id

    async def complete(*labels: tuple[int, ...]) -> tuple[Any, Any]:
        output = await engine.complete(replace(REQUEST, labels=LabelSet(labels) if labels else None))
        return output, (llm.parameters.logprobs, llm.parameters.logprob_token_ids)

    several, requested = await complete((5, end), (6, 7, end), (6, 8, end))
    assert requested == (4, [5, 6, 7, 8])
    assert several.label_log_prob == pytest.approx(-0.5 - math.log(math.exp(-0.5) + math.exp(-2.0)))
    free, requested = await complete()
    assert requested == (0, None)
    assert free == replace(several, label_log_prob=None)
    only, requested = await complete((5, end))
    assert (requested, only.label_log_prob) == ((0, None), 0.0)
    too_many, requested = await complete(*((token, end) for token in range(5, 5 + MAX_LOGPROB_TOKEN_IDS + 1)))
    assert len(requested[1]) <= MAX_LOGPROB_TOKEN_IDS, "two requests for one token each"
    total = math.exp(-0.5) + MAX_LOGPROB_TOKEN_IDS * math.exp(-2.0)
    assert too_many.label_log_prob == pytest.approx(-0.5 - math.log(total))
    assert too_many.ids == several.ids


def test_old_versions_are_not_asked_for_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    request = GenerationRequest("a", 4, labels=LabelSet(((5, 2), (6, 2))))
    assert sampling_parameters(request, "DELTA").logprob_token_ids == [5, 6]
    monkeypatch.setattr("vllm.SamplingParams", lambda **given: SimpleNamespace(**given))
    old = sampling_parameters(request, "DELTA")
    assert (old.logprobs, hasattr(old, "logprob_token_ids")) == (0, False)


@pytest.mark.parametrize(("students", "share"), [(None, 0.85), (1, 0.85), (2, 0.425), (4, 0.2125)])
def test_students_of_a_replica_share_its_gpu(students: int | None, share: float) -> None:
    """Each engine takes its part at the start: after one that took all, the next could not start."""
    from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS

    serving = ServingConfig(gpus_per_replica=1, students_per_replica=students)
    arguments = engine_arguments(card("sums", family="decoder-only"), serving, "folder")
    assert arguments.gpu_memory_utilization == pytest.approx(share)
    assert (arguments.max_logprobs, arguments.logprobs_mode) == (MAX_LOGPROB_TOKEN_IDS, "raw_logprobs")
    assert (arguments.load_format, arguments.generation_config) == ("safetensors", "vllm")


def test_engine_args_and_several_gpus_reach_vllm() -> None:
    def arguments(**settings: Any) -> Any:
        return engine_arguments(card("sums", family="decoder-only"), ServingConfig(**settings), "folder")

    several = arguments(gpus_per_replica=4, engine_args={"kv_cache_dtype": "fp8"})
    assert (several.tensor_parallel_size, several.distributed_executor_backend) == (4, "mp")
    assert several.kv_cache_dtype == "fp8"
    assert arguments(engine_args={"block_size": 64}).block_size == 64
    for given, match in [
        ({"model": "other"}, "engine_args.model: other settings"), ({"tensor_parallel_size": 2}, "other settings"),
        ({"kv_cache_dtypes": "fp8"}, "vLLM has no such argument. Set kv_cache_dtype"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=match):
            arguments(engine_args=given)


class ProcessEnds(BaseException):
    """Instead of the end of this process."""


async def test_the_process_ends_with_its_engine(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """The ingress then calls another replica, and Serve starts a new one: no errors 500 until a health check."""
    from vllm.v1.engine.exceptions import EngineDeadError

    monkeypatch.setattr(module.os, "_exit", Mock(side_effect=ProcessEnds))
    engine, llm = vllm_engine()
    await engine.check_health()
    llm.error = EngineDeadError()
    request = TextRequest("4 apples", raw=False)
    for call in (engine.complete(REQUEST), engine.write(request), engine.check_health()):
        with pytest.raises(ProcessEnds):
            await call
    module.os._exit.assert_called_with(1)  # type: ignore[attr-defined]
    assert "engine has died" in capfd.readouterr().err
    await engine.close()
    assert llm.shut_down
    with pytest.raises(EngineDeadError):
        await engine.check_health()
