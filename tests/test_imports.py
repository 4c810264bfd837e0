"""Import boundaries, each looked at in a fresh process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "vllm", "deepspeed", "openai", "ray.data", "ray.train")
STAGES = ("label", "train", "evaluate")


@pytest.mark.parametrize(
    "module", ["cluster.cli", "serving.app", "pipelines.config", "pipelines.tasks", "pipelines.label.stage", "pipelines.train.stage",
               "pipelines.evaluate.stage", "pipelines.compare.stage", "pipelines.label.teachers.openai", "cluster.planning.plan"],
)  # fmt: skip
def test_module_loads_nothing_heavy(module: str) -> None:
    code = f"import {module}, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_loads_neither_ray_nor_pydantic() -> None:
    code = "import sys, cluster.cli; print([m for m in ('ray', 'pydantic', 'pyarrow', 'torch') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def in_package(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("stage", STAGES)
def test_stages_do_not_import_each_other(stage: str) -> None:
    others = tuple(f"pipelines.{other}" for other in STAGES if other != stage)
    for file in (ROOT / "pipelines" / stage).rglob("*.py"):
        crossing = [name for name in imports_of(file) if in_package(name, (*others, "cluster", "serving"))]
        assert not crossing, f"{file}: {crossing}"


def test_serving_imports_only_the_shared_modules() -> None:
    stages = tuple(f"pipelines.{stage}" for stage in STAGES)
    for file in (ROOT / "serving").rglob("*.py"):
        crossing = [name for name in imports_of(file) if in_package(name, (*stages, "pipelines.run", "cluster"))]
        assert not crossing, f"{file}: {crossing}"
