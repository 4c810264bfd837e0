"""`raystill serve`: students behind an endpoint, until a signal, or detached on a cluster."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import RunConfig
from pipelines.config.load import apply_overrides, load_run, parse_run
from pipelines.errors import UserError
from pipelines.runtime.extras import require_extra
from pipelines.runtime.terminal import out, say

if TYPE_CHECKING:
    from serving.deploy.first_request import FirstRequest
    from serving.deploy.rollout import Endpoint


@dataclass(frozen=True)
class Output:
    """What the command prints, and how much of Ray's logs."""

    as_json: bool
    verbose: bool
    request: FirstRequest | None = None


def named_students(arguments: Sequence[str]) -> dict[str, str]:
    """{name: folder} of NAME=FOLDER, NAME@VERSION=FOLDER or FOLDER. Without a name: the name of the folder,
    or of the one that holds a folder `student`.

    Raises:
        UserError: two students have the same name.
    """
    students: dict[str, str] = {}
    for argument in arguments:
        name, sign, folder = argument.partition("=")
        if not sign or "/" in name:  # the `=` is part of the folder: a URI's query, or a name such as lr=1e-4
            uri = argument.partition("?")[0] if "://" in argument else argument
            folder, path = argument, Path(uri.rstrip("/")).absolute()
            name = path.parent.name if path.name == "student" else path.name
        if name in students:
            remedy = "Name them: NAME=FOLDER or NAME@VERSION=FOLDER."
            raise UserError(f"student {name}", "two students have this name", remedy)
        students[name] = folder
    return students


def named_split(arguments: Sequence[str], students: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """{name: {version: percent}} of VERSION=PERCENT or NAME@VERSION=PERCENT. Without a name: the only student with versions.

    Raises:
        UserError: a percentage is no number, a version is named twice, or a name is missing and several students have versions.
    """
    names = sorted({student.partition("@")[0] for student in students if "@" in student})
    split: dict[str, dict[str, float]] = {}
    for argument in arguments:
        version, _, percent = argument.partition("=")
        name, sign, rest = version.partition("@")
        if not sign:
            if len(names) != 1:
                rule = f"{len(names)} students have versions ({', '.join(names) or 'none'})"
                raise UserError(f"--split {argument}", rule, "Name the student: --split NAME@VERSION=PERCENT.")
            name, rest = names[0], version
        if rest in split.get(name, {}):
            rule = f"version {rest} of {name} has a share already"
            raise UserError(f"--split {argument}", rule, "Give one share for each version.")
        try:
            split.setdefault(name, {})[rest] = float(percent)
        except ValueError as error:
            rule = f"{percent!r} is no percentage"
            raise UserError(f"--split {argument}", rule, "Write VERSION=PERCENT, such as new=10.") from error
    return split


def run_endpoint(
    arguments: tuple[str, ...], run_file: str | None, overrides: tuple[str, ...], *, split: tuple[str, ...],
    print_config: bool, detach: bool, as_json: bool, verbose: bool,
) -> None:  # fmt: skip
    """The command; see `raystill serve --help`."""
    require_extra("serve")
    from cluster.environment import ray_address
    from cluster.session.command_log import command_log
    from serving.deploy.port import check_port

    run = load_run(run_file, overrides) if run_file else _serving_only(overrides)
    if ray_address() is None and not (
        print_config or detach
    ):  # first: what follows takes seconds, and Ray's start more
        check_port(run.serving.host, run.serving.port)
    from serving.api.api_keys import KeyRing
    from serving.deploy.first_request import first_request
    from serving.deploy.serve_config import as_document, endpoint_config, with_absolute_file

    students = named_students(arguments)
    shares = named_split(split, students)
    config = endpoint_config(students, run.serving, shares, every_node=print_config)
    if print_config:
        import yaml

        document = as_document(config)
        print(json.dumps(document) if as_json else yaml.safe_dump(document, sort_keys=False), end="")
        return
    if ray_address() is None:  # on a cluster, the ingress may have other files and variables than this machine
        KeyRing(with_absolute_file(run.serving.keys))
    serve = _serve_detached if detach else _serve_until_signal
    with command_log("serve", verbose=verbose):
        serve(run, students, shares, Output(as_json, verbose, first_request(students, run.serving)))


def _serve_detached(
    run: RunConfig, students: Mapping[str, str], split: dict[str, dict[str, float]], output: Output
) -> None:
    from cluster.environment import ray_address
    from cluster.session.start import ray_session
    from serving.deploy.rollout import serve_students

    if ray_address() is None:
        rule = "the Ray that this command starts ends with the command"
        raise UserError("--detach", rule, "Set RAY_ADDRESS to a cluster, or leave --detach out.")
    with ray_session(run, ["serve"], verbose=output.verbose):
        endpoint = serve_students(students, run.serving, split)
        _print_endpoint(endpoint, output, stop="Stop it with `serve shutdown`")


def _serve_until_signal(
    run: RunConfig, students: Mapping[str, str], split: dict[str, dict[str, float]], output: Output
) -> None:
    from cluster.environment import ray_address
    from cluster.session.start import ray_session
    from serving.deploy.rollout import serve_students

    stop = threading.Event()
    say(f"serve: starting {', '.join(students)}")
    ray_ends = ray_address() is None
    with ray_session(run, ["serve"], verbose=output.verbose):
        endpoint = serve_students(students, run.serving, split, ray_ends=ray_ends)
        try:
            # Only now: a signal during the start ends the start.
            before = {
                number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)
            }
            _print_endpoint(endpoint, output, stop="Stop it with Ctrl-C")
            stop.wait()
            for number, handler in before.items():
                signal.signal(number, handler)
            say(f"draining for at most {endpoint.drain_s:g} s; Ctrl-C stops it at once")
        finally:
            endpoint.shutdown(ray_ends=ray_ends)


def _print_endpoint(endpoint: Endpoint, output: Output, *, stop: str) -> None:
    metrics = _metrics_url()
    if output.as_json:
        lines = [json.dumps({"url": endpoint.url, "students": list(endpoint.models), "metrics": metrics})]
    else:
        lines = [
            f"{', '.join(endpoint.models)} at {endpoint.url}. {stop}. Try it in a browser there, or:",
            *(f"  {line}" for line in (output.request.lines(endpoint.url) if output.request else ())),
            *([f"  metrics {metrics}"] if metrics else []),
        ]
    print("\n".join(lines), file=out(), flush=True)


def _metrics_url() -> str | None:
    """Prometheus metrics of a Ray on this machine. None on a cluster: each node has its own port."""
    import ray

    from cluster.environment import ray_address

    if ray_address() is not None:
        return None
    (node,) = ray.nodes()
    return f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"


def _serving_only(overrides: tuple[str, ...]) -> RunConfig:
    """A run of which only the serving section counts."""
    foreign = [override for override in overrides if not override.startswith("serving.")]
    if foreign:
        rule = "without --run only serving.* has an effect"
        raise UserError(f"--set {foreign[0]}", rule, "Remove it, or give --run.")
    tree = {"name": "serve", "output": ".", "task": "arithmetic", "corpus": {"train": "-"}, "teacher": {"engine": "echo"},
            "student": {"model": "-"}}  # fmt: skip
    return parse_run(apply_overrides(tree, overrides), origin="--set")
