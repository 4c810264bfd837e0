"""Labels of 0.1, finished and begun, on real artifacts (tests/integration/artifacts_0_1): read, and written with the same keys."""

import json
import shutil
from pathlib import Path

import pytest

from pipelines.config import LabellingConfig
from pipelines.config.load import load_run
from pipelines.data.label_manifest import EngineUsage, LabelCounts, LabelDetails
from pipelines.label.identity import comparable_identity, label_identity
from pipelines.label.output.commits import Commit, read_attempt
from pipelines.label.output.recovery import finished_keys
from pipelines.label.output.writer import LabelWriter
from pipelines.label.reporting.manifest import label_manifest
from pipelines.label.reporting.progress_file import LabelProgress, committed_rows
from pipelines.label.reporting.usage import Work
from pipelines.runtime.stage_progress import read_progress
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.store import Store
from tests.support.version_0_1 import known_to_0_1

ARTIFACTS = Path(__file__).parents[2] / "integration/artifacts_0_1"
BEGUN = ARTIFACTS / "labels_begun/out/labels"
MANIFEST = json.loads((ARTIFACTS / "labels_finished/out/labels/manifest.json").read_text())


def test_records_and_models_keep_every_key_of_0_1() -> None:
    for record in sorted(BEGUN.glob("commits/*.json")):
        tree = json.loads(record.read_bytes())
        found = Commit.model_validate(tree).model_dump()
        assert {key: found[key] for key in tree if key != "scan"} == {k: v for k, v in tree.items() if k != "scan"}
    for model, tree in ((LabelDetails, MANIFEST["details"]), (LabelCounts, MANIFEST["counts"])):
        assert known_to_0_1(model.model_validate(tree).model_dump(), tree) == tree
    progress = read_progress(Store(str(BEGUN)), LabelProgress)
    written = json.loads((BEGUN / "progress.json").read_text())
    assert written.items() <= progress.model_dump().items()
    assert progress.per_second == written["rows_per_s"]
    assert LabelDetails.model_validate({"parts": {}}).cost is None, "older artifacts lack keys"


def test_begun_labels_are_resumed_and_finished_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ARTIFACTS / "inputs", tmp_path, dirs_exist_ok=True)
    shutil.copytree(BEGUN, tmp_path / "out/labels")
    monkeypatch.chdir(tmp_path)
    run, store = load_run(tmp_path / "run.yaml"), Store("out/labels")
    attempt = read_attempt(store)
    identity = comparable_identity(label_identity(run), attempt.identity)
    assert fingerprint(identity) == attempt.fingerprint == MANIFEST["fingerprint"]
    expected = committed_rows(store)
    writer = LabelWriter(store, identity, LabellingConfig())
    assert writer.total == expected.total
    assert writer.state.scanned is None, "the rejects of the scan are all committed"
    assert writer.state.corpus_rows is not None
    answered = sum(len(keys) for _, keys in finished_keys(store, writer.state))
    rejected = writer.counts.rejected + writer.counts.heldout_rejected
    scanned = sum(rejected[reason] for reason in ("bad_input", "duplicate", "near_duplicate"))
    assert writer.finished_rows == expected.rows == answered + scanned
    usage = EngineUsage(engines=1, start_s=1.0, up_s=2.0, busy_s=1.5, deaths=0, ready_for_s=2.0)
    manifest = label_manifest(run, identity, writer.state.corpus_rows, writer.state, Work(), usage, resumed_at_rows=85)
    for part in ("counts", "details", "timings_s"):
        assert set(MANIFEST[part]) <= set(getattr(manifest, part))
    for part in ("tally", "throughput", "engines", "teacher", "tokens"):
        written = list(MANIFEST["details"][part])
        assert [key for key in manifest.details[part] if key in written] == written
