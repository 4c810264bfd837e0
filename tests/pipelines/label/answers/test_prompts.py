from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import RunConfig, TeacherConfig
from pipelines.errors import UserError
from pipelines.label.answers.prompts import MAX_SHOTS, PromptMaker, read_shots
from pipelines.label.stage import check_label, label_identity
from pipelines.tasks import Example, Shot, Task, load_task, task_spec

TASK = load_task(task_spec("arithmetic"))
CHOICE = load_task(task_spec("multiple-choice"))
EXAMPLE = Example("a", "Anne has 4 apples and gives Peter 1. How many has she left?", "4 - 1")
PLAIN = TeacherConfig(engine="echo")
CHAT = TeacherConfig(engine="vllm", model="m", prompt="chat", system="Be brief.")
SHOTS = (Shot("1 and 1?", "1 + 1 = 2. The answer is (1 + 1)."),)
LINE = {"question": "1 and 1?", "answer": "1 + 1 = 2. The answer is (1 + 1)."}


def written(tmp_path: Path, *lines: Any) -> TeacherConfig:
    file = tmp_path / "shots.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return TeacherConfig(engine="echo", shots=str(file))


def test_a_plain_prompt_holds_shots_and_question_once() -> None:
    prompt = PromptMaker(TASK, PLAIN).render(EXAMPLE)
    assert prompt.text.endswith(f"Q: {EXAMPLE.input}\nA:")
    assert prompt.text.count("Q: ") == len(TASK.shots) + 1
    assert prompt.messages == ()
    assert prompt.example is EXAMPLE


def test_a_chat_prompt_has_system_message_shots_and_question_in_turns() -> None:
    chat = PromptMaker(TASK, CHAT).render(EXAMPLE)
    assert chat.messages[0]["role"] == "system"
    assert chat.messages[0]["content"].startswith("Be brief.")
    assert [m["role"] for m in chat.messages[1:]] == ["user", "assistant"] * len(TASK.shots) + ["user"]
    assert chat.messages[-1]["content"] == EXAMPLE.input


@pytest.mark.parametrize("config", [PLAIN, CHAT], ids=["plain", "chat"])
def test_a_hint_stands_after_the_last_question_and_changes_nothing_else(config: TeacherConfig) -> None:
    prompts = PromptMaker(TASK, config)
    without, with_hint = prompts.render(EXAMPLE), prompts.render(EXAMPLE, hint=True)
    asked = f"{EXAMPLE.input}\n(The answer is 4 - 1.)"
    assert with_hint.text == f"{without.text.removesuffix(f'{EXAMPLE.input}{chr(10)}A:')}{asked}\nA:"
    assert with_hint.messages[:-1] == without.messages[:-1]
    if with_hint.messages:
        assert with_hint.messages[-1] == {"role": "user", "content": asked}


def test_the_hint_is_in_no_first_prompt() -> None:
    assert "4 - 1" not in PromptMaker(TASK, PLAIN, SHOTS).render(EXAMPLE).text


@pytest.mark.parametrize("config", [PLAIN, CHAT], ids=["plain", "chat"])
def test_shots_of_a_file_stand_instead_of_the_tasks(config: TeacherConfig) -> None:
    own = PromptMaker(TASK, config, SHOTS)
    prompt = own.render(EXAMPLE)
    assert prompt.text == f"Q: 1 and 1?\nA: {SHOTS[0].answer}\n\nQ: {EXAMPLE.input}\nA:"
    assert [m["content"] for m in prompt.messages if m["role"] == "assistant"] == [SHOTS[0].answer] * bool(
        prompt.messages
    )
    assert own.version != PromptMaker(TASK, config).version == TASK.prompt_version()


def test_it_travels() -> None:
    prompts = PromptMaker(TASK, CHAT, SHOTS)
    before = prompts.render(EXAMPLE)
    assert pickle.loads(pickle.dumps(prompts)).render(EXAMPLE) == before  # noqa: S301 - our own object


def test_shots_are_read(tmp_path: Path) -> None:
    assert read_shots(written(tmp_path, LINE, "", LINE), TASK) == SHOTS * 2
    assert read_shots(PLAIN, TASK) is None


def test_shots_of_multiple_choice_have_their_choices(tmp_path: Path) -> None:
    question = "Where?\n(a) lake\n(b) moon"
    config = written(tmp_path, {"question": question, "answer": "Wet. So the answer is (a) lake."})
    assert read_shots(config, CHOICE) == (Shot(question, "Wet. So the answer is (a) lake."),)


