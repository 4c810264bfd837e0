"""The log of a command: what it holds when the command fails, and how long it is kept."""

import os
from pathlib import Path

import pytest

from cluster.session.command_log import command_log, new_log
from pipelines.errors import RaystillError, StageFailedError, UserError
from pipelines.runtime.terminal import last_log


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYSTILL_CACHE", str(tmp_path))
    return tmp_path / "logs"


@pytest.mark.parametrize("error", [StageFailedError("training stopped"), UserError("a", "b", "c")])
def test_the_log_of_a_failed_stage_has_its_traceback(error: RaystillError) -> None:
    with pytest.raises(type(error)), command_log("train", verbose=False):
        raise error from RuntimeError("of a worker")
    log = last_log()
    failed = isinstance(error, StageFailedError)
    assert (log is not None) == failed
    assert log is None or "of a worker" in Path(log).read_text()


def test_logs_of_running_commands_stay(logs: Path) -> None:
    logs.mkdir()
    running, ended, odd = (logs / f"20250101-000000-serve-{number}.log" for number in (os.getpid(), 2**22 + 1, "x"))
    later = [logs / f"20260101-{second:06}-label-{2**22 + 2}.log" for second in range(20)]
    for log in (running, ended, odd, *later):
        log.touch()
    kept = new_log("serve")
    assert {log for log in (running, ended, odd, *later, kept) if log.exists()} == {running, *later[1:], kept}
