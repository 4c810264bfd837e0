"""The benchmarks of a GPU: their arguments, what a failure does, and a dry run on CPUs."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.benchmarks import gpu

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("given", [[], ["--dry-run"], ["--peak-tflops", "989", "--pairs", "1"]], ids=" ".join)
def test_each_tool_takes_its_arguments(given: list[str], tmp_path: Path) -> None:
    options = gpu.arguments(given)
    for one in gpu.measurements(options, tmp_path):
        parsed = importlib.import_module(one.module).arguments(one.arguments)
        assert parsed.gpu is not options.dry_run


def test_the_others_run_if_a_measurement_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"server": s, "clients": 8, "requests_per_s": r, "p50_ms": 9.0}
        for s, r in (("raystill serve", 3.0), ("x", 2.0))
    ]
    result = json.dumps({"benchmark": "serve_load_x", "rows": rows})
    modules = {
        "late": "import subprocess; c = subprocess.Popen(['sleep', '600']); open('pid', 'w').write(str(c.pid)); c.wait()",
        "broken": "raise SystemExit('no engine')",
        "good": f"open('benchmarks-out/x.json', 'w').write({result!r})",
    }
    for name, code in modules.items():
        (tmp_path / f"{name}.py").write_text(code)
    found = [gpu.Measurement(*names, [], "x", gpu.serve_rows) for names in zip(gpu.NAMES, modules, strict=False)]
    monkeypatch.setattr(gpu, "measurements", lambda *_: found)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"label failed: took longer than 8 s\ntrain failed: exit code 1: no engine"):
        gpu.main(["--dry-run", "--limit", "8"])
    record = json.loads((tmp_path / "benchmarks-out/gpu.json").read_text())
    assert (set(record["failed"]), set(record["results"])) == ({"label", "train"}, {"serve-t5"})
    assert [row["ratio"] for row in record["rows"]] == [1.5]
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text())), "what a late measurement started still runs"


@pytest.mark.integration
@pytest.mark.full
@pytest.mark.timeout(1700)
def test_a_dry_run_measures_everything(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu", "--dry-run"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    found = json.loads((tmp_path / "benchmarks-out/gpu.json").read_text())
    assert set(found["results"]) == set(gpu.NAMES)
    compared = {(row["measured"].split(",")[0], row["against"]) for row in found["rows"]}
    assert compared == {
        ("labelled rows/s", "bare vLLM"), ("trained tokens/s", "reference trainer"), ("answers/s", "bare engine"),
        ("answers/s", "vllm serve"), *(("answers/s", row["against"]) for row in found["rows"] if "FastAPI" in row["against"]),
    }  # fmt: skip
    trained = [row for row in found["rows"] if row["against"] == "reference trainer"]
    assert len(trained) == 4
    assert all(row["ratio"] > 0 and row["our MFU"] > 0 and row["its MFU"] > 0 for row in trained)
