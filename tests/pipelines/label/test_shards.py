"""What shards write, and the command commits: without Ray, whose part is in tests/faults/test_label.py."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.config.base import ReplicasConfig
from pipelines.errors import UserError
from pipelines.label import shards
from pipelines.label.engines.actor import TeacherSetup
from pipelines.label.output.writer import LabelWriter
from pipelines.label.output.written import WrittenParts
from pipelines.label.shards import Shard, ShardSetup, check_shards
from pipelines.label.teachers.base import NOTHING_USED
from pipelines.storage.store import Store
from pipelines.tasks import task_spec
from tests.support.corpora import run_config
from tests.support.label_writers import commit, finished_with_engine_errors, is_done, open_writer
from tests.support.outcomes import accepted, part_ids, reject, table


def written(folder: Path, writer: LabelWriter, word: str, tables: dict[int, Any]) -> list[list[WrittenParts]]:
    """What each shard writes of its tables, {index: list of tables}."""

    def outcomes(setup: Any, replicas: Any, reader: Any, tickets: range, health: Any) -> Generator[pa.Table]:
        yield from tables[tickets.start]

    run, state = run_config(labelling={"commit_rows": 1}), writer.state
    teacher, store = TeacherSetup(run, task_spec("arithmetic"), 4), Store(str(folder))
    setup = ShardSetup(store, teacher, None, 1, None, NOTHING_USED, state.to_retry, state.next_number, word)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "outcomes", outcomes)
        return [list(Shard(setup, index, ReplicasConfig()).label()) for index in tables]


def test_parts_of_shards_count_once_they_are_committed(tmp_path: Path) -> None:
    """Shards retry rows with `engine_error`; one fails again, and one shard's last parts are never committed."""
    manifest = finished_with_engine_errors(tmp_path)
    with open_writer(tmp_path, manifest) as writer:
        first, second = written(tmp_path, writer, "one", {
            0: [table(accepted("e1"), accepted("n1")), table(accepted("n2"))],
            1: [table(reject("e2", "engine_error")), table(accepted("e3"), accepted("n3"))],
        })  # fmt: skip
        for parts in (first[0], second[0], first[1]):
            writer.add_written(parts)
        writer.commit()
        assert (writer.finished_rows, writer.counts.rejected) == (6, {"engine_error": 2, "tie": 1})
    with open_writer(tmp_path) as writer:
        assert part_ids(tmp_path) == ["a", "e1", "n1", "n2"], "parts without a commit are removed"
        assert is_done(writer, "e1", "e2", "e3", "n2", "n3") == [True, False, False, True, False]
        assert (writer.finished_rows, writer.state.retry_rows) == (5, 2)
        [[rest]] = written(tmp_path, writer, "two", {0: [table(accepted("e2"), accepted("e3"), accepted("n3"))]})
        writer.add_written(rest)
        commit(writer, reject("d", "duplicate"))
        writer.compact()
        assert (writer.counts.accepted, +writer.counts.rejected) == (7, {"tie": 1, "duplicate": 1})
    assert part_ids(tmp_path) == ["a", "e1", "e2", "e3", "n1", "n2", "n3"]
    assert part_ids(tmp_path, "rejects") == ["d", "t"]


def test_each_shard_has_a_replica() -> None:
    found = shards.shares(ReplicasConfig(min=3, max=8), 3)
    assert [(one.min, one.max) for one in found] == [(1, 3), (1, 3), (1, 2)]
    run = run_config({"engine": "echo", "replicas": {"min": 2, "max": 4}}, labelling={"shards": 3})
    with pytest.raises(UserError, match=r"labelling.shards 3: must not be above teacher.replicas.min, which is 2"):
        check_shards(run)