@pytest.mark.parametrize("task", ["arithmetic", "multiple-choice", "nli", "grade-school-math"])
def test_a_tasks_own_shots_can_stand_in_a_file(tmp_path: Path, task: str) -> None:
    own = load_task(task_spec(task))
    config = written(tmp_path, *({"question": s.question, "answer": s.answer} for s in own.shots))
    assert read_shots(config, own) == tuple(own.shots)


@pytest.mark.parametrize(
    ("task", "line", "rule"),
    [
        (TASK, "nonsense", "line 2: not JSON"),
        (TASK, "[" * 100_000, "line 2: not JSON"),
        (TASK, [], "line 2: not an object"),
        (TASK, {"question": "1?"}, "line 2: not an object"),
        (TASK, {**LINE, "label": "2"}, "line 2: not an object"),
        (TASK, {**LINE, "question": ""}, "line 2: field `question` is empty"),
        (TASK, {**LINE, "question": None}, "line 2: field `question` is missing"),
        (TASK, {**LINE, "answer": ["2"]}, "line 2: field `answer` is a list"),
        (TASK, {**LINE, "answer": "\ud800"}, "line 2: field `answer` is not valid Unicode"),
        (TASK, {**LINE, "answer": "1 and 1 make two."}, "line 2: task arithmetic cannot read its answer"),
        (
            CHOICE,
            {"question": "Where?", "answer": "The answer is (a) lake."},
            "line 2: its last lines must be the choices",
        ),
        (CHOICE, {"question": "(a) lake\n(b) moon", "answer": "The answer is (a)."}, "line 2: its last lines must be"),
        (CHOICE, {"question": "Where?\n(a) lake\n(c) moon", "answer": "The answer is (a)."}, "line 2: its last lines"),
        (
            CHOICE,
            {"question": "Where?\n(a) lake\n(b) moon", "answer": "The answer is (c)."},
            "line 2: task multiple-choice",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_damaged_line_is_refused_with_its_number(tmp_path: Path, task: Task, line: Any, rule: str) -> None:
    good = {"question": "Where?\n(a) lake\n(b) moon", "answer": "The answer is (a)."} if task is CHOICE else LINE
    with pytest.raises(UserError) as error:
        read_shots(written(tmp_path, good, line), task)
    assert rule in str(error.value)


@pytest.mark.parametrize("count", [0, MAX_SHOTS + 1])
def test_none_or_too_many_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(UserError, match=f"holds {count} examples"):
        read_shots(written(tmp_path, *[LINE] * count), TASK)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_shots(TeacherConfig(engine="echo", shots=str(tmp_path / "none.jsonl")), TASK)


def test_shots_are_part_of_the_identity_and_checked_before_anything_starts(tmp_path: Path) -> None:
    corpus = tmp_path / "train.jsonl"
    corpus.write_text(json.dumps({"id": "a", "input": "Anne has 4 apples.", "label": "4"}) + "\n")

    def run(teacher: TeacherConfig) -> RunConfig:
        return RunConfig.model_validate(
            {"name": "r", "output": str(tmp_path / "out"), "task": "arithmetic", "corpus": {"train": str(corpus)},
             "teacher": teacher, "student": {"model": "m"}})  # fmt: skip

    identities = [label_identity(run(PLAIN)), label_identity(run(written(tmp_path, LINE)))]
    identities.append(label_identity(run(written(tmp_path, LINE, LINE))))
    assert len({str(identity["teacher"]["shots"]) for identity in identities}) == 3
    check_label(run(written(tmp_path, LINE)))
    with pytest.raises(UserError, match="line 1"):
        check_label(run(written(tmp_path, "nonsense")))


def test_which_rows_are_never_rationalised_is_part_of_the_identity_only_where_any_are(tmp_path: Path) -> None:
    corpus = tmp_path / "train.jsonl"
    corpus.write_text(json.dumps({"id": "a", "input": "Anne has 4 apples.", "label": "4"}) + "\n")

    def identity(gold: str, validation: float) -> dict[str, Any]:
        return label_identity(RunConfig.model_validate(
            {"name": "r", "output": str(tmp_path / "out"), "task": "arithmetic", "student": {"model": "m"},
             "corpus": {"train": str(corpus), "validation": validation},
             "teacher": {"engine": "echo", "filters": {"gold": gold}}}))  # fmt: skip

    assert identity("keep", 0.1) == identity("keep", 0.2)
    assert "never_rationalised" not in identity("drop-disagreeing", 0.1)
    assert identity("rationalise", 0.1)["never_rationalised"] == 0.1
    assert identity("rationalise", 0.1) != identity("rationalise", 0.2)
