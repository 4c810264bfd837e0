"""The steps of a change of a running endpoint. The ingress never sends a request to a student that has not started or has ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ray.serve.schema import ServeApplicationSchema

from pipelines.errors import UserError
from serving.deploy.serve_config import APPLICATION
from serving.model_card import read_card
from serving.replica_client import SHARED

Running = Mapping[str, ServeApplicationSchema]
"""The applications that Serve runs, by name."""


@dataclass(frozen=True)
class Phase:
    """One step of a change."""

    applications: list[ServeApplicationSchema]
    """All applications that Serve is to run."""
    waits: list[str]
    """Names of those that must run before the next step."""
    ends: frozenset[str] = frozenset()
    """Ids of students that the next step ends. Requests that still wait for them are answered first."""


def is_ours(application: str) -> bool:
    """True if a Serve application is part of an endpoint."""
    return application == APPLICATION or application.startswith(f"{APPLICATION}-student")


def phases(running: Running, wanted: Sequence[ServeApplicationSchema], gone: Collection[str] = ()) -> list[Phase]:
    """The steps from the running applications to the wanted ones.

    Args:
        running: applications of others among them; they stay.
        wanted: the applications of the new endpoint.
        gone: students that their folders no longer hold, so that nothing could start them.
    """
    others = {name: application for name, application in running.items() if not is_ours(name)}
    new = {application.name: application for application in wanted}
    if APPLICATION not in running:
        return [Phase([*new.values(), *others.values()], list(new))]
    # New students beside the old ones; the old ingress does not know them yet.
    both = {**running, **new, APPLICATION: running[APPLICATION]}
    if SHARED in running and SHARED in new:
        both[SHARED] = _merged(_without(running[SHARED], gone), new[SHARED])
    routed = {**both, APPLICATION: new[APPLICATION]}
    final = {**others, **new}
    # The first step does not wait for the old ingress: it may be what the change repairs.
    steps = [
        Phase(list(both.values()), [name for name in new if name != APPLICATION]),
        Phase(list(routed.values()), [APPLICATION], _students(running) - _students(new)),
    ]
    return steps if final == routed else [*steps, Phase(list(final.values()), list(new))]


def restored(
    running: Running, wanted: Sequence[ServeApplicationSchema], gone: Collection[str] = ()
) -> list[ServeApplicationSchema]:
    """The applications from before a change that failed, as far as they can start. Arguments as of `phases`.

    A student that its folder no longer holds stays as the change has it, or is left out.
    """
    new = {application.name: application for application in wanted}
    return [
        new.get(name, application) if application.args.get("student") in gone else _without(application, gone)
        for name, application in running.items()
    ]


def gone_students(running: Running) -> set[str]:
    """Ids of running students that their folders no longer hold."""
    gone = set()
    for name, application in running.items():
        if not is_ours(name) or name == APPLICATION:
            continue
        args = application.args
        students = args["students"] if "students" in args else {args["student"]: args["folder"]}
        for student_id, folder in students.items():
            fingerprint = args.get("fingerprints", {}).get(student_id) or args.get("fingerprint")
            try:
                read_card(student_id, folder, task_code=True, fingerprint=fingerprint)
            except UserError:
                gone.add(student_id)
    return gone


def _students(applications: Running) -> frozenset[str]:
    """Ids of the students that these applications serve."""
    found: set[str] = set()
    for name, application in applications.items():
        if is_ours(name) and name != APPLICATION:
            args = application.args
            found |= set(args["students"]) if "students" in args else {args["student"]}
    return frozenset(found)


def _without(application: ServeApplicationSchema, gone: Collection[str]) -> ServeApplicationSchema:
    """The application without some of the students that share its replicas. Other applications stay unchanged."""
    if "students" not in application.args:
        return application
    kept = {
        key: {
            student_id: value for student_id, value in application.args.get(key, {}).items() if student_id not in gone
        }
        for key in ("students", "fingerprints")
    }
    return application.model_copy(update={"args": {**application.args, **kept}})


def _merged(old: ServeApplicationSchema, new: ServeApplicationSchema) -> ServeApplicationSchema:
    """The new application of students that share replicas, with the old one's students added."""
    both = {key: {**old.args.get(key, {}), **new.args[key]} for key in ("students", "fingerprints")}
    return new.model_copy(update={"args": {**new.args, **both}})
