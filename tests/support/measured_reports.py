"""Reports on made-up answers to 40 examples."""

from typing import Any

from pipelines.evaluate.confusion import confusion
from pipelines.evaluate.model import Report
from pipelines.evaluate.report import comparisons, errors, headline
from pipelines.scoring.model import SystemName
from pipelines.scoring.statistics import calibration
from pipelines.scoring.system import System
from pipelines.tasks import Example
from pipelines.tasks.arithmetic import Arithmetic
from tests.support.reports import report

NUM = 40
EXAMPLES = [Example(f"e{i}", f"How many is {i} | 1?", "4 - 1") for i in range(NUM)]


def system(name: SystemName, num_right: int, num_unanswered: int = 0, **more: Any) -> System:
    """Right answers first, missing answers last."""
    labels = tuple(None if i >= NUM - num_unanswered else ("3" if i < num_right else "7") for i in range(NUM))
    return System(name, labels=labels, right=tuple(i < num_right for i in range(NUM)), **more)


def student(num_right: int, num_unanswered: int = 0, name: SystemName = "student", **more: Any) -> System:
    labels = system(name, num_right, num_unanswered).labels
    written = {
        "texts": tuple("?" if label is None else label for label in labels), "confidences": tuple(i / NUM for i in range(NUM)),
        "seconds": 1.5, "answering_s": 0.8, "prompt_tokens": 900, "output_tokens": 80,
    }  # fmt: skip
    return system(name, num_right, num_unanswered, **written, **more)


OTHERS = [student(0, 40, "untrained"), system("teacher", 30, 4), system("majority", 2, note="`8`, the label of 2 of 9")]


def made(first: System, others: list[System] = OTHERS, **changes: Any) -> Report:
    """A report on these answers, without optional sections."""
    scores = [one.scores() for one in (first, *others)]
    compared = comparisons(first, [first, *others])
    teacher = next((one for one in others if one.name == "teacher"), System("teacher"))
    cells, note = confusion(EXAMPLES, first.labels, Arithmetic().key)
    nothing = dict.fromkeys(("rationale", "votes", "baseline", "majority"))
    heldout = {
        "split": "test", "scored": NUM, "without_gold": {"count": 0, "ids": []}, "duplicates": {"count": 0, "ids": []},
        "unreadable": {"count": 0, "ids": [], "problems": []}, "chosen_on": None,
        "trained_on": {"count": 0, "ids": [], "by": {"id": 0, "input": 0, "near": 0}},
    }  # fmt: skip
    measured = {
        "headline": headline(scores, compared, 57_000_000, "Qwen2.5"), "systems": scores, "comparisons": compared, "confusion": cells,
        "calibration": calibration(first.confidences, first.right), "confusion_note": note, "weights": [],
        "errors": errors(EXAMPLES, first, teacher), "heldout": heldout,
    }  # fmt: skip
    return report(**nothing | measured | changes)
