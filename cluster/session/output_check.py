"""Whether a run's output can be written, before anything is started."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import UserError, last_line
from pipelines.storage.store import Store

DRIVER_FILE = "driver"
_FOLDER = ".preflight"


def check_output(output: str) -> None:
    """Raise UserError if this process cannot write the output, a path or URI. Leaves no file and creates no local folder."""
    store = Store(output)
    if not store.is_local:
        write_probe(output, b"").clear()
        return
    with _write_errors(store):
        existing = next(folder for folder in (Path(store.root), *Path(store.root).parents) if folder.exists())
        tempfile.TemporaryFile(dir=existing).close()


def write_probe(output: str, content: bytes) -> Store:
    """Write a file into a fresh folder of the output, which the caller removes. Raises UserError if it cannot be written."""
    store = Store(output)
    with _write_errors(store):
        probe = store.child(f"{_FOLDER}-{uuid.uuid4().hex[:8]}")
        probe.write(DRIVER_FILE, content)
    return probe


@contextmanager
def _write_errors(output: Store) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "Set output to a folder or URI that this user may write to."
        raise UserError(f"output {output.shown()}", f"it cannot be written ({last_line(error)})", remedy) from error
