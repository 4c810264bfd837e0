import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipelines.errors import BadRowError, UnparsableError, UserError
from pipelines.tasks import Answer, Example, Task, load_task, task_spec
from pipelines.tasks.nli import LABELS
from pipelines.tasks.registry import BUILT_IN
from tests.support.hostile_texts import PIECES
from tests.support.recorded_teachers import score_teacher

CHARACTERS = 100_000


@dataclass(frozen=True)
class Case:
    """A built-in task with a valid row and labels."""

    name: str
    row: dict[str, object]
    labels: tuple[str, ...]
    not_labels: tuple[object, ...]
    """Invalid gold labels."""
    options: dict[str, object] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        return load_task(task_spec(self.name, self.options))

    @property
    def example(self) -> Example:
        return self.task.read({"id": "a", **self.row})


CHOICES = ["bus depot", "beach", "u.s", "to defend itself.", "Dr. Smith", "sea", "sea shore", "not sure"]
MAIL = {
    "labels": ["spam", "not spam", "no reply"],
    "examples": [{"input": "Win now!", "rationale": "It promises a prize.", "label": "spam"}],
    "input_field": "message",
}
CASES = [
    Case("arithmetic", {"input": "Anne has 4 apples."}, ("4 - 1", "42"), ("four", "1 / 0", "nan", "9" * 50_000)),
    Case("multiple-choice", {"question": "Where?", "choices": CHOICES}, tuple(CHOICES), ("airport", "z")),
    Case("nli", {"premise": "P.", "hypothesis": "H."}, LABELS, (-1, 3, "-", "not entailment")),
    Case("grade-school-math", {"question": "How many?"}, ("3.5", "-72"), ("many", "9" * 10_000)),
    Case("classification", {"message": "Hello."}, ("spam", "not spam", "no reply"), ("ham", "spam or not spam"), MAIL),
    Case("classification", {"input": "France"}, ("Paris", "New York"), (), {"instruction": "Name the capital."}),
]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


def test_every_built_in_task_has_a_case() -> None:
    assert {case.name for case in CASES} == BUILT_IN.keys()


def test_gold_labels_are_optional_and_normalised(case: Case) -> None:
    assert case.example.gold is None
    for gold in (None, ""):
        assert case.task.read({"id": "a", **case.row, "gold": gold}) == case.example
    for label in case.labels:
        found = case.task.read({"id": "a", **case.row, "gold": f" {label} "})
        assert case.task.same(label, found.gold or "", case.example)


@pytest.mark.parametrize(
    "value", [None, "", "  ", ["text"], {"a": 1}, True, 3.5j, float("nan"), "x" * 100_001, "a\x00b", "\ud800"]
)
def test_invalid_fields_are_bad_rows(case: Case, value: object) -> None:
    golds = [*case.not_labels, *([] if value in (None, "", True) else [value])]
    for wrong in (*({name: value} for name in case.task.required), *({"gold": gold} for gold in golds)):
        with pytest.raises(BadRowError):
            case.task.read({"id": "a", **case.row, **wrong})


def test_rendered_answers_are_read_again_and_equal_no_other(case: Case) -> None:
    for label in case.labels:
        for answer in (Answer(label, "Because."), Answer(label, "")):
            for text in (case.task.render(answer), case.task.shown(answer, case.example)):
                assert case.task.parse(text, case.example) == answer
        for other in (*case.labels, "gibberish", ""):
            assert case.task.same(other, label, case.example) is (other == label)


def test_shots_give_no_label_away_and_options_are_checked(case: Case) -> None:
    for shot in case.task.shots:
        example = case.task.shot_example(shot.question)
        answer = case.task.parse(shot.answer, example)
        assert shot.answer == case.task.shown(answer, example)
        assert not answer.note
        assert not case.task.gives_away(answer, example)
    assert case.task.read({"id": "a", **case.task.sample()}).input
    with pytest.raises(UserError, match=r"task_options"):
        load_task(task_spec(case.name, {"colour": "red"}))


@pytest.mark.parametrize(
    "text",
    ["", "\x00", "x" * 1_000_000, "It is hard to say.", *("The answer is " + sign * 1_000_000 for sign in "9(-e")],
    ids=lambda text: ascii(text[:16]),
)
def test_text_without_an_answer_is_unparsable(case: Case, text: str) -> None:
    if case.example.choices == () and case.task.labels is None and case.name == "classification" and text[:3] == "The":
        return  # free text
    with pytest.raises(UnparsableError) as error:
        case.task.parse(text, case.example)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("name", "folder", "teacher", "examples", "right", "unparsable"),
    [
        ("arithmetic", "svamp", "palm-540b", 800, 0.745, 1.0), ("arithmetic", "svamp", "qwen2.5-coder-1.5b", 800, 0.63, 1.0),
        ("multiple-choice", "cqa", "palm-540b", 9741, 0.753, 0.032), ("multiple-choice", "cqa", "qwen2.5-coder-1.5b", 9741, 0.562, 0.032),
        ("grade-school-math", "gsm8k", "qwen2.5-coder-1.5b", 7473, 0.5, 1.0),
    ],
)  # fmt: skip
def test_recorded_teachers_are_read(
    test_data: Path, name: str, folder: str, teacher: str, examples: int, right: float, unparsable: float
) -> None:
    score = score_teacher(load_task(task_spec(name)), test_data / folder, teacher)
    assert score.examples == examples
    assert score.right >= right * examples
    assert score.unparsable < unparsable * examples


@pytest.mark.parametrize("piece", PIECES, ids=repr)
@pytest.mark.parametrize(("before", "after"), [("", ""), ("The answer is ", ", so it is 2.")])
def test_hostile_text_takes_less_than_a_second(case: Case, piece: str, before: str, after: str) -> None:
    task, example = case.task, case.example
    text = before + piece * (CHARACTERS // len(piece)) + after
    start = time.process_time()
    with contextlib.suppress(UnparsableError):
        task.parse(text, example)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    "piece", [*PIECES, "((((((((1 + ", "1)) * ", "2 a b c ", "= 1 + (", "a1 + ", "word ", "e's"], ids=repr
)
def test_hostile_rationales_take_linear_time(case: Case, piece: str) -> None:
    text, label, start = piece * (CHARACTERS // len(piece)), case.labels[0], time.process_time()
    case.task.leads_to(text, label, case.example)
    case.task.states(text, label, case.example)
    case.task.gives_away(Answer(label, text), case.example)
    assert time.process_time() - start < 5.0, "quadratic time would take minutes"
