import asyncio
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipelines.config import BudgetConfig, PriceConfig
from pipelines.data.reader import DataSplit
from pipelines.label.answers.outcomes import RATIONALISED, Outcome, outcome_table
from pipelines.label.engines.shared_budget import SharedBudget
from pipelines.label.output.spending import Spending, used_tokens
from pipelines.label.teachers import base
from pipelines.label.teachers.base import BudgetExhaustedError, Generation, Sample, TeacherUnusableError
from pipelines.label.teachers.budget import BudgetMeter
from pipelines.label.teachers.echo import EchoTeacher
from pipelines.storage.store import Store
from pipelines.tasks import Example
from tests.support.corpora import run_config
from tests.support.teacher_actors import FailingTeacher, HintedTeacher, LocalHealth, actor_of, block, label_apples

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.mark.parametrize("validation", [0.0, "v.jsonl"])
def test_a_wrong_answer_is_rationalised(validation: float | str) -> None:
    teacher = HintedTeacher()
    row = label_apples(teacher, "train", "rationalise", validation)
    assert (row.reason, row.label, row.note, row.agrees) == (None, "4 - 1", RATIONALISED, False)
    assert len(teacher.prompts) == 2
    assert all(text.startswith("Q: 1 and 1?\n") for text in teacher.prompts)
    too_long = label_apples(HintedTeacher(refuses_hints=True), "train", "rationalise", validation)
    assert (too_long.reason, too_long.output) == ("disagrees_with_gold", "4 + 1 = 5. The answer is 5.")


@pytest.mark.parametrize(
    ("split", "gold", "validation"),
    [("heldout", "rationalise", 0.1), ("train", "keep", 0.1), ("train", "rationalise", 1.0)],
)
def test_no_other_prompt_has_the_gold_label(split: DataSplit, gold: str, validation: float) -> None:
    teacher = HintedTeacher()
    label_apples(teacher, split, gold, validation)
    assert len(teacher.prompts) == 1
    assert "4 - 1" not in teacher.prompts[0]


@pytest.mark.parametrize(
    ("replicas", "gpus", "resources", "starts"),
    [
        (1, 0, {"CPU": 64.0}, 8), (1000, 0, {"CPU": 4000.0}, 1007), (1000, 0, {"CPU": 3.0}, 10),
        (64, 2, {"CPU": 16.0, "GPU": 4.0}, 9),
    ],
)  # fmt: skip
def test_engines_may_die_eight_times_before_an_answer(
    replicas: int, gpus: int, resources: dict[str, float], starts: int, cluster: dict[str, float]
) -> None:
    """All replicas that there is room for may start at the same time; 8 further starts are too many."""
    cluster |= resources
    teacher = {"engine": "echo", "gpus_per_replica": gpus, "replicas": {"min": replicas, "max": replicas}}
    health, run = LocalHealth(), run_config(teacher)

    async def start_all() -> None:
        for _ in range(starts):
            await actor_of(health, run)._ready()
        with pytest.raises(TeacherUnusableError, match="8 engines in a row died"):
            await actor_of(health, run)._ready()

    asyncio.run(start_all())


def test_a_suspect_is_alone_and_two_strikes_end_it() -> None:
    health = LocalHealth()
    for _ in range(2):
        health.health.died([("train", "poison")])
    health.health.died([("train", "suspect")])
    table = asyncio.run(actor_of(health)(block("a", "poison", "suspect")))
    assert table["id"].to_pylist() == ["a", "poison", "suspect"]
    assert table["reason"].to_pylist() == [None, "engine_error", None]
    assert "2 engines died while they had this row" in table["detail"].to_pylist()[1]
    assert table["node"].to_pylist() == ["here"] * 3


def test_stop_reasons_reach_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    health = LocalHealth()
    errors = iter([BudgetExhaustedError("used up"), TeacherUnusableError("a wrong key")])
    monkeypatch.setattr(EchoTeacher, "start", lambda *_: FailingTeacher(next(errors)))
    assert len(asyncio.run(actor_of(health)(block("a", "b")))) == 0, "skipped rows have no outcome"
    with pytest.raises(TeacherUnusableError):
        asyncio.run(actor_of(health)(block("a")))
    assert health.health.stop_reasons()[:3] == ("a wrong key", "", "used up")


