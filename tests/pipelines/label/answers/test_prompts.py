import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import TeacherConfig
from pipelines.data.shots import MAX_SHOTS, read_shots
from pipelines.errors import UserError
from pipelines.label.answers.prompts import PromptMaker, prompt_text
from pipelines.tasks import Example, Shot, Task, load_task, task_spec

TASK = load_task(task_spec("arithmetic"))
CHOICE = load_task(task_spec("multiple-choice"))
EXAMPLE = Example("a", "Anne has 4 apples and gives Peter 1. How many has she left?", "4 - 1")
PLAIN = TeacherConfig(engine="echo")
CHAT = TeacherConfig(engine="vllm", model="m", prompt="chat", system="Be brief.")
SHOTS = (Shot("1 and 1?", "1 + 1 = 2. The answer is (1 + 1)."),)
LINE = {"question": "1 and 1?", "answer": "1 + 1 = 2. The answer is (1 + 1)."}
PLACES = "Where?\n(a) lake\n(b) moon"
CHOICE_LINE = {"question": PLACES, "answer": "The answer is (a)."}


def with_shots(tmp_path: Path, *lines: Any) -> TeacherConfig:
    """Settings with a file of these lines; what is no text is written as JSON."""
    file = tmp_path / "shots.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return TeacherConfig(engine="echo", shots=str(file))


def test_prompts_have_each_shot_and_end_in_the_question() -> None:
    prompt, chat = PromptMaker(TASK, PLAIN).render(EXAMPLE), PromptMaker(TASK, CHAT).render(EXAMPLE)
    assert prompt.text.endswith(f"Q: {EXAMPLE.input}\nA:")
    assert prompt.text.count("Q: ") == len(TASK.shots) + 1
    assert (prompt.messages, prompt_text(prompt), prompt.example) == ((), prompt.text, EXAMPLE)
    roles = [m["role"] for m in chat.messages]
    assert roles == ["system", *["user", "assistant"] * len(TASK.shots), "user"]
    assert chat.messages[0]["content"].startswith("Be brief.")
    assert chat.messages[-1]["content"] == EXAMPLE.input
    assert prompt_text(chat).endswith(f"[user]\n{EXAMPLE.input}")


@pytest.mark.parametrize("config", [PLAIN, CHAT], ids=["plain", "chat"])
def test_a_hint_is_added_to_the_last_question_alone(config: TeacherConfig) -> None:
    prompts = PromptMaker(TASK, config, SHOTS)
    without, with_hint = prompts.render(EXAMPLE), prompts.render(EXAMPLE, hint=True)
    question = f"{EXAMPLE.input}\n(The answer is 4 - 1.)"
    assert "4 - 1" not in without.text
    assert with_hint.text == without.text.replace(EXAMPLE.input, question)
    assert with_hint.messages[:-1] == without.messages[:-1]
    assert not with_hint.messages or with_hint.messages[-1] == {"role": "user", "content": question}


@pytest.mark.parametrize("config", [PLAIN, CHAT], ids=["plain", "chat"])
def test_shots_of_a_file_replace_the_tasks(config: TeacherConfig) -> None:
    own = PromptMaker(TASK, config, SHOTS)
    prompt = own.render(EXAMPLE)
    assert prompt.text == f"Q: 1 and 1?\nA: {SHOTS[0].answer}\n\nQ: {EXAMPLE.input}\nA:"
    answers = [m["content"] for m in prompt.messages if m["role"] == "assistant"]
    assert answers == [SHOTS[0].answer] * bool(prompt.messages)
    assert own.version != PromptMaker(TASK, config).version == TASK.prompt_version()
    assert pickle.loads(pickle.dumps(own)).render(EXAMPLE) == prompt  # noqa: S301


@pytest.mark.parametrize("task", ["arithmetic", "multiple-choice", "nli", "grade-school-math"])
def test_a_tasks_own_shots_may_stand_in_a_file(tmp_path: Path, task: str) -> None:
    own = load_task(task_spec(task))
    config = with_shots(tmp_path, *({"question": s.question, "answer": s.answer} for s in own.shots))
    assert read_shots(config, own) == tuple(own.shots)
    assert read_shots(with_shots(tmp_path, LINE, "", LINE), TASK) == SHOTS * 2
    assert read_shots(PLAIN, TASK) is None


@pytest.mark.parametrize(
    ("task", "line", "rule"),
    [
        (TASK, "nonsense", "not JSON"), (TASK, "[" * 100_000, "not JSON"), (TASK, [], "not an object"),
        (TASK, {"question": "1?"}, "not an object"),
        (TASK, {**LINE, "label": "2"}, "not an object"),
        (TASK, {**LINE, "question": ""}, "field `question` is empty"),
        (TASK, {**LINE, "answer": "\ud800"}, "field `answer` is not valid Unicode"),
        (TASK, {**LINE, "answer": "1 and 1 make two."}, "task arithmetic cannot read its answer"),
        (CHOICE, {**CHOICE_LINE, "question": "Where?"}, "its last lines must be the choices"),
        (CHOICE, {**CHOICE_LINE, "question": "(a) lake\n(b) moon"}, "its last lines must be"),
        (CHOICE, {**CHOICE_LINE, "question": "Where?\n(a) lake\n(c) moon"}, "its last lines"),
        (CHOICE, {**CHOICE_LINE, "answer": "The answer is (c)."}, "task multiple-choice"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_damaged_line_is_refused_with_its_number(tmp_path: Path, task: Task, line: Any, rule: str) -> None:
    good = CHOICE_LINE if task is CHOICE else LINE
    with pytest.raises(UserError) as error:
        read_shots(with_shots(tmp_path, good, line), task)
    assert f"line 2: {rule}" in str(error.value)


def test_a_missing_empty_or_long_file_is_refused(tmp_path: Path) -> None:
    for count in (0, MAX_SHOTS + 1):
        with pytest.raises(UserError, match=f"holds {count} examples"):
            read_shots(with_shots(tmp_path, *[LINE] * count), TASK)
    with pytest.raises(UserError, match="no such file"):
        read_shots(TeacherConfig(engine="echo", shots=str(tmp_path / "none.jsonl")), TASK)


def test_a_row_that_the_prompt_quotes_is_known() -> None:
    maker, shot = PromptMaker(TASK, TeacherConfig(engine="echo")), TASK.shots[0]
    assert maker.quotes(Example("a", shot.question, None))
    assert not maker.quotes(Example("a", f"{shot.question} Why?", None))
