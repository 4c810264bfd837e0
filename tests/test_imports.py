"""Import boundaries: what a fresh process loads, and which packages may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "vllm", "deepspeed", "ctranslate2", "openai", "ray.data", "ray.train")
STAGES = ("pipelines.label", "pipelines.train", "pipelines.evaluate")
ABOVE_STAGES = ("pipelines.compare", "pipelines.run", "pipelines.checks", "pipelines.status", "cluster", "serving")
SHARED = (
    "config", "data", "reports", "runtime", "scoring", "storage", "students", "tasks", "errors.py", "methods.py", "reuse.py",
)  # fmt: skip


def loaded(code: str, modules: tuple[str, ...]) -> str:
    """Those of the modules that a fresh process has loaded after the code."""
    command = [sys.executable, "-c", f"{code}; import sys; print([m for m in {modules!r} if m in sys.modules])"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "module", ["cluster.cli", "serving.app, serving.deploy.rollout, serving.deploy.serve_config", "pipelines.config", "pipelines.tasks",
               "pipelines.label.stage", "pipelines.train.stage", "pipelines.evaluate.stage", "pipelines.compare.stage",
               "pipelines.label.teachers.openai", "cluster.planning.plan"],
)  # fmt: skip
def test_module_loads_nothing_heavy(module: str) -> None:
    assert loaded(f"import {module}", HEAVY) == "[]"


def test_help_loads_neither_ray_nor_pydantic() -> None:
    code = "import cluster.cli; cluster.cli.main(['--help'], standalone_mode=False)"
    assert loaded(code, ("ray", "pydantic", "pyarrow", "torch", "rich", "yaml")) == "[]"


def imports_of(path: Path) -> dict[Path, set[str]]:
    """What each file of a package, or one module, imports."""
    found: dict[Path, set[str]] = {}
    for file in [path] if path.is_file() else path.rglob("*.py"):
        found[file] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[file] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found[file] |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def check_imports(path: Path, forbidden: tuple[str, ...]) -> None:
    for file, names in imports_of(path).items():
        crossing = [name for name in names if any(name == one or name.startswith(f"{one}.") for one in forbidden)]
        assert not crossing, f"{file}: {crossing}"


@pytest.mark.parametrize("stage", STAGES)
def test_stages_import_neither_each_other_nor_upwards(stage: str) -> None:
    others = tuple(other for other in STAGES if other != stage)
    check_imports(ROOT / stage.replace(".", "/"), (*others, *ABOVE_STAGES))


def test_compare_and_serving_import_only_shared_modules() -> None:
    label = tuple(f"pipelines.label.{name}" for name in ("stage", "driver", "engines", "output", "reporting"))
    check_imports(ROOT / "pipelines" / "compare", ("pipelines.evaluate", *label, "pipelines.run", "cluster", "serving"))
    check_imports(ROOT / "serving", (*STAGES, *(name for name in ABOVE_STAGES if name != "serving")))


@pytest.mark.parametrize("module", SHARED)
def test_shared_modules_import_no_stage(module: str) -> None:
    check_imports(ROOT / "pipelines" / module, (*STAGES, *ABOVE_STAGES))
