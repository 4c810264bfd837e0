"""Parts of report.json that the reports of `raystill evaluate` and `raystill compare` share.

Shares lie between 0 and 1, times are in seconds, money is in the currency of the run file's prices. Null means unknown or not measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from pipelines.errors import UserError
from pipelines.storage.store import Store

REPORT = "report.json"
Interval = tuple[float, float]
"""Bounds of a 95% interval."""
SystemName = Literal["student", "constrained", "untrained", "teacher", "majority"]
Learned = Literal["gold", "teacher", "either"]
"""Whose labels a student learns. either: gold if the row has one, else the teacher's."""
JsonObject = dict[str, JsonValue]
"""A JSON object whose keys another stage or the run file decides."""


class ReportPart(BaseModel):
    """Base of all parts. An unknown key is an error, so that a report of another format is never misread."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


AnyPart = TypeVar("AnyPart", bound=ReportPart)


class TaskVersion(ReportPart):
    """The task that scored the answers."""

    name: str
    version: str


class ExampleIds(ReportPart):
    """Some of the held-out rows."""

    count: int
    ids: list[str]
    """The first 100."""


class UnreadableRow(ReportPart):
    """A row that the task cannot read."""

    id: str
    problem: str


class UnreadableRows(ExampleIds):
    """Rows that the task cannot read, including those with an invalid gold label."""

    problems: list[UnreadableRow]
    """The first 100."""


class MatchCounts(ReportPart):
    """Held-out examples by what they share with another row."""

    id: int
    """Same id. Not evidence of contamination: files that number their rows share ids."""
    input: int
    """Same input, ignoring case and spacing."""
    near: int
    """Nearly the same input, and not the same."""


class Overlap(ExampleIds):
    """Held-out examples with the same or nearly the same input as other rows. `count` excludes matches by id alone."""

    by: MatchCounts


class HeldoutPart(ReportPart):
    """The held-out examples."""

    split: Literal["test", "validation"]
    scored: int
    """Examples with a gold label. The other fields list rows that are not scored, except the two overlaps."""
    without_gold: ExampleIds
    in_prompt: ExampleIds = Field(default_factory=lambda: ExampleIds(count=0, ids=[]))
    """With a gold label, and an example of the teacher's prompt."""
    unreadable: UnreadableRows
    duplicates: ExampleIds
    """Rows with the id of an earlier row."""
    trained_on: Overlap
    """Scored examples that are also training rows."""
    chosen_on: Overlap | None
    """Scored examples that are also validation examples. Null if nothing was chosen on the validation split, or if that split is
    scored itself."""


class SystemScores(ReportPart):
    """One system's accuracy on the held-out examples. `note` gives the reason if it is missing."""

    name: SystemName
    engine: str | None = None
    """Engine of a student's answers. Null in reports of 0.1, which scored in transformers."""
    weights: str | None = None
    """Precision in which the engine computed."""
    correct: int | None
    total: int | None
    unanswered: int | None
    """Examples without an answer that the task can read. They count as wrong."""
    too_long: int
    """Inputs longer than the student's max_input_tokens. They count as unanswered."""
    accuracy: float | None
    interval: Interval | None
    """Wilson 95%."""
    seconds: float | None
    """Wall time, including the start of the workers for the first system, and loading the model."""
    prompt_tokens: int | None
    """Of all samples together, like `output_tokens` and `seconds_per_example`."""
    output_tokens: int | None
    seconds_per_example: float | None
    """Of one worker, without its start, loading the model and the model's first token."""
    prompt_tokens_per_example: float | None
    output_tokens_per_example: float | None
    note: str


class RationalesRead(ReportPart):
    """The teacher's rationales that a student reads with its inputs."""

    examples: int
    without: int
    """Examples without a rationale."""
    states_gold: float | None
    """Share of the rationales that contain the gold label."""


class WordCounts(ReportPart):
    """Words of a rationale."""

    p10: int
    median: int
    p90: int


class RationaleQuality(ReportPart):
    """Signals of rationale quality that need no human judge. Shares are of the rationales that are not empty."""

    of: Literal["student", "teacher"]
    """Who wrote them."""
    examples: int
    empty: int
    leads_to_label: float | None
    """Share that arrives at its writer's own label. Null if the task cannot decide (Task.leads_to)."""
    states_gold: float | None
    """Share that contains the gold label (Task.states)."""
    repeats_input: float | None
    """Share with at least 70% of their word 3-grams from the input."""
    words: WordCounts | None


class TeacherCost(ReportPart):
    """Cost of the labels: all answers, including rejects and held-out examples."""

    prompt_tokens: int | None
    output_tokens: int | None
    gpu_hours: float | None
    money: float | None
    """By the prices of the run that made the labels (`teacher.price`)."""


class TrainingSettings(ReportPart):
    """The `training` keys of the run file that affect the student."""

    model_config = ConfigDict(extra="allow")

    epochs: float | None = None
    steps: Annotated[int | None, Field(exclude_if=lambda steps: steps is None)] = None
    """Instead of epochs. Left out if it is None, as in reports of 0.1."""
    tokens_per_batch: int


def report_bytes(report: ReportPart) -> bytes:
    """The report as an indented JSON file."""
    tree = report.model_dump(mode="json")
    return (json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def missing_file(store: Store, names: Iterable[str]) -> str | None:
    """What a finished report lacks: the first of its files that is lost. None if all are there."""
    there = set(store.files(recursive=False))
    return next((f"its {name} is missing" for name in names if name not in there), None)


def read_report(store: Store, model: type[AnyPart]) -> AnyPart:
    """The report.json of a folder.

    Raises:
        UserError: it is damaged, or of another format.
    """
    try:
        return model.model_validate_json(store.read(REPORT))
    except ValidationError as error:
        problem = error.errors()[0]
        rule = (
            f"not a report that this version of Raystill reads ({'.'.join(map(str, problem['loc']))}: {problem['msg']})"
        )
        raise UserError(store.shown(REPORT), rule, "Remove this file and run the command again.") from error
