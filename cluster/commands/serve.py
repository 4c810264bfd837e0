"""`raystill serve`: students behind an endpoint, until a signal ends it or beside this process on a cluster that goes on."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import RunConfig
from pipelines.config.load import apply_overrides, load_run, parse_run
from pipelines.errors import UserError

if TYPE_CHECKING:
    from serving.deploy.rollout import Endpoint


def named_students(arguments: tuple[str, ...]) -> dict[str, str]:
    """NAME=FOLDER, NAME@VERSION=FOLDER or FOLDER -> {name: folder}. A folder without a name is called after its run: the folder above
    `student`.

    Raises:
        UserError: two students have the same name.
    """
    students: dict[str, str] = {}
    for argument in arguments:
        name, sign, folder = argument.partition("=")
        if not sign or "/" in name:  # that `=` is of the folder: of its query, or of a name such as lr=1e-4
            uri = argument.partition("?")[0] if "://" in argument else argument
            folder, path = argument, Path(uri.rstrip("/")).absolute()
            name = path.parent.name if path.name == "student" else path.name
        if name in students:
            raise UserError(
                f"student {name}", "two students have this name", "Name them: NAME=FOLDER or NAME@VERSION=FOLDER."
            )
        students[name] = folder
    return students


def named_split(arguments: tuple[str, ...], students: dict[str, str]) -> dict[str, dict[str, float]]:
    """VERSION=PERCENT or NAME@VERSION=PERCENT -> {name: {version: percent}}. Without a name: the only one that has versions.

    Raises:
        UserError: no number, or no name where several have versions.
    """
    names = sorted({student.partition("@")[0] for student in students if "@" in student})
    split: dict[str, dict[str, float]] = {}
    for argument in arguments:
        version, _, percent = argument.partition("=")
        name, sign, rest = version.partition("@")
        if not sign:
            if len(names) != 1:
                rule = f"{len(names)} students have versions ({', '.join(names) or 'none'})"
                raise UserError(f"--split {argument}", rule, "Say which: --split NAME@VERSION=PERCENT.")
            name, rest = names[0], version
        try:
            split.setdefault(name, {})[rest] = float(percent)
        except ValueError as error:
            raise UserError(
                f"--split {argument}", f"{percent!r} is no percentage", "Write VERSION=PERCENT, as new=10."
            ) from error
    return split


def run_endpoint(
    arguments: tuple[str, ...], run_file: str | None, overrides: tuple[str, ...], *, split: tuple[str, ...],
    print_config: bool, detach: bool, as_json: bool, verbose: bool,
) -> None:  # fmt: skip
    """The command's body; see `raystill serve --help`."""
    from cluster.environment import ray_address
    from serving.api.api_keys import KeyRing
    from serving.deploy.serve_config import endpoint_config, found_anywhere

    run = load_run(run_file, overrides) if run_file else _bare_run(overrides)
    students = named_students(arguments)
    shares = named_split(split, students)
    config = endpoint_config(students, run.serving, shares, every_node=print_config)
    if print_config:
        import yaml

        print(json.dumps(config) if as_json else yaml.safe_dump(config, sort_keys=False), end="")
        return
    if ray_address() is None:  # elsewhere the ingress may have another file, and other variables
        KeyRing(found_anywhere(run.serving.keys))
    if detach:
        _detached(run, students, shares, as_json=as_json, verbose=verbose)
    else:
        _until_signal(run, students, shares, as_json=as_json, verbose=verbose)


def _detached(
    run: RunConfig, students: dict[str, str], split: dict[str, dict[str, float]], *, as_json: bool, verbose: bool
) -> None:
    from cluster.environment import ray_address
    from cluster.session.start import ray_session
    from serving.deploy.rollout import serve_students

    if ray_address() is None:
        rule = "the Ray that this command starts ends with it, and the endpoint with that"
        raise UserError("--detach", rule, "Set RAY_ADDRESS to a cluster that goes on, or leave --detach out.")
    with ray_session(run, ["serve"], verbose=verbose):
        endpoint = serve_students(students, run.serving, split)
        _tell(endpoint, as_json=as_json, ends="it goes on without this command until `serve shutdown`")


def _until_signal(
    run: RunConfig, students: dict[str, str], split: dict[str, dict[str, float]], *, as_json: bool, verbose: bool
) -> None:
    from cluster.environment import ray_address
    from cluster.session.start import ray_session
    from serving.deploy.rollout import serve_students

    stop = threading.Event()
    with ray_session(run, ["serve"], verbose=verbose):
        endpoint = serve_students(students, run.serving, split)
        try:
            # Not before: a signal while it starts ends the start.
            before = {
                number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)
            }
            _tell(endpoint, as_json=as_json, ends="Ctrl-C ends it")
            stop.wait()
            for number, handler in before.items():
                signal.signal(number, handler)
            print(
                f"draining, for {endpoint.drain_s:g} s at the most; Ctrl-C ends it at once", file=sys.stderr, flush=True
            )
        finally:
            endpoint.shutdown(ray_ends=ray_address() is None)


def _tell(endpoint: Endpoint, *, as_json: bool, ends: str) -> None:
    metrics = _metrics_url()
    if as_json:
        told = {"url": endpoint.url, "students": list(endpoint.models), "metrics": metrics}
        print(json.dumps(told), flush=True)
        return
    print(f"{', '.join(endpoint.models)} at {endpoint.url}; {ends}. A page to try them is there, and:", flush=True)
    print(f"  curl -s {endpoint.url}/v1/models", flush=True)
    if metrics:
        print(f"  metrics {metrics}", flush=True)


def _metrics_url() -> str | None:
    """Where Prometheus reads the endpoint's metrics, on a Ray of this command's own. None on a cluster: each node has a port of its own."""
    import ray

    from cluster.environment import ray_address

    if ray_address() is not None:
        return None
    (node,) = ray.nodes()
    return f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"


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
