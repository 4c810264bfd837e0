"""Run files of overlays, and command lines as Raystill's commands parse them."""

from typing import Any

import yaml

from cluster.cli import main
from pipelines.config import RunConfig
from pipelines.config.load import parse_run
from tests.support.k8s.rendering import K8S


def run_of(name: str) -> RunConfig:
    file = K8S / "overlays" / name / "run" / "run.yaml"
    return parse_run(yaml.safe_load(file.read_text(encoding="utf-8")), origin=str(file))


def parsed_arguments(command: str, arguments: list[str]) -> dict[str, Any]:
    # Click keeps the help option of a command's first context: that must be a context below `raystill`.
    parent = main.make_context("raystill", [command])
    return main.commands[command].make_context(command, arguments, parent=parent).params
