"""Each role in an environment of its own: the wheel with one extra is installed, and does its work there."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.commands import environment, raystill, running, succeed, url_of
from tests.support.endpoints import free_port

pytestmark = [pytest.mark.integration, pytest.mark.full, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[2]
ARTIFACTS = Path(__file__).with_name("artifacts_0_1")
UV = Path(sys.executable).with_name("uv")
TOKEN = "a-token-of-this-test-and-no-other"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT], check=True)
    return next(folder.glob("raystill-*.whl"))


class Role:
    """An environment with one extra, and a folder with a run of 0.1."""

    def __init__(self, name: str | None, wheel: Path, folder: Path) -> None:
        self.python, self.run = folder / "env" / "bin" / "python", folder / "run"
        self.line = [str(self.python), "-m", "cluster"]
        subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, folder / "env"], check=True)
        what = f"{wheel}[{name}]" if name else str(wheel)
        pins = ("--constraint", ROOT / "constraints/cpu.txt", "--override", ROOT / "constraints/overrides.txt")
        subprocess.run([UV, "pip", "install", "--quiet", "--python", self.python, what, *pins], check=True)
        shutil.copytree(ARTIFACTS / "inputs", self.run)

    def has(self, *parts: str) -> None:
        for part in parts:
            shutil.copytree(ARTIFACTS / part, self.run, dirs_exist_ok=True)

    def command(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return raystill(*arguments, command=self.line, env={**self.variables(), **variables}, cwd=self.run)

    def json(self, *arguments: str, **variables: str) -> dict[str, Any]:
        return succeed(*arguments, command=self.line, env={**self.variables(), **variables}, cwd=self.run)

    def variables(self) -> dict[str, str]:
        return {name: value for name, value in environment().items() if name != "PYTHONPATH"}

    def modules(self, *names: str) -> set[str]:
        """Those of the modules that are installed."""
        code = f"import importlib.util as u; print(*(n for n in {names!r} if u.find_spec(n)))"
        return set(subprocess.check_output([self.python, "-c", code], text=True, env=self.variables()).split())


@pytest.fixture
def role(wheel: Path, tmp_path: Path) -> Callable[[str | None], Role]:
    return lambda name: Role(name, wheel, tmp_path)


def test_the_command_line_alone_plans_and_submits(role: Callable[[str | None], Role], tmp_path: Path) -> None:
    base = role(None)
    assert base.modules("torch", "fastapi", "openai", "deepspeed", "matplotlib") == set()
    base.has("labels_finished")
    assert base.json("plan", "run.yaml")["exists"]["label"]["reused"]
    assert base.json("status", "run.yaml")["stages"]["label"]["state"] == "finished"
    for stage, extra in (("label", "label"), ("train", "train"), ("evaluate", "train"), ("compare", "label")):
        done = base.command(stage, "run.yaml")
        assert (done.returncode, f"pip install 'raystill[{extra}]'" in done.stderr) == (2, True), done.stderr[-2000:]
    cluster = {"RAYSTILL_CACHE": str(tmp_path / "cache"), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    variables = {**environment(), **cluster, "PYTHONPATH": str(ROOT)}
    try:
        up = succeed("up", "--nodes", "1", env=variables)
        submit = ("submit", "run.yaml", "--stage", "label", "--address", up["dashboard"])
        shared = ("--shared", str(base.run), "--set", f"output={base.run / 'elsewhere'}")
        job = base.json(*submit, *shared, **cluster)
    finally:
        raystill("down", env=variables)
    assert (job["status"], job["exit_code"]) == ("succeeded", 0)
    assert (base.run / "elsewhere" / "labels" / "manifest.json").exists()


def test_the_label_role_labels(role: Callable[[str | None], Role]) -> None:
    label = role("label")
    assert label.modules("torch", "fastapi", "deepspeed", "matplotlib") == set()
    counts = label.json("label", "run.yaml")["stages"][0]["counts"]
    assert (counts["read"], counts["accepted"]) == (125, 120)


def test_the_train_role_trains_and_evaluates(role: Callable[[str | None], Role]) -> None:
    train = role("train")
    assert train.modules("limits", "openai", "vllm") == set()
    train.has("labels_finished")
    settings = ("--set", "training.epochs=2")
    assert train.json("train", "run.yaml", *settings)["stages"][0]["training"]["steps"] == 8
    assert train.json("evaluate", "run.yaml", *settings)["report"]["systems"]


def test_the_serve_role_answers(role: Callable[[str | None], Role]) -> None:
    serve = role("serve")
    assert serve.modules("deepspeed", "vllm", "matplotlib", "peft", "openai") == set()
    serve.has("student_finished")
    arguments = ("serve", "sums=out/student", "--run", "run.yaml", "--set", f"serving.port={free_port()}", "--json")
    log = serve.run / "log"
    with running(*arguments, log=log, command=serve.line, env=serve.variables(), cwd=serve.run) as process:
        url = url_of(process, log)
        answer = httpx.post(f"{url}/v1/predict", json={"inputs": ["a word"]}, timeout=120.0)
        assert answer.status_code == 200, answer.text
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
