"""Damage to labels: whatever file is lost or cut, the next run labels the rows of its commit again, or names the file."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.data.label_manifest import LabelDetails
from pipelines.data.label_parts import LabelParts, damaged_part
from pipelines.errors import UserError
from pipelines.label.output import key_files, merging
from pipelines.label.output import writer as writer_module
from pipelines.label.output.check import set_damaged_aside
from pipelines.label.output.commits import PieceName, committed_counts, read_attempt
from pipelines.label.output.parts import read_part
from pipelines.label.output.writer import LabelWriter
from pipelines.label.stored.texts import StoredAnswer
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import manifest_of, read_manifest, write_manifest
from pipelines.storage.store import Store
from tests.support import label_writers
from tests.support.label_writers import IDENTITY, SETTINGS, commit, counts_json, is_done, open_writer
from tests.support.outcomes import accepted, generated, part_ids, reject, table

ROWS = 12
PIECE = PieceName(0, 0)
PER_COMMIT = 3


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)  # these tests lose no power, and write hundreds of files


def begin(folder: Path) -> None:
    """Labels with a scan and three commits; the second one has rows with `engine_error`, which the third retries."""
    with open_writer(folder) as writer:
        scan(writer)
        commit(writer, accepted("r0"), accepted("r1"), reject("r2", "tie"))
        commit(writer, reject("r3", "engine_error"), reject("r4", "engine_error"), accepted("r5"))
    with open_writer(folder) as writer:
        commit(writer, accepted("r3"), accepted("r6"), reject("r4", "engine_error"))
    (folder / "data/part-000009.parquet.abc.tmp").write_bytes(b"torn by a kill")


def scan(writer: LabelWriter) -> None:
    """What a scan of the corpus adds, as far as it is not committed."""
    if writer.state.scanned is not None and PIECE not in writer.state.scanned:
        writer.add_scanned([PIECE], [table(reject("d", "duplicate"))])
    writer.finish_scan({"train": ROWS + 1, "heldout": 0})


def finish(folder: Path) -> tuple[list[str], LabelWriter]:
    """Label what is left. Returns the ids that were labelled."""
    store = Store(str(folder))
    with open_writer(folder, read_manifest(store, "labels")) as writer:
        scan(writer)
        ids = [f"r{i}" for i in range(ROWS)]
        left = [name for name, done in zip(ids, is_done(writer, *ids), strict=True) if not done]
        for start in range(0, len(left), PER_COMMIT):
            some = left[start : start + 3]
            commit(writer, *(accepted(name) if name != "r2" else reject(name, "tie") for name in some))
        assert writer.counts.done == ROWS + 1
        writer.compact()
        details = LabelDetails(parts=writer.state.parts, files=writer.state.files, tally=writer.counts.as_json())
        more = {"config": {}, "counts": counts_json(writer), "timings_s": {}, "provenance": {}}
        write_manifest(store, manifest_of("labels", IDENTITY, details=details.model_dump(), **more))
        writer.remove_attempt()
        return left, writer


def assert_exact(folder: Path, writer: LabelWriter) -> None:
    """Every row has one outcome, the counts say the same, and no file is left over."""
    store = Store(str(folder))
    assert part_ids(folder) == sorted(f"r{i}" for i in range(ROWS) if i != 2)
    assert part_ids(folder, "rejects") == ["d", "r2"]
    assert (writer.counts.accepted, +writer.counts.rejected) == (ROWS - 1, {"tie": 1, "duplicate": 1})
    assert sum(commit.counts.done for commit in writer.state.commits) == ROWS + 1
    LabelParts.of(store)
    assert store.unfinished() == []


def damages(folder: Path) -> Iterator[tuple[str, str]]:
    for name in Store(str(folder)).files():
        if name != ".lock":
            yield from ((name, "lost"), (name, "cut"))
        if name.endswith(".parquet") or "record" in name or name.startswith("commits/0"):
            yield name, "edited"


def damage(path: Path, how: str) -> None:
    data, middle = path.read_bytes(), path.stat().st_size // 2
    if how == "lost":
        path.unlink()
    else:
        path.write_bytes(data[:middle] + (bytes([data[middle] ^ 4]) + data[middle + 1 :] if how == "edited" else b""))


def test_any_damage_to_begun_labels_costs_one_commit(tmp_path: Path) -> None:
    begin(tmp_path / "begun")
    shutil.copytree(tmp_path / "begun", tmp_path / "whole")
    expected, _ = finish(tmp_path / "whole")
    tried = list(damages(tmp_path / "begun"))
    assert len(tried) >= 20
    for name, how in tried:
        folder = tmp_path / f"{name}.{how}".replace("/", "-")
        shutil.copytree(tmp_path / "begun", folder)
        damage(folder / name, how)
        attempt = read_attempt(Store(str(folder)))
        assert attempt.fingerprint == fingerprint(IDENTITY), name
        try:
            labelled, writer = finish(folder)
        except UserError as error:
            assert (name in error.value, error.remedy[:31], how) == (True, "Run `raystill label RUN --check", "edited")  # noqa: PT017
            assert [found.name for found in set_damaged_aside(Store(str(folder)))[1]] == [name]
            labelled, writer = finish(folder)
        assert len(labelled) <= len(expected) + PER_COMMIT, (name, how)
        assert_exact(folder, writer)


def test_any_damage_to_finished_labels_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "PART_BYTES", 1)
    begin(tmp_path / "done")
    _, writer = finish(tmp_path / "done")
    assert_exact(tmp_path / "done", writer)
    for name, how in damages(tmp_path / "done"):
        folder = tmp_path / f"{name}.{how}".replace("/", "-")
        shutil.copytree(tmp_path / "done", folder)
        damage(folder / name, how)
        store = Store(str(folder))
        if name.endswith(".parquet"):
            with pytest.raises(UserError, match=name):
                LabelParts.of(store).open(name)
        if how == "edited":
            assert [found.name for found in set_damaged_aside(store)[1]] == [name]
            assert (folder / "damaged" / name).exists()
        try:
            labelled, writer = finish(folder)
        except UserError as error:
            assert (name in error.value, how) == (True, "cut")  # noqa: PT017 - what is refused depends on the file
            continue
        assert len(labelled) <= PER_COMMIT
        if name.endswith(".parquet"):
            assert name in capsys.readouterr().err
        assert_exact(folder, writer)


def test_labels_without_any_record_are_not_removed(tmp_path: Path) -> None:
    begin(tmp_path)
    shutil.rmtree(tmp_path / "commits")
    for file in tmp_path.glob("*.json"):
        file.unlink()
    with pytest.raises(UserError, match="no other file has the settings"):
        read_attempt(Store(str(tmp_path)))
    assert part_ids(tmp_path)


def test_records_are_merged_and_resume_reads_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "RECORD_EVERY", 3)
    with open_writer(tmp_path) as writer:
        for i in range(7):
            commit(writer, accepted(f"r{i}"))
    keys = ["keys-000000-000002.bin", "keys-000003-000005.bin"]
    assert {path.name for path in (tmp_path / "commits").iterdir()} == {"000006.json", *keys, "record-000005.json"}
    read: list[str] = []
    monkeypatch.setattr(key_files, "read_part", lambda store, name, *_: read.append(name) or read_part(store, name, *_))
    with open_writer(tmp_path) as writer:
        assert is_done(writer, "r0", "r6", "x") == [True, True, False]
        assert read == ["data/part-000006.parquet"]
        (tmp_path / "commits" / keys[0]).write_bytes(b"damaged")
        assert is_done(writer, "r0", "r6", "x") == [True, True, False]
        assert (writer.counts.accepted, len(writer.state.commits), writer.state.next_number) == (7, 7, 8)
    counts, total = committed_counts(Store(str(tmp_path)))
    assert (counts.accepted, total) == (7, None)


def test_a_commit_after_the_loss_of_a_lease_counts_nowhere(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    begin(tmp_path)
    stale = LabelWriter(store, IDENTITY, SETTINGS)
    with open_writer(tmp_path) as successor:
        commit(successor, accepted("r7"))
        commit(stale, accepted("r7"), accepted("r8"))
        commit(successor, accepted("r8"))
    assert sorted(LabelWriter(store, IDENTITY, SETTINGS).state.parts) == sorted(successor.state.parts)
    _, writer = finish(tmp_path)
    assert_exact(tmp_path, writer)


def test_a_damaged_record_is_made_again_from_the_manifest(tmp_path: Path) -> None:
    manifest = label_writers.finished_with_engine_errors(tmp_path)
    [record] = tmp_path.glob("record-*.json")
    record.rename(tmp_path / "record-000099.json").write_bytes(b"{")
    for retried in ("e1", "e2"):
        with open_writer(tmp_path, manifest if retried == "e1" else None) as writer:
            commit(writer, accepted(retried))
    assert (writer.counts.accepted, writer.counts.engine_errors) == (3, 1)


@pytest.mark.parametrize("key", ["read", "accepted", "rejected"])
def test_a_manifest_that_counts_other_rows_is_noticed(tmp_path: Path, key: str) -> None:
    begin(tmp_path)
    finish(tmp_path)
    manifest = read_manifest(Store(str(tmp_path)), "labels")
    manifest.counts[key] += 1
    write_manifest(Store(str(tmp_path)), manifest)
    with pytest.raises(UserError, match=r"manifest.json: it counts"):
        LabelParts.of(Store(str(tmp_path)))


def test_labels_of_0_1_name_the_file_that_is_lost() -> None:
    found = damaged_part({"data/part-000000.parquet": 5}, {}, {})
    assert found == ("data/part-000000.parquet", "missing; it had 5 rows")


@pytest.mark.parametrize("how", ["lost", "cut"])
def test_lost_texts_cost_no_label(tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    with open_writer(tmp_path) as writer:
        commit(writer, accepted("a", texts=[StoredAnswer(b"k" * 16, generated("4"))]))
    [part] = (tmp_path / "texts").glob("*.parquet")
    damage(part, how)
    with open_writer(tmp_path) as writer:
        assert (writer.counts.accepted, list(writer.state.parts)) == (1, ["data/part-000000.parquet"])
    assert "their answers are not stored any more" in capsys.readouterr().err
    assert part_ids(tmp_path) == ["a"]
