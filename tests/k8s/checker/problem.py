"""What a check reports."""

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """One broken rule at one place.

    >>> print(Problem("RayJob label", "spec.suspend", "operator/suspend", "Set shutdownAfterJobFinishes: true."))
    RayJob label: spec.suspend: Set shutdownAfterJobFinishes: true. [operator/suspend]
    """

    object: str
    path: str
    rule: str
    """LAYER/NAME; the layer refuses the object: apiserver, operator, pod, reference or ours."""
    message: str

    @property
    def layer(self) -> str:
        """Who refuses the object."""
        return self.rule.partition("/")[0]

    def __str__(self) -> str:
        return f"{self.object}: {self.path}: {self.message} [{self.rule}]"


def title(item: Object) -> str:
    """Kind and name of an object."""
    return f"{item.get('kind')} {item.get('metadata', {}).get('name')}"
