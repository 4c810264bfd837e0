from pathlib import Path

import pytest

from pipelines.config import TeacherConfig
from pipelines.errors import UserError
from pipelines.label.answers.prompts import PromptMaker
from pipelines.label.teachers.base import Generation, PromptRefusedError, Sample
from pipelines.label.teachers.echo import EchoTeacher, latency
from pipelines.label.teachers.replay import ReplayTeacher
from pipelines.tasks import Example, load_task, task_spec
from tests.support.teachers import answers, word_problems


@pytest.mark.parametrize(
    ("name", "gold", "choices"),
    [("arithmetic", "7 - 2", ()), ("multiple-choice", "bank", ("bank", "park")), ("nli", "neutral", ())],
)
def test_an_echo_is_parsed_as_the_gold_label(name: str, gold: str, choices: tuple[str, ...]) -> None:
    task, config = load_task(task_spec(name)), TeacherConfig(engine="echo")
    example = Example("a", "text", gold, choices)
    [generation] = answers(EchoTeacher(config, task), [PromptMaker(task, config).render(example)])
    assert task.same(task.parse(generation.samples[0].text, example).label, gold, example)


def test_latencies_have_their_mean_and_an_end() -> None:
    config = TeacherConfig(engine="echo", latency_s=2.0, latency_tail=1.5)
    drawn = [latency(config, f"r{i}") for i in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(2.0, rel=0.2)
    assert max(drawn) == 40.0
    assert drawn[7] == latency(config, "r7"), "drawn by the id"
    assert latency(TeacherConfig(engine="echo", latency_s=2.0), "r7") == 2.0


def test_a_recording_answers_by_id(tmp_path: Path) -> None:
    file = tmp_path / "outputs.jsonl"
    first = '{"id": "r0", "output": "The answer is 3.", "output_tokens": 4, "prompt_tokens": 9}'
    file.write_text(f'{first}\n\n{{"id": "r0", "output": "later"}}\n')
    file.write_text(file.read_text() + '{"id": "r2", "output": "\\ud83d\\ude00 \\ud83d 3"}\n')
    found, missing, halves = answers(ReplayTeacher(str(file)), word_problems(3))
    assert halves.samples[0].text == "\U0001f600 \ufffd 3", "half a character, which no file can hold"
    assert found == Generation((Sample("The answer is 3.", 4, "unknown"),), 9)
    assert (type(missing), missing.reason) == (PromptRefusedError, "unparsable")


@pytest.mark.parametrize(
    "line",
    ["", "nonsense", "[]", '{"id": "a"}', '{"id": "a", "output": 3}', '{"id": [], "output": "x"}', None,
     '{"id": "a", "output": "x", "output_tokens": Infinity}', '{"id": "a", "output": "x", "output_tokens": 3e9}'],
)  # fmt: skip
def test_a_damaged_or_missing_recording_is_refused(tmp_path: Path, line: str | None) -> None:
    file = tmp_path / "outputs.jsonl"
    if line is not None:
        file.write_text(line + "\n")
    with pytest.raises(UserError, match="no such file" if line is None else "outputs"):
        ReplayTeacher(str(file))
