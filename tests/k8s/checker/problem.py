"""What a check reports."""

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """One broken rule at one place. `rule` is LAYER/NAME; apiserver, operator, pod, reference or ours refuses the object."""

    object: str
    path: str
    rule: str
    message: str

    @property
    def layer(self) -> str:
        return self.rule.partition("/")[0]

    def __str__(self) -> str:
        return f"{self.object}: {self.path}: {self.message} [{self.rule}]"


def title(item: Object) -> str:
    """Kind and name of an object."""
    return f"{item.get('kind')} {item.get('metadata', {}).get('name')}"
