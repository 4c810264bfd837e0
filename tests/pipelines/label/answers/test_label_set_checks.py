from typing import Any

import pytest

from pipelines.config import TeacherConfig
from pipelines.errors import UserError
from pipelines.label.answers.label_set_checks import check_closed_labels
from pipelines.tasks import load_task, task_spec


def teacher(**settings: Any) -> TeacherConfig:
    return TeacherConfig(engine="vllm", model="m", **settings)


@pytest.mark.parametrize("name", ["arithmetic", "grade-school-math", "classification"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [({"constrained": True}, "teacher.constrained: no effect"), ({"soft_labels": "logprobs"}, "teacher.soft_labels logprobs: ")],
)  # fmt: skip
def test_free_labels_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_closed_labels(teacher(**settings), load_task(task_spec(name)))


def test_closed_labels_are_accepted_if_they_can_be_parsed_back() -> None:
    for name in ("nli", "multiple-choice"):
        check_closed_labels(teacher(constrained=True, soft_labels="logprobs"), load_task(task_spec(name)))
    check_closed_labels(teacher(token_logprobs=5), load_task(task_spec("arithmetic")))
    task = load_task(task_spec("classification", {"labels": ["U. S. news", "sports"]}))
    check_closed_labels(teacher(soft_labels="logprobs"), task)
    with pytest.raises(UserError, match=r"label 'U. S. news': the parser reads"):
        check_closed_labels(teacher(constrained=True), task)
