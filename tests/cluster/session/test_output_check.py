"""Whether the output can be written, before anything is started."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from cluster.session.output_check import check_output
from cluster.session.preflight import inspect_nodes
from cluster.session.start import ray_session
from pipelines.errors import UserError
from pipelines.storage.store import Store
from tests.support.corpora import run_config
from tests.support.object_store import Bucket


def test_a_writable_output_stays_untouched(tmp_path: Path, s3: Bucket) -> None:
    check_output(str(tmp_path / "runs" / "svamp"))
    check_output(f"file://{tmp_path}/runs/svamp")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    check_output(str(tmp_path / "runs"))
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]
    check_output(s3.uri("runs/svamp"))
    assert Store(s3.uri("runs")).files() == []
    with pytest.raises(UserError, match="the bucket does not exist"):
        check_output(s3.uri("runs/svamp").replace(s3.name, "no-such-bucket"))


class StartedError(Exception):
    """Ray would have been started."""


@pytest.mark.parametrize(
    ("output", "reason"),
    [("FOLDER/file/runs", "Not a directory"), ("FOLDER/file", "Not a directory"), ("/proc/runs", "")],
)
def test_an_unwritable_output_is_refused_before_ray_starts(
    output: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("cluster.session.start._start", Mock(side_effect=StartedError))
    (tmp_path / "file").touch()
    run = run_config(output=output.replace("FOLDER", str(tmp_path)))
    refused = rf"output {run.output}: it cannot be written \(.*{reason}.*\)\. Set output"
    with pytest.raises(UserError, match=refused), ray_session(run, ["label"]):
        pass
    with pytest.raises(UserError, match=refused):
        inspect_nodes(run.output)
    for writes_nothing in (["serve"], []):
        with pytest.raises(StartedError), ray_session(run, list[str](writes_nothing)):
            pass
