"""One rejected row for each reason, with its place in the corpus and the beginning of its input. `labels/rejects` holds neither.

{"unparsable": RejectExample(id="T17", place="tickets.csv, row 17", input="Hello, my order ...", detail="...")}
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from pipelines.config import RunConfig
from pipelines.data.label_parts import LabelParts
from pipelines.data.reader import corpus_files
from pipelines.data.survey import placed_rows
from pipelines.reports.format import short
from pipelines.tasks import load_task, task_spec

_SEARCHED_ROWS = 20_000
_CHARACTERS = 100


class RejectExample(BaseModel):
    """A rejected row of the training corpus."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: str
    detail: str
    place: str = ""
    """File and data row. Empty if the row is not among the first 20,000."""
    input: str = ""
    """The first 100 characters; of a row that cannot be read, of its raw text."""


def reject_examples(run: RunConfig, labels: LabelParts) -> dict[str, RejectExample]:
    """By reason the first rejected row. Reads one part of the rejects and the first rows of the corpus.

    Raises:
        UserError: a part is damaged, or the corpus is gone.
    """
    found: dict[str, RejectExample] = {}
    for name in labels.names("rejects")[:1]:
        for row in labels.open(name).read(["id", "reason", "detail"]).to_pylist():
            if row["reason"] not in found:
                found[row["reason"]] = RejectExample(id=row["id"], detail=short(row["detail"], _CHARACTERS))
    if not found:
        return found
    reasons = {example.id: reason for reason, example in found.items()}
    files, task = corpus_files(run.corpus.train, "corpus.train"), load_task(task_spec(run.task, run.task_options))
    limit = min(run.corpus.limit or _SEARCHED_ROWS, _SEARCHED_ROWS)
    for place, row in placed_rows(files, task, run.corpus.fields, limit):
        # A duplicate's id is that of an earlier row, which was not rejected for it: the last one with the id is it.
        reason = reasons.get(row.id)
        if reason is None or (found[reason].place and reason != "duplicate"):
            continue
        text = row.raw if row.example is None else row.example.input
        found[reason] = found[reason].model_copy(update={"place": place, "input": short(text, _CHARACTERS)})
        if "duplicate" not in found and all(example.place for example in found.values()):
            break
    return found
