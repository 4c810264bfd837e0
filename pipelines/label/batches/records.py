"""What a labels folder knows of its batches.

    batches/NAME.json       one batch: written before it is sent, and again when its answers are here
    batches/NAME.parquet    its answers (schema.TEXT)

NAME is also in the batch's metadata at the endpoint, so that a batch is found again if a kill came between sending and writing its id.
"""

from __future__ import annotations

import uuid

from pydantic import BaseModel, Field, ValidationError

from pipelines.errors import UserError
from pipelines.label.stored.sources import BATCHES_FOLDER
from pipelines.storage.store import Store


class Batch(BaseModel):
    """One batch."""

    name: str = Field(default_factory=lambda: uuid.uuid4().hex)
    requests: int
    id: str | None = None
    """At the endpoint; None until it has been created."""
    is_done: bool = False
    """Its answers are here."""
    failed: int = 0
    """Requests without a usable answer."""
    problem: str = ""
    """Of the first of them."""

    def write(self, labels: Store) -> None:
        """Write the record."""
        labels.write(self.file, self.model_dump_json().encode())

    @property
    def file(self) -> str:
        """Name of the record."""
        return f"{BATCHES_FOLDER}/{self.name}.json"

    @property
    def answers(self) -> str:
        """Name of the file with its answers."""
        return f"{BATCHES_FOLDER}/{self.name}.parquet"


def read_batches(labels: Store) -> list[Batch]:
    """All batches of a labels folder. Raises UserError if a record is damaged."""
    return [_batch(labels, name) for name in labels.files(BATCHES_FOLDER, ".json")]


def _batch(labels: Store, name: str) -> Batch:
    try:
        return Batch.model_validate_json(labels.read(name))
    except ValidationError as error:
        remedy = "Restore it, or remove it: its prompts are then sent, and paid for, again."
        raise UserError(labels.shown(name), "not the record of a batch", remedy) from error


def forget_batches(labels: Store) -> None:
    """Remove the records of batches whose answers are here. The answers are set aside by then."""
    for batch in read_batches(labels):
        if batch.is_done:
            labels.delete(batch.file)
