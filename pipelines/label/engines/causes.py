"""The cause of an error that Ray hands to the driver: the worker's own words, without Ray's."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.errors import RaystillError, last_line

_MAX_CHARACTERS = 500
_BOILERPLATE = (
    "To change", "Refer to", "Consider provisioning", "Set max_task_retries", "See ", "class_name", "actor_id", "pid:", "namespace:", "ip:",
)  # fmt: skip
_TELLING = (
    "is dead because",
    "died because",
    "cause:",
    "Root cause",
    "killed due to",
    "memory pressure",
    "Worker exit",
)


def cause_of(error: BaseException) -> str:
    """Type and message of the innermost error of a worker; for the end of a process, Ray's own sentence about it."""
    from ray.exceptions import OutOfMemoryError, RayError

    chain = list(_chain(error))
    for found in reversed(chain):
        if isinstance(found, RaystillError):
            return str(found)
    if any(isinstance(found, OutOfMemoryError) for found in chain):
        return (
            "a worker was ended because its node ran out of memory. Give its node more, or run fewer replicas per node"
        )
    own = [
        found for found in chain if not isinstance(found, RayError) and not type(found).__module__.startswith("ray.")
    ]
    if own:
        text = " ".join(str(own[-1]).split()) or "no message"
        return _short(f"{type(own[-1]).__name__}: {text}")
    return _short(_sentence(str(chain[-1])) or last_line(chain[-1]))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, outermost first. `cause` is how Ray carries a worker's exception."""
    seen: set[int] = set()
    found: object = error
    while isinstance(found, BaseException) and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = getattr(found, "cause", None) or found.__cause__


def _sentence(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(_BOILERPLATE)]
    return next((line for line in lines if any(part in line for part in _TELLING)), lines[-1] if lines else "")


def _short(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 3] + "..."
