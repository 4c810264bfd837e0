"""The held-out examples of a report: which are scored, and report.json's `heldout`."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.config import RunConfig
from pipelines.data.heldout import Heldout
from pipelines.data.shots import is_quoted, quoted_questions
from pipelines.errors import UserError
from pipelines.scoring.model import ExampleIds, HeldoutPart, Overlap, UnreadableRow, UnreadableRows
from pipelines.tasks import Example, load_task, task_spec

_LISTED_IDS = 100


def scored_examples(run: RunConfig, heldout: Heldout) -> list[Example]:
    """The held-out examples that have a gold label and are no examples of the teacher's prompt. Raises UserError if there are none."""
    task = load_task(task_spec(run.task, run.task_options))
    quoted = quoted_questions(run.teacher, task)
    examples = [one for one in heldout.examples if one.gold is not None and not is_quoted(one, task, quoted)]
    if not examples:
        rows = len(heldout.examples) + len(heldout.unreadable)
        rule = f"none of its {rows:,} rows has a gold label that the task can read"
        rule += f" ({': '.join(heldout.unreadable[0])})" if heldout.unreadable else ""
        raise UserError(heldout_key(run), rule, "Give held-out examples with gold labels.")
    return examples


def heldout_key(run: RunConfig) -> str:
    """The run file's key of the scored examples."""
    return "corpus.test" if run.corpus.test is not None else "corpus.validation"


def heldout_part(
    run: RunConfig, heldout: Heldout, scored: Sequence[Example], trained_on: Overlap, chosen_on: Overlap | None
) -> HeldoutPart:
    """report.json's `heldout`. `scored`: from `scored_examples`."""
    ids = {example.id for example in scored}
    unreadable = [UnreadableRow(id=row_id, problem=problem) for row_id, problem in heldout.unreadable[:_LISTED_IDS]]
    return HeldoutPart(
        split="test" if run.corpus.test is not None else "validation",
        scored=len(scored),
        without_gold=_listed([example.id for example in heldout.examples if example.gold is None]),
        in_prompt=_listed([one.id for one in heldout.examples if one.gold is not None and one.id not in ids]),
        unreadable=UnreadableRows(
            count=len(heldout.unreadable), ids=[row.id for row in unreadable], problems=unreadable
        ),
        duplicates=_listed(heldout.duplicates),
        trained_on=trained_on,
        chosen_on=chosen_on,
    )


def _listed(ids: list[str] | tuple[str, ...]) -> ExampleIds:
    return ExampleIds(count=len(ids), ids=list(ids[:_LISTED_IDS]))
