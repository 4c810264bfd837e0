"""Options of `raystill submit`: what each means, and which combinations are refused."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from pipelines.errors import UserError

_RESERVED = {
    "CPU": "Use --driver-cpus.",
    "GPU": "A driver needs none; its stages request theirs.",
    "memory": "Name a custom resource of nodes that have enough of it.",
    "object_store_memory": "Name a custom resource of nodes that have enough of it.",
}
"""Names that Ray refuses as custom resources, and what to do instead."""


def check_options(stage: str, *, wait: bool, retries: int, replace: bool, driver_cpus: float) -> None:
    """Raise UserError for an option that has no effect here or fails in the job."""
    if not 0 <= driver_cpus < math.inf:
        raise UserError(f"--driver-cpus {driver_cpus}", "must be a number of CPUs", "Write it like 1, or leave it out.")
    if retries and not wait:
        rule = "has no effect with --no-wait: retries run in this process"
        raise UserError(f"--retries {retries}", rule, "Leave one of them out.")
    if replace and stage == "compare":
        rule = "`raystill compare` does not take it: a grid keeps finished cells"
        raise UserError("--replace", rule, "Leave it out, or set another output.")


def parse_resources(options: Sequence[str]) -> dict[str, float]:
    """{"head": 1.0} of ["head=1"]. Raises UserError for what Ray would refuse."""
    resources: dict[str, float] = {}
    for option in options:
        name, _, text = option.partition("=")
        try:
            amount = float(text)
        except ValueError:
            amount = 0.0
        if not name or not 0 < amount < math.inf:
            raise UserError(f"--driver-resource {option}", "must be NAME=NUMBER above 0", "Write it like head=1.")
        if name in _RESERVED:
            raise UserError(f"--driver-resource {option}", f"{name} is no custom resource", _RESERVED[name])
        resources[name] = amount
    return resources


def parse_variables(options: Sequence[str], key_variable: str) -> dict[str, str]:
    """{"A": "b"} of ["A=b"]; NAME alone takes this shell's value.

    Args:
        key_variable: the variable of the teacher's key, which no job may hold.

    Raises:
        UserError: there is no name, the shell has no such variable, or it is the key's.
    """
    variables = {}
    for option in options:
        name, separator, value = option.partition("=")
        if not name:
            raise UserError(f"--env {option}", "it has no name", "Write --env NAME=VALUE.")
        if name == key_variable:
            rule = "it is the teacher's key, which the job and the dashboard would show"
            raise UserError(f"--env {name}", rule, "Set it on the nodes before `ray start`: docs/remote-teacher.md.")
        if not separator and name not in os.environ:
            remedy = f"Write --env {name}=VALUE, or export it."
            raise UserError(f"--env {option}", "this shell has no such variable", remedy)
        variables[name] = value if separator else os.environ[name]
    return variables
