"""`python -m cluster` checks Python before it imports anything else."""

import runpy
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 11, 0), (3, 12, 9), (3, 13, 0), (4, 0, 0)])
def test_a_python_outside_the_packages_range_is_refused(
    version: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = ".".join(map(str, version))
    fits = SpecifierSet(PROJECT["requires-python"]).contains(written)
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setitem(sys.modules, "cluster.cli", None)  # its import fails, as it may on another Python
    with pytest.raises(ImportError if fits else SystemExit) as ended:
        runpy.run_module("cluster", run_name="__main__")
    if not fits:
        assert getattr(ended.value, "code", None) == 2
        assert f"Python {written}: Raystill needs 3.11 or 3.12" in capsys.readouterr().err