@pytest.mark.parametrize("method", ["question", "parse", "key", "gives_away"])
def test_a_raising_task_rejects_its_row(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(f"pipelines.tasks.arithmetic.Arithmetic.{method}", fail, raising=False)
    gold = "rationalise" if method == "key" else "keep"
    teacher = HintedTeacher()
    row = label_apples(teacher, "train", gold, filters={"drop_giveaways": True})
    answers = len(teacher.prompts)
    assert (row.prompt_tokens or 0, row.output_tokens or 0) == (100 * answers, 5 * answers)
    assert row.reason == ("bad_input" if method == "question" else "unparsable")
    detail = str(row.detail).removeprefix("with the gold label as a hint: ")
    assert detail.startswith("the task raised IndexError: list index")
    assert "test_actor.py" in str(row.detail)
    assert outcome_table([row]).num_rows == 1


def test_an_unexpected_error_of_a_teacher_rejects_its_row() -> None:
    row = label_apples(FailingTeacher(KeyError("usage")), "train", "keep")
    assert (row.reason, str(row.detail).split(" (")[0]) == ("engine_error", "KeyError: 'usage'")


def test_the_cause_of_a_failed_start_reaches_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        raise RuntimeError("wrapped") from ValueError("max_model_len (100000) is greater than 8192")

    monkeypatch.setattr(HintedTeacher, "start", start)
    monkeypatch.setattr("pipelines.label.engines.actor.teacher_class", lambda _: HintedTeacher)
    health = LocalHealth()
    with pytest.raises(TeacherUnusableError, match="did not start"):
        asyncio.run(actor_of(health)(block("a", "b")))
    cause = "ValueError: max_model_len (100000) is greater than 8192. Lower teacher.vllm.max_model_len"
    assert health.health.stop.unusable == f"the teacher's engine did not start: {cause}"


def test_an_unexpected_error_names_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("pipelines.label.engines.actor.outcome_table", fail)
    health = LocalHealth()
    with pytest.raises(MemoryError):
        asyncio.run(actor_of(health)(block("a", "b")))
    assert health.health.stop.failed.startswith("MemoryError (")
    assert health.health.stop.failed.endswith("in the block with rows a to b")


class FrugalTeacher(HintedTeacher):
    """Uses 15 tokens a row, some time after it was queried."""

    async def answer(self, prompt: base.Prompt) -> Generation:
        await asyncio.sleep(0.01)
        return Generation((Sample("The answer is (4 - 1).", 5, "stop"),), 10)


@pytest.mark.parametrize("budget", [{"tokens": 20_000}, {"money": 0.02}])
def test_a_budget_of_several_engines_is_kept(budget: dict[str, float]) -> None:
    """2,000 rows use 15 tokens each and reserve about 70. Two engines may use 20,000 tokens together, in either unit."""
    health, price = LocalHealth(), {"per_million_prompt_tokens": 1.0, "per_million_output_tokens": 1.0}
    run = run_config({"engine": "echo", "budget": budget, "price": price, "sampling": {"max_tokens": 40}})
    health.health.fund(SharedBudget(run.teacher.budget, run.teacher.price, base.NOTHING_USED, 0))

    async def label() -> list[Outcome | None]:
        actors = [actor_of(health, run) for _ in range(2)]
        examples = [Example(f"r{i}", "4 - 1?", "4 - 1") for i in range(1000)]
        return await asyncio.gather(*(a._label(FrugalTeacher(), e, "train") for e in examples for a in actors))

    found = asyncio.run(label())
    used = sum((row.prompt_tokens or 0) + (row.output_tokens or 0) for row in found if row is not None)
    assert 0.98 * 20_000 <= used <= 20_000
    assert "budget" in health.health.stop.budget


class PaidTeacher(HintedTeacher):
    """Answers `sent` after the interruption, never answers `waits`, and meters what it uses."""

    meters_budget = True

    def __init__(self, health: LocalHealth) -> None:
        super().__init__()
        self.meter, self._health = BudgetMeter(BudgetConfig(), PriceConfig()), health

    async def answer(self, prompt: base.Prompt) -> Generation:
        if prompt.example.id == "waits":
            await asyncio.Event().wait()
        held = self.meter.reserve(50, 50)
        self._health.health.interrupt()
        await asyncio.sleep(0.03)
        self.meter.settle(held, 10, 5)
        return Generation((Sample("The answer is (4 - 1).", 5, "stop"),), 10)


def test_an_interruption_keeps_the_answers_in_flight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    health, store = LocalHealth(), Store(str(tmp_path))
    health.health.spending = Spending(store, base.NOTHING_USED)
    monkeypatch.setattr("pipelines.label.engines.spending_report.EVERY_S", 0.01)
    monkeypatch.setattr(EchoTeacher, "start", lambda *_: PaidTeacher(health))

    async def label() -> tuple[pa.Table, pa.Table]:
        actor = actor_of(health)
        return await actor(block("sent", "waits")), await actor(block("late"))

    first, second = asyncio.run(label())
    assert (first["id"].to_pylist(), len(second)) == (["sent"], 0)
    assert used_tokens(store, base.NOTHING_USED) == (10, 5, 0)
    assert (health.health.in_flight(), health.health.stop.budget) == (False, "")


def test_gpu_hours_are_those_of_the_engines() -> None:
    run = run_config(teacher := {"engine": "vllm", "model": "m", "gpus_per_replica": 2, "budget": {"gpu_hours": 1.0}})
    budget = SharedBudget(run.teacher.budget, run.teacher.price, base.NOTHING_USED, 2)
    assert budget.reserve("a", 1000.0, 1, 1) == budget.reserve("b", 700.0, 1, 1) == ""
    assert budget.reserve("b", 801.0, 1, 1) == "teacher.budget.gpu_hours 1 is used up (1.001 GPU-hours)"
    with pytest.raises(ValidationError, match=r"budget.gpu_hours has no effect"):
        run_config({**teacher, "gpus_per_replica": 0})
