import pytest

from pipelines import methods
from pipelines.config import StudentConfig
from pipelines.methods import METHODS, Method, TeacherTokens, TrainingRow, prompt_of, read_answer
from pipelines.tasks import Example
from pipelines.tasks.arithmetic import Arithmetic
from pipelines.train.loss_terms import PARTS, TERMS, term_weights

TEXT = "Anne has 4 apples and gives one away."
EXAMPLE = Example("a", TEXT, None)
TASK = Arithmetic()
ROW = TrainingRow(
    "a", TEXT, "4 - 1", "Anne gives 1 away.", [("4 - 1", 0.75), ("4 + 1", 0.25)], TeacherTokens([5], [[5]], [[0.0]])
)
WRITERS = {"step-by-step", "label-then-rationale", "rationale-then-label", "token-kd"}
NEEDY = {"rationale-then-label", "rationale-as-input", "token-kd"}
EMPTY = TrainingRow("a", TEXT, "4 - 1", "")


@pytest.mark.parametrize(("name", "method"), METHODS.items())
def test_every_method_keeps_the_contract(name: str, method: Method) -> None:
    targets = method.targets(ROW, TASK)
    assert targets
    for target in targets:
        assert TEXT in prompt_of(name, target.part, TEXT if target.input is None else target.input)
        assert (target.probability is not None) == method.compares_labels
        assert (target.text is None) == method.learns_teacher_tokens
    assert method.answer in {target.part for target in targets}
    assert any("rationale" in target.part or target.rationale or target.input for target in targets) == (
        method.separates_rationale or method.reads_rationale
    )
    assert method.targets(EMPTY, TASK) or method.remedy, "labels with nothing to learn are refused with a remedy"
    with pytest.raises(ValueError, match=f"method {name} trains no "):
        prompt_of(name, "text" if method.answer == "label" else "label", TEXT)
    weights = term_weights(StudentConfig(model="m", method=name, rationale_weight=0.3, soft_weight=0.2))
    assert list(weights) == list(method.terms)
    assert set(weights) <= set(TERMS)
    parts = {part for target in targets for part in (target.part, *(["rationale"] if target.rationale else []))}
    assert (parts, sum(weights.values())) == (set(method.terms) & set(PARTS), pytest.approx(1.0))
    assert (method.writes_rationales, method.needs_teacher_text) == (name in WRITERS, name in NEEDY)
    assert method.student_keys <= methods.METHOD_KEYS <= StudentConfig.model_fields.keys()
    assert (method.label_column is None) == (not method.learns), "a fixed label column is explained in an error"
    written = TASK.render(TASK.parse("Anne gives 1 away. The answer is (4 - 1).", EXAMPLE))
    read = read_answer(name, "(4 - 1)" if method.answer == "label" else written, TASK, EXAMPLE)
    assert (read.label, read.rationale) == ("4 - 1", "" if method.answer == "label" else "Anne gives 1 away.")
    assert read_answer(name, "no idea", TASK, EXAMPLE) is None


def test_prompts_of_both_parts() -> None:
    assert prompt_of("step-by-step", "label", TEXT) == f"[label] {TEXT}"
    assert prompt_of("step-by-step", "rationale", TEXT) == f"[rationale] {TEXT}"
    (target,) = METHODS["label-then-rationale"].targets(ROW, TASK)
    assert (target.text, target.rationale) == ("4 - 1", "Anne gives 1 away.")
    assert prompt_of("label-then-rationale", "rationale", TEXT) == prompt_of("finetune", "label", TEXT) == TEXT
    with pytest.raises(ValueError, match="writes the rationale after a label that it must learn; set it below 1"):
        StudentConfig(model="m", method="label-then-rationale", rationale_weight=1.0)


def test_a_rationale_follows_the_input() -> None:
    (target,) = METHODS["rationale-as-input"].targets(ROW, TASK)
    assert target.input == f"{TEXT} [rationale] Anne gives 1 away."
    readers = methods.rationale_readers
    assert readers() == readers(["finetune", "rationale-as-input"]) == ["rationale-as-input"]


def test_the_learned_label_comes_first_among_at_most_8() -> None:
    others = [(f"{i} + 1", 0.05 + i / 1000) for i in range(10)]
    row = TrainingRow("a", TEXT, "7 + 7", "", [*others, ("( 9 + 1 )", 0.1)])
    targets = METHODS["soft-label"].targets(row, TASK)
    assert len(targets) == methods.MAX_CANDIDATES
    assert [(t.text, t.probability, t.in_part_loss) for t in targets[:2]] == [
        ("7 + 7", 0.0, True), ("9 + 1", pytest.approx(0.159), False)
    ]  # fmt: skip
