"""`raystill serve`: students behind an endpoint until a signal ends it."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path

from pipelines.config import RunConfig
from pipelines.errors import UserError
from pipelines.run_file import apply_overrides, load_run, parse_run


def named_students(arguments: tuple[str, ...]) -> dict[str, str]:
    """NAME=FOLDER or FOLDER -> {name: folder}. A folder without a name is called after its run: the folder above `student`.

    Raises:
        UserError: two students have the same name.
    """
    students: dict[str, str] = {}
    for argument in arguments:
        name, sign, folder = argument.partition("=")
        if not sign:
            folder, path = argument, Path(argument.rstrip("/")).absolute()
            name = path.parent.name if path.name == "student" else path.name
        if name in students:
            raise UserError(f"student {name}", "two students have this name", "Name them: NAME=FOLDER.")
        students[name] = folder
    return students


def serve_until_signal(
    arguments: tuple[str, ...], run_file: str | None, overrides: tuple[str, ...], *, as_json: bool, verbose: bool
) -> None:
    """Serve until SIGINT or SIGTERM, then drain and stop."""
    from cluster.bootstrap import ray_session
    from cluster.environment import ray_address
    from serving.app import serve_students
    from serving.students import read_card

    run = load_run(run_file, overrides) if run_file else _bare_run(overrides)
    students = named_students(arguments)
    for name, folder in students.items():
        read_card(name, folder)
    stop = threading.Event()
    with ray_session(run, ["serve"], verbose=verbose):
        # Now, since Ray puts its own handler of SIGTERM in place when it starts.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        endpoint = serve_students(students, run.serving)
        try:
            if as_json:
                print(json.dumps({"url": endpoint.url, "students": list(students)}), flush=True)
            else:
                print(f"{', '.join(students)} at {endpoint.url}; Ctrl-C ends it. Try:", flush=True)
                print(f"  curl -s {endpoint.url}/v1/models", flush=True)
            stop.wait()
            print("draining", file=sys.stderr, flush=True)
        finally:
            endpoint.shutdown(ray_ends=ray_address() is None)


def _bare_run(overrides: tuple[str, ...]) -> RunConfig:
    """A run whose serving section is all that counts."""
    foreign = [o for o in overrides if not o.startswith("serving.")]
    if foreign:
        raise UserError(
            f"--set {foreign[0]}", "without --run only serving.* has an effect", "Remove it, or give --run."
        )
    tree = {"name": "serve", "output": ".", "task": "arithmetic", "corpus": {"train": "-"}, "teacher": {"engine": "echo"},
            "student": {"model": "-"}}  # fmt: skip
    return parse_run(apply_overrides(tree, overrides), origin="--set")
