"""Label writers over a local folder, whose lock may be lost and whose store may be killed between two calls."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from pipelines.config import LabellingConfig
from pipelines.errors import StageFailedError
from pipelines.label.answers.outcomes import Outcome
from pipelines.label.output.id_index import id_keys
from pipelines.label.output.recovery import finished_keys
from pipelines.label.output.writer import LabelWriter
from pipelines.storage.lock import folder_lock
from pipelines.storage.manifest import Manifest, manifest_of, write_manifest
from pipelines.storage.store import Store
from tests.support.outcomes import accepted, reject, table

IDENTITY = {"teacher": "echo"}
SETTINGS = LabellingConfig()


@contextmanager
def open_writer(folder: Path, reopened: Manifest | None = None) -> Iterator[LabelWriter]:
    """A writer that holds the folder's lock."""
    store = Store(str(folder))
    with folder_lock(store, SETTINGS.lease_s) as check_lock:
        yield LabelWriter(store, IDENTITY, SETTINGS, reopened, check_lock)


def commit(writer: LabelWriter, *rows: Outcome) -> None:
    writer.add(table(*rows))
    writer.commit()


def is_done(writer: LabelWriter, *ids: str) -> list[bool]:
    """True for each train id that the teacher answered."""
    done = [keys.tolist() for split, keys in finished_keys(writer.store, writer.state) if split == "train"]
    return [key in chain.from_iterable(done) for key in id_keys(ids).tolist()]


def counts_json(writer: LabelWriter) -> dict[str, Any]:
    """`counts` of the manifest, without held-out rows."""
    found = writer.counts
    rejects = dict(+found.rejected)
    total = {"read": found.train, "accepted": found.accepted, "rejected": sum(rejects.values())}
    return {**total, "rejected_by_reason": rejects}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def killed_after(calls: int, method: str = "write") -> Callable[..., None]:
    original, left = getattr(Store, method), [calls]

    def call(self: Store, *arguments: Any) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        original(self, *arguments)

    return call


class LostLock:
    def __init__(self, held: int) -> None:
        self.left = held

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise StageFailedError("lost")


def finished_with_engine_errors(folder: Path) -> Manifest:
    """Labels with one accepted row, one `tie` and three rows with `engine_error`."""
    failed = [reject(name, "engine_error") for name in ("e1", "e2", "e3")]
    with open_writer(folder) as writer:
        commit(writer, accepted("a"), *failed, reject("t", "tie"))
        writer.compact()
        files = {name: file.model_dump() for name, file in writer.state.files.items()}
        details = {"parts": writer.state.parts, "files": files, "tally": writer.counts.as_json()}
        manifest = manifest_of(
            "labels", IDENTITY, config={}, counts=counts_json(writer), timings_s={}, provenance={}, details=details
        )  # fmt: skip
        write_manifest(Store(str(folder)), manifest)
        writer.remove_attempt()
    return manifest
