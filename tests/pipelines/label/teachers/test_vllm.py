"""The vLLM teacher around a stand-in for the engine. The real one: tests/integration/test_vllm_teacher.py."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.config import TeacherConfig
from pipelines.errors import UserError
from pipelines.label.engines.placement import replica_arguments, replica_bundles
from pipelines.label.teachers import vllm
from pipelines.label.teachers.base import EngineDeadError, Prompt, PromptRefusedError, TeacherUnusableError
from pipelines.label.teachers.vllm import VllmTeacher, check_engine_args, engine_arguments
from pipelines.runtime.compat.vllm import engine_dead_error
from tests.support.fake_vllm import FakeEngine, WordTokenizer
from tests.support.teachers import TASK, answers, word_problems


def config(**settings: Any) -> TeacherConfig:
    return TeacherConfig.model_validate({"engine": "vllm", "model": "some/model", **settings})


@pytest.mark.parametrize(
    ("dtype", "gpus", "knows_bf16", "expected"),
    [("auto", 0, True, "bfloat16"), ("auto", 0, False, "float32"), ("auto", 1, False, "bfloat16"),
     ("bfloat16", 0, False, "bfloat16"), ("float32", 1, True, "float32")],
)  # fmt: skip
def test_dtype_suits_the_hardware_and_is_reported(
    dtype: str, gpus: int, knows_bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "computes_bf16", lambda: knows_bf16)
    settings = config(gpus_per_replica=gpus, vllm={"dtype": dtype})
    assert vllm.engine_arguments(settings)["dtype"] == expected
    assert VllmTeacher.dtype(settings) == expected


@pytest.mark.parametrize(
    ("engine", "error", "message"),
    [
        (lambda: FakeEngine(engine_dead_error()()), EngineDeadError, "EngineCore"),
        (lambda: FakeEngine(ValueError("no such token")), PromptRefusedError, "engine_error: no such token"),
        (lambda: FakeEngine(silent=True), PromptRefusedError, "engine_error: the engine returned nothing"),
    ],
    ids=["dead", "refused", "silent"],
)
def test_failures_of_the_engine_have_their_errors(engine: Any, error: type[Exception], message: str) -> None:
    [found] = answers(VllmTeacher(config(), TASK, engine()), word_problems(1))
    assert isinstance(found, error)
    assert message in str(found)


@pytest.mark.parametrize(("prompt", "stops"), [("plain", list(TASK.stops)), ("chat", [])])
def test_requests_follow_the_run_file(prompt: str, stops: list[str]) -> None:
    engine = FakeEngine()
    further = {"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1}
    sampling = {"n": 3, "temperature": 0.7, "top_p": 0.9, "max_tokens": 30, "seed": 5, **further}
    teacher = VllmTeacher(config(prompt=prompt, sampling=sampling), TASK, engine)
    [first, _] = answers(teacher, word_problems(2))
    assert len(first.samples) == 3
    one, two = engine.parameters
    assert one.seed != two.seed, "rows do not share draws"
    assert (one.n, one.temperature, one.top_p, one.max_tokens) == (3, 0.7, 0.9, 30)
    assert ((one.stop or []), {name: getattr(one, name) for name in further}) == (stops, further)
    sampling = {"temperature": 0.7, "seed": None, "stop": ["END"]}
    answers(VllmTeacher(config(prompt=prompt, sampling=sampling), TASK, engine), word_problems(1))
    assert (engine.parameters[-1].stop, engine.parameters[-1].seed) == (["END"], None)


def test_engine_arguments_pass_through_and_are_checked() -> None:
    settings = config(vllm={"max_model_len": 16, "engine_args": {"quantisation": "fp8"}})
    assert engine_arguments(settings)["quantisation"] == "fp8"
    with pytest.raises(TeacherUnusableError, match=r"engine_args.quantisation: .*Did you mean quantization"):
        check_engine_args(settings, ["quantization", "model"])
    with pytest.raises(UserError, match=r"engine_args.seed: .*Set teacher.sampling.seed"):
        VllmTeacher.check(config(vllm={"engine_args": {"seed": 1}}))
    with pytest.raises(UserError, match=r"max_model_len 64 less sampling.max_tokens 64 leaves 0 tokens for the prompt"):
        VllmTeacher.check(config(vllm={"max_model_len": 64}, sampling={"max_tokens": 64}))


def test_plain_prompts_for_a_chat_model_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert "Set teacher.prompt: chat" in str(VllmTeacher.notice(config(model=str(tmp_path))))
    for chosen in ("chat", "plain"):
        assert VllmTeacher.notice(config(model=str(tmp_path), prompt=chosen)) is None


@pytest.mark.parametrize(("opening", "ends"), [("<think>", False), ("<think> </think>", True)])
def test_a_template_that_opens_a_thought_is_seen(opening: str, ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WordTokenizer, "apply_chat_template", lambda *_, **options: f"How many? {opening}")
    monkeypatch.setattr(WordTokenizer, "decode", lambda *_, **options: "The answer is (9 + 9).")
    messages = ({"role": "user", "content": "How many?"},)
    prompts = [Prompt(prompt.example, prompt.text, messages) for prompt in word_problems(1)]
    [found] = answers(VllmTeacher(config(prompt="chat", sampling={"max_tokens": 4}), TASK, FakeEngine()), prompts)
    assert found.samples[0].thoughts_end is ends
    assert ("(9 + 9)" in found.samples[0].text) is ends


def test_replicas_may_span_nodes_and_need_resources() -> None:
    several = config(gpus_per_replica=16, pipeline_parallel=2, accelerator_type="H100", resources={"rack": 1.0})
    expected = {"tensor_parallel_size": 8, "pipeline_parallel_size": 2, "distributed_executor_backend": "ray"}
    assert engine_arguments(several).items() >= expected.items()
    first, *others = replica_bundles(several)
    assert first == {"GPU": 1.0, "CPU": 1.0, "rack": 1.0, "accelerator_type:H100": 0.001}
    assert others == [{"GPU": 1.0, "CPU": 1.0, "accelerator_type:H100": 0.001}] * 15
    arguments = replica_arguments(several, "group")
    assert (arguments["num_gpus"], arguments["ray_remote_args_fn"].args[0]) == (0, [first, *others])
    one = config(gpus_per_replica=8, accelerator_type="H100", resources={"rack": 1.0})
    expected = {"num_cpus": 1, "num_gpus": 8, "resources": {"rack": 1.0}, "accelerator_type": "H100"}
    assert replica_arguments(one, "group") == expected
    assert "distributed_executor_backend" not in engine_arguments(one)


@pytest.mark.parametrize(
    ("adapter", "rank"), [('{"r": 8}', 8), ('{"r": 20}', 32), ('{"r": 999}', None), ('{"r": "x"}', None), ("{", None)]
)
def test_an_adapter_answers_with_the_rank_that_it_has(tmp_path: Path, adapter: str, rank: int | None) -> None:
    (tmp_path / "adapter_config.json").write_text(adapter)
    settings = config(vllm={"lora": str(tmp_path)})
    if rank is None:
        with pytest.raises(UserError, match=r"teacher.vllm.lora"):
            engine_arguments(settings)
        return
    assert engine_arguments(settings).items() >= {"enable_lora": True, "max_lora_rank": rank}.items()
