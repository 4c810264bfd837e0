"""Changes of an endpoint's students that a RayService makes without a gap.

KubeRay hands Serve the whole configuration at once: removed applications end while new ones start. The ingress sends requests for a name to
the versions that run, so each name needs a student that stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pipelines.errors import UserError
from serving.deploy.serve_config import APPLICATION

SECOND_CLUSTER = (
    "Or set another endpoint.generation in settings.yaml: a second cluster starts, and takes over when it is ready."
)


def students_of(config: Mapping[str, Any]) -> dict[str, str]:
    """NAME or NAME@VERSION -> folder, of a Serve config as serving/deploy/serve_config.py writes it."""
    for application in config.get("applications", ()):
        if application["name"] == APPLICATION:
            return dict(application["deployments"][0]["user_config"]["students"])
    return {}


def check_names_stay(before: Collection[str], after: Collection[str]) -> None:
    """Raises UserError if a name that stays keeps none of its students.

    Args:
        before: NAME or NAME@VERSION of the running students.
        after: those of the new configuration.
    """
    for name in sorted({_name(student) for student in before} & {_name(student) for student in after}):
        old, new = ({student for student in students if _name(student) == name} for students in (before, after))
        if old & new:
            continue
        rule = f"{_listed(old)} ends before {_listed(new)} runs, and requests fail meanwhile"
        if old == {name}:
            raise UserError(f"student {name}", rule, f"Keep the name without a version. {SECOND_CLUSTER}")
        remedy = f"Keep {sorted(old)[0]} in this change, and remove it in the next one. {SECOND_CLUSTER}"
        raise UserError(f"student {name}", rule, remedy)


def _name(student: str) -> str:
    return student.partition("@")[0]


def _listed(students: Collection[str]) -> str:
    return ", ".join(sorted(students))
