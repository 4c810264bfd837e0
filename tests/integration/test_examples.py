"""The examples: every run file can be planned, and the commands of each README run as they stand, only with shorter trainings."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cluster.cli import main
from tests.support.commands import environment

SOURCE = Path(__file__).parents[2] / "examples"
NAMES = sorted(file.parent.name for file in SOURCE.glob("*/run.yaml"))
RAYSTILL = f"""#!/bin/bash
case $1 in run) set -- "$@" --set training.epochs=1;; compare) set -- "$@" --set training.steps=4;; esac
exec {sys.executable} -m cluster "$@"
"""
pytestmark = [pytest.mark.integration]


@pytest.mark.parametrize("name", NAMES)
def test_every_run_file_can_be_planned(name: str, teacher_folder: Path) -> None:
    run_file, command = str(SOURCE / name / "run.yaml"), ["plan"]
    if name == "10-kubernetes":
        if not (shutil.which("kustomize") or shutil.which("kubectl")):
            pytest.skip("kustomize is not installed")
        command = ["k8s", "plan", "--offline", "--overlay", str(SOURCE.parent / "k8s/overlays/dev-cpu")]
    done = CliRunner().invoke(main, [*command, run_file, "--json"])
    assert done.exit_code == 0, done.output


def test_init_prints_what_its_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher_folder: Path) -> None:
    shutil.copy(SOURCE / "05-half-gold/tickets.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    page = (SOURCE.parent / "docs/own-corpus.md").read_text()
    shown = page.partition("$ raystill init tickets.csv\n")[2].partition("```")[0].splitlines()
    printed = CliRunner().invoke(main, ["init", "tickets.csv"]).output.splitlines()
    assert [line for line in printed if not line.startswith("estimate: ")] == shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    """A copy of the examples beside the overlays, a command `raystill`, and a cache with the teacher."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(SOURCE, folder / "examples", ignore=shutil.ignore_patterns("runs", "__pycache__"))
    (folder / "k8s").symlink_to(SOURCE.parent / "k8s")
    (folder / "bin").mkdir()
    (folder / "bin" / "raystill").write_text(RAYSTILL)
    (folder / "bin" / "raystill").chmod(0o755)
    (folder / "cache").mkdir()
    (folder / "cache" / teacher_folder.name).symlink_to(teacher_folder)
    return folder


def run_readme(folder: Path, name: str) -> str:
    """What the README's commands print. They must succeed."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (SOURCE / name / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**environment(), "PATH": path, "PYTHONPATH": str(SOURCE.parent), "RAYSTILL_CACHE": str(folder / "cache")}
    shell = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)], cwd=folder / "examples" / name, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = shell.communicate()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        if "raystill up" in "".join(blocks):
            subprocess.run([str(folder / "bin" / "raystill"), "down"], env=env, check=False, capture_output=True)
    assert shell.returncode == 0, f"{out[-2000:]}\n{err[-3000:]}"
    return out


@pytest.mark.full
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", NAMES)  # in this order: 07 serves the students of 01 and 05
def test_the_commands_of_each_readme_run(folder: Path, name: str) -> None:
    out, runs = run_readme(folder, name), folder / "examples" / name / "runs"
    if name == "01-own-csv":
        cells = json.loads((SOURCE / "report.ipynb").read_text())["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        subprocess.run([sys.executable, "-c", code], cwd=folder / "examples", check=True)
    if name == "04-reasoning-teacher":
        rows = pq.read_table(runs / "tickets/labels/data").to_pylist()
        assert len(rows) == 160
        assert not [row for row in rows if f"answer is {row['label']}." in row["thoughts"]]
        assert not [row for row in rows if "think" in row["rationale"]]
    if name == "06-compare":
        assert json.loads((runs / "tickets/compare/report.json").read_text())["missing"] == []
    if name == "07-serve":
        assert out.count('"confidence":') == 2
    if name == "09-growing-corpus":
        assert json.loads((runs / "tickets/labels/manifest.json").read_text())["details"]["stored"]["rows"] == 100
