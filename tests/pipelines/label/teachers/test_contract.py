"""The contract of every registered teacher (label/teachers/base.py)."""

import pickle
from pathlib import Path
from typing import get_args

import pytest
from pydantic import SecretStr

from pipelines.config import TeacherConfig
from pipelines.data.schema import REJECT_REASONS
from pipelines.label.engines.actor import TeacherSetup
from pipelines.label.teachers.base import Access, Generation, Prompt, PromptRefusedError
from pipelines.label.teachers.registry import TEACHERS, teacher_class
from pipelines.tasks import Example, task_spec
from tests.support.corpora import run_config
from tests.support.teacher_endpoint import KEY, Endpoint, error
from tests.support.teachers import TASK, UpperTeacher, answers, started, teacher_config, word_problems


@pytest.fixture(params=TEACHERS)
def config(request: pytest.FixtureRequest, tmp_path: Path, endpoint: Endpoint) -> TeacherConfig:
    endpoint.behaviour = lambda seen, _: error(400, "no") if seen.question == "unanswerable" else None
    return teacher_config(request.param, tmp_path, endpoint)


def test_every_prompt_gets_its_own_samples(config: TeacherConfig) -> None:
    found = answers(started(config), word_problems(20))
    assert [type(generation) for generation in found] == [Generation] * 20
    samples = [sample for generation in found if isinstance(generation, Generation) for sample in generation.samples]
    assert len(samples) == len({sample.text for sample in samples}) == 20 * config.sampling.n
    assert all(sample.tokens >= 0 and sample.finish_reason for sample in samples)


def test_a_refused_prompt_stops_no_other(config: TeacherConfig) -> None:
    long = " word" * 20 if config.engine == "vllm" else ""
    bad = Prompt(Example("unknown", "", None), f"unanswerable{long}")
    first, refused, last = answers(started(config), [*word_problems(1), bad, *word_problems(1)])
    assert type(first) is type(last) is Generation
    assert type(refused) is (Generation if config.engine == "echo" else PromptRefusedError)
    assert getattr(refused, "reason", "unparsable") in REJECT_REASONS


def test_the_driver_learns_what_it_needs(config: TeacherConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    kind = teacher_class(config.engine)
    kind.check(config)
    assert kind.model_identity(config) == config.model
    load = kind.load(config)
    assert load is None or 0 < load.batch_rows <= load.rows_in_engine
    assert (kind.key(config) is not None) == (config.engine == "openai")
    assert (kind.dtype(config) is not None) == (config.engine == "vllm")


def test_a_setup_travels_with_its_key_and_shows_it_nowhere(config: TeacherConfig) -> None:
    access = Access(SecretStr(KEY), (1, 2))
    setup = TeacherSetup(run_config(config.model_dump()), task_spec("arithmetic"), 4, access=access)
    again = pickle.loads(pickle.dumps(setup))  # noqa: S301
    assert again == setup
    assert again.access.key.get_secret_value() == KEY
    assert KEY not in f"{again} {again!r} {vars(again)}"


def test_a_further_teacher_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(TEACHERS) == set(get_args(TeacherConfig.model_fields["engine"].annotation)), "those of the run file"
    monkeypatch.setitem(TEACHERS, "echo", "tests.support.teachers:UpperTeacher")
    config = TeacherConfig(engine="echo")
    kind = teacher_class(config.engine)
    kind.check(config)
    assert (kind, kind.load(config), kind.key(config), kind.dtype(config)) == (UpperTeacher, None, None, None)
    [answer] = answers(kind.start(config, TASK, Access()), word_problems(1))
    assert answer.samples[0].text == "ANNE HAS 0 APPLES. HOW MANY? A:"
