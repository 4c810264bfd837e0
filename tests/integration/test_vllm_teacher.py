"""The vLLM teacher on one real engine: constrained form, soft labels, token log-probabilities."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.config import TeacherConfig
from pipelines.label.answers.outcomes import judge
from pipelines.label.answers.prompts import PromptMaker
from pipelines.label.teachers.base import Generation, PromptRefusedError, Sample
from pipelines.label.teachers.vllm import VllmTeacher
from pipelines.tasks import Example, Task, load_task, task_spec
from tests.support.corpora import shipped_rows

pytestmark = [pytest.mark.integration]

K = 5
# The greedy label is the most likely one. The engine's logits are bf16, so labels often tie. Other spellings of the second label (`C`
# beside `c`) can then put it slightly ahead.
TIE = 0.95
NLI = load_task(task_spec("nli"))
CHOICE = load_task(task_spec("multiple-choice"))
ARITHMETIC = load_task(task_spec("arithmetic"))
PAIRS = [NLI.read({**row, "gold": None}) for row in shipped_rows("nli_pairs/train", 6)]
PLACES = ["bank", "kitchen", "harbour", "forest", "school"]
QUESTIONS = [
    CHOICE.read({"id": f"q-{i}", "question": f"Where do you look for {thing}?", "choices": PLACES[: 2 + i % 4]})
    for i, thing in enumerate(["money", "a spoon", "a ship", "mushrooms", "a teacher"])
]


class Engine:
    def __init__(self, folder: Path) -> None:
        self.folder, self.runner = folder, asyncio.Runner()
        self.engine: Any = None
        self.runner.run(self._start())

    async def _start(self) -> None:
        self.engine = self.teacher(NLI, constrained=True, soft_labels="logprobs", token_logprobs=K).engine

    def teacher(self, task: Task, sampling: dict[str, Any] | None = None, **settings: Any) -> VllmTeacher:
        return VllmTeacher(self.config(sampling, **settings), task, self.engine)

    def config(self, sampling: dict[str, Any] | None = None, **settings: Any) -> TeacherConfig:
        tree = {"engine": "vllm", "model": str(self.folder), "sampling": {"max_tokens": 160, **(sampling or {})},
                "vllm": {"max_model_len": 1024, "max_num_seqs": 16}, **settings}  # fmt: skip
        return TeacherConfig.model_validate(tree)

    def ask(
        self, task: Task, examples: Sequence[Example], sampling: dict[str, Any] | None = None, **settings: Any
    ) -> list[Generation]:
        config = self.config(sampling, **settings)
        teacher = VllmTeacher(config, task, self.engine)

        async def answers() -> list[Generation]:
            return await asyncio.gather(*(teacher.answer(PromptMaker(task, config).render(e)) for e in examples))

        return self.runner.run(answers())


@pytest.fixture(scope="module")
def engine(teacher_folder: Path) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        for setting in ("VLLM_CPU_KVCACHE_SPACE=1", "VLLM_CPU_NUM_OF_RESERVED_CPU=0", "HF_HUB_OFFLINE=1"):
            patch.setenv(*setting.split("="))
        started = Engine(teacher_folder)
        yield started
        started.engine.shutdown()
        started.runner.close()


@pytest.mark.parametrize(
    ("task", "examples", "prompt"),
    [
        pytest.param(NLI, PAIRS, "plain", id="nli-plain"),
        pytest.param(CHOICE, QUESTIONS, "chat", id="multiple-choice-chat"),
        pytest.param(NLI, PAIRS, "chat", marks=pytest.mark.full, id="nli-chat"),
        pytest.param(CHOICE, QUESTIONS, "plain", marks=pytest.mark.full, id="multiple-choice-plain"),
    ],
)
def test_constrained_answers_agree_with_their_soft_labels(
    engine: Engine, task: Task, examples: list[Example], prompt: str
) -> None:
    settings = {"constrained": True, "soft_labels": "logprobs", "token_logprobs": K, "prompt": prompt}
    read = 0
    for example, generation in zip(examples, engine.ask(task, examples, **settings), strict=True):
        (sample,) = generation.samples
        check_logprobs(sample)
        if sample.finish_reason == "length":
            continue
        assert re.fullmatch(task.answer_pattern(example) or "", sample.text), sample.text
        row = judge("train", example, generation, task, engine.config(**settings).filters)
        assert row.reason is None, sample.text
        probabilities = dict(row.soft_label or ())
        assert set(probabilities) == set(task.label_set(example))
        assert sum(probabilities.values()) == pytest.approx(1.0)
        assert probabilities[row.label or ""] > TIE * max(probabilities.values()), (sample.text, probabilities)
        assert row.token_logprobs is not None
        read += 1
    assert read > len(examples) / 2


def check_logprobs(sample: Sample) -> None:
    """Shapes; likeliest first; the greedily sampled token is the likeliest; probabilities of a position add up to at most 1."""
    logprobs = sample.logprobs
    assert logprobs is not None
    assert logprobs.token_ids.shape == (sample.tokens,)
    assert logprobs.top_ids.shape == logprobs.top_logprobs.shape == (sample.tokens, K)
    values = logprobs.top_logprobs.astype(np.float64)
    assert (values[:, 1:] <= values[:, :-1]).all()
    best = np.where(logprobs.top_ids == logprobs.token_ids[:, None], logprobs.top_logprobs, -np.inf).max(axis=1)
    assert (best == logprobs.top_logprobs[:, 0]).all()
    assert (np.exp(values).sum(axis=1) <= 1.001).all()


def test_free_answers_have_logprobs_too(engine: Engine) -> None:
    text = "Anne has {} apples and gives Peter 2. How many has she left?"
    examples = [Example(f"w-{i}", text.format(i), None) for i in range(3, 7)]
    plain = engine.ask(ARITHMETIC, examples, {"max_tokens": 32})
    found = engine.ask(ARITHMETIC, examples, {"max_tokens": 32}, token_logprobs=K)
    for generation, without in zip(found, plain, strict=True):
        (sample,) = generation.samples
        check_logprobs(sample)
        assert without.samples[0].logprobs is None
        assert sample.logprobs is not None
        assert generation.prompt_tokens == without.prompt_tokens > 100
        spelled = engine.engine.get_tokenizer().decode(sample.logprobs.token_ids.tolist(), skip_special_tokens=True)
        assert spelled.startswith(sample.text)  # vLLM cuts the stop string off


def test_unconstrained_soft_labels_agree_with_greedy_answers(engine: Engine) -> None:
    found = 0
    generations = engine.ask(NLI, PAIRS, {"max_tokens": 64}, soft_labels="logprobs")
    for example, generation in zip(PAIRS, generations, strict=True):
        (sample,) = generation.samples
        assert sample.logprobs is None
        if sample.label_probabilities:
            found += 1
            label = NLI.parse(sample.text, example).label
            assert dict(sample.label_probabilities)[label] > TIE * sample.label_probabilities[0][1]
            assert sum(p for _, p in sample.label_probabilities) == pytest.approx(1.0)
    assert found > len(PAIRS) / 2


def test_samples_differ_and_their_soft_labels_are_averaged(engine: Engine) -> None:
    settings = {"constrained": True, "soft_labels": "logprobs", "token_logprobs": K}
    generations = engine.ask(NLI, PAIRS[:4], {"n": 3, "temperature": 0.7}, **settings)
    assert [len(generation.samples) for generation in generations] == [3] * 4
    assert any(len({sample.text for sample in generation.samples}) > 1 for generation in generations)
    rows = [judge("train", e, g, NLI, engine.config().filters) for e, g in zip(PAIRS, generations, strict=False)]
    answered = [row for row in rows if row.soft_label]
    assert len(answered) > 1
    for row in answered:
        assert sum(dict(row.soft_label).values()) == pytest.approx(1.0)
        assert set(dict(row.soft_label)) == set(NLI.labels)


@pytest.mark.parametrize("prompt", ["plain", "chat"])
def test_a_long_prompt_is_refused_and_the_next_one_answered(engine: Engine, prompt: str) -> None:
    long = Example("long", "apples " * 1000, None)
    with pytest.raises(PromptRefusedError) as refusal:
        engine.ask(ARITHMETIC, [long], {"max_tokens": 8}, prompt=prompt)
    assert refusal.value.reason == "too_long"
    assert engine.ask(ARITHMETIC, [Example("short", "What is 1 + 1?", None)], {"max_tokens": 8}, prompt=prompt)


def test_prompts_are_tokenised_as_the_tokenizer_does(engine: Engine) -> None:
    tokenizer = engine.engine.get_tokenizer()
    for task, example in ((NLI, PAIRS[0]), (CHOICE, QUESTIONS[0])):
        plain, chat = engine.config(), engine.config(prompt="chat", system="Be brief.")
        text = PromptMaker(task, plain).render(example)
        assert engine.teacher(task)._tokens(text) == (tokenizer(text.text)["input_ids"], False)
        messages = PromptMaker(task, chat).render(example)
        whole = tokenizer.apply_chat_template(list(messages.messages), add_generation_prompt=True, return_dict=False)
        assert engine.teacher(task)._tokens(messages) == (whole, False)
