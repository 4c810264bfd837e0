"""What is said before any of our code is read."""

from __future__ import annotations

import runpy
import sys

import pytest


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 13, 0), (4, 0, 0)])
def test_another_python_is_refused(
    version: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setitem(sys.modules, "cluster.cli", None)  # reading it would fail there in other ways
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("cluster", run_name="__main__")
    assert f"Python here is {'.'.join(map(str, version))}: Raystill needs 3.11 or 3.12" in capsys.readouterr().err
