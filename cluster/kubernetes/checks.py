"""What is checked before anything is created: rights, namespace, operator, GPUs, what the pods refer to, and the server's own verdict."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from cluster.kubernetes.api import Api, ApiError
from cluster.kubernetes.job import StageJob
from cluster.kubernetes.objects import (
    ACCOUNT,
    CLAIM,
    CONFIG_MAP,
    EVENT,
    HEAD,
    NAMESPACE,
    POD,
    PRIORITY,
    RAYCLUSTER,
    RAYJOB,
    RAYSERVICE,
    SECRET,
    Kind,
    Object,
    cluster_spec,
    groups,
    name_of,
    named,
    pod_templates,
    titled,
)
from cluster.kubernetes.overlay import render
from cluster.session.resources import amounts, check_resources, stage_requests
from pipelines.config import RunConfig
from pipelines.errors import UserError

_UNKNOWN_FIELD = re.compile(r'unknown field "([^"]+)"')
_UNLIMITED = 1e9
_NODES = 10_000
"""Enough for any request; a group without maxReplicas has no limit."""
CRDS = "kubectl apply --server-side -k 'github.com/ray-project/kuberay/ray-operator/config/crd?ref=v1.7.0'"


@dataclass(frozen=True)
class Right:
    """A verb on a kind."""

    verb: str
    kind: Kind
    subresource: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.kind}{'/' + self.subresource if self.subresource else ''}"


_FOLLOW = (
    Right("get", RAYJOB), Right("get", RAYCLUSTER), Right("list", POD), Right("get", POD, "log"), Right("list", EVENT),
)  # fmt: skip
RIGHTS: dict[str, tuple[Right, ...]] = {
    "run": (
        Right("create", RAYJOB), Right("delete", RAYJOB), Right("create", CONFIG_MAP), Right("patch", CONFIG_MAP),
        Right("delete", CONFIG_MAP), *_FOLLOW,
    ),
    "plan": (*(Right("get", kind) for kind in (RAYJOB, RAYSERVICE)), *(Right("create", kind) for kind in (RAYJOB, CONFIG_MAP))),
    "status": (Right("list", RAYJOB), Right("list", RAYSERVICE), *_FOLLOW[1:]),
    "logs": (*_FOLLOW, Right("list", RAYJOB)),
    "stop": (*(Right(verb, RAYJOB) for verb in ("get", "list", "delete")), Right("list", POD)),
    "down": (*(Right(verb, kind) for kind in (RAYJOB, RAYSERVICE, RAYCLUSTER) for verb in ("list", "delete")), Right("list", POD)),
}  # fmt: skip
"""What each command does."""


def check_rights(api: Api, command: str, namespace: str, more: Sequence[Right] = ()) -> None:
    """Raise UserError with every right that the command needs and the user lacks."""
    if missing := [
        right
        for right in (*RIGHTS[command], *more)
        if not api.may(right.verb, right.kind, namespace, right.subresource)
    ]:
        rule = f"`raystill k8s {command}` needs rights in namespace {namespace} that you lack: {', '.join(map(str, missing))}"
        binding = f"`kubectl -n {namespace} create rolebinding NAME --role=raystill-runner --user=YOU`"
        remedy = "It is an administrator's." if command == "down" else f"Ask an administrator for them: {binding}."
        raise UserError("rights", rule, remedy)


def check_place(api: Api, namespace: str) -> None:
    """Raise UserError if KubeRay or the namespace is missing, or if the namespace is being deleted."""
    if api.kind(RAYJOB.api_version, RAYJOB.name) is None:
        rule = "it has no KubeRay: it does not know the kind RayJob"
        raise UserError(f"cluster {api.server}", rule, "Install CRDs and operator: k8s/README.md, Install.")
    try:
        found = api.get(NAMESPACE, "", namespace)
    except ApiError as error:
        if error.code == 403:  # creating an object there says the same
            return
        raise
    if found is None:
        raise missing_namespace(namespace)
    if "deletionTimestamp" in found["metadata"]:
        raise ending_namespace(namespace)


def missing_namespace(namespace: str) -> UserError:
    """The error for a namespace that does not exist."""
    remedy = (
        "Create it (k8s/README.md, Install; docs/kubernetes.md, A second team), or correct the overlay's namespace."
    )
    return UserError(f"namespace {namespace}", "it does not exist", remedy)


def ending_namespace(namespace: str) -> UserError:
    """The error for a namespace that takes no new objects."""
    remedy = f"Wait for its end: `kubectl wait --for=delete namespace/{namespace}`. If it hangs: docs/kubernetes.md, Teardown."
    return UserError(f"namespace {namespace}", "it is being deleted and takes no new objects", remedy)


def check_gpus(run: RunConfig, stage: str, rayjob: Object, overlay: Path) -> None:
    """Raise UserError if the worker groups, at their largest, have no room for what the stage needs."""
    workers = [group for group in groups(rayjob) if group.name != HEAD]
    requests = stage_requests(run, stage)
    # Which nodes have custom resources and types of GPUs, only Ray knows.
    unknown = {kind: _UNLIMITED for request in requests for kind in request.bundle if kind not in ("CPU", "GPU")}
    nodes = [
        {"CPU": group.cpus, "GPU": group.gpus, **unknown} for group in workers for _ in range(min(group.most, _NODES))
    ]
    sizes = ", ".join(
        f"{group.name}: at most {group.most:,} of ({amounts({'GPU': group.gpus, 'CPU': group.cpus})})"
        for group in workers
    )
    for request in requests:
        try:
            check_resources(request, nodes)
        except UserError as error:
            remedy = f"Lower it in the run file, or raise maxReplicas or the pods' resources in {overlay}/{stage}."
            raise UserError(error.value, f"{error.rule}. Worker groups of the overlay: {sizes}", remedy) from error


def check_references(api: Api, rayjob: Object, overlay: Path, own: str) -> None:
    """Raise UserError with every object that the pods refer to and that does not exist.

    What the user may not read is not checked: a pod that waits for it says so later.

    Args:
        own: the ConfigMap that the command itself creates.
    """
    namespace, wanted = rayjob["metadata"]["namespace"], sorted(set(_references(rayjob)), key=str)
    missing = [
        (kind, name) for kind, name in wanted
        if (kind, name) != (CONFIG_MAP, own) and api.exists(kind, namespace, name) is False
    ]  # fmt: skip
    if not missing:
        return
    rendered = {titled(found) for found in render(overlay)}
    names = [f"{kind.name}/{name}" for kind, name in missing]
    remedies = []
    if any(name in rendered for name in names):
        remedies.append(
            f"Apply the shared objects: `kubectl apply --server-side -k {overlay} -l 'raystill.io/part!=students'`."
        )
    for kind, name in missing:
        if f"{kind.name}/{name}" not in rendered:
            secret = f"`kubectl -n {namespace} create secret ... {name}`" if kind is SECRET else f"{kind.name} {name}"
            remedies.append(f"Create {secret}, or correct its name in the overlay.")
    raise UserError(
        f"{', '.join(names)} in namespace {namespace}",
        "the job's pods need it, and it does not exist",
        " ".join(remedies),
    )


def _references(rayjob: Object) -> Iterator[tuple[Kind, str]]:
    """Kind and name of every object that the pods do not start without."""
    for template in pod_templates(rayjob).values():
        pod = template["spec"]
        for secret in pod.get("imagePullSecrets") or []:
            yield SECRET, secret["name"]
        if account := pod.get("serviceAccountName"):
            yield ACCOUNT, account
        if priority := pod.get("priorityClassName"):
            yield PRIORITY, priority
        for volume in pod.get("volumes") or []:
            if claim := volume.get("persistentVolumeClaim"):
                yield CLAIM, claim["claimName"]
            for key, kind, name in (("secret", SECRET, "secretName"), ("configMap", CONFIG_MAP, "name")):
                if (source := volume.get(key)) and not source.get("optional"):
                    yield kind, source[name]
        for container in [*(pod.get("initContainers") or []), *pod["containers"]]:
            yield from _variables(container)


def _variables(container: Object) -> Iterator[tuple[Kind, str]]:
    sources: list[Any] = [*(container.get("envFrom") or [])]
    sources += [variable["valueFrom"] for variable in container.get("env") or [] if "valueFrom" in variable]
    for source in sources:
        for key, kind in (
            ("secretRef", SECRET),
            ("secretKeyRef", SECRET),
            ("configMapRef", CONFIG_MAP),
            ("configMapKeyRef", CONFIG_MAP),
        ):
            if (found := source.get(key)) and not found.get("optional"):
                yield kind, found["name"]


def dry_run(api: Api, job: StageJob) -> None:
    """Have the server check ConfigMap, RayJob and pods, and create nothing.

    The server does not check pod templates inside a RayJob, so each is sent as a pod too, if the user may create pods.

    Raises:
        UserError: the server refuses one of them.
    """
    checked: list[tuple[Kind, Object]] = [(CONFIG_MAP, job.config_map), (RAYJOB, job.rayjob)]
    if api.may("create", POD, job.namespace):
        checked += [(POD, pod) for pod in _pods(job)]
    for kind, found in checked:
        try:
            api.create(kind, job.namespace, found, dry_run=True)
        except ApiError as error:
            if (
                "does not support dry run" in error.message
            ):  # an admission webhook of the cluster; the creation itself calls it
                click.echo(f"warning: {kind.name} is not checked: {error.message}", err=True)
            elif kind is POD and "exceeded quota" in error.message:
                click.echo(f"warning: {error.message}; the job waits until the quota has room", err=True)
            elif error.reason != "AlreadyExists":
                raise refusal(error, kind, job) from error


def _pods(job: StageJob) -> Iterator[Object]:
    templates = {group.name: group.template for group in groups(job.rayjob)}
    for name, template in templates.items():
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "generateName": f"{job.name}-{name}-",
                "labels": template.get("metadata", {}).get("labels", {}),
            },
            "spec": template["spec"],
        }


def refusal(error: ApiError, kind: Kind, job: StageJob) -> UserError | ApiError:
    """The message for an object that the server does not take."""
    if "NamespaceTerminating" in error.causes:
        return ending_namespace(job.namespace)
    if error.code == 404 and f'namespaces "{job.namespace}" not found' in error.message:
        return missing_namespace(job.namespace)
    if fields := _UNKNOWN_FIELD.findall(error.message):
        rule = f"the cluster's {kind.name} does not know {_listed(fields)}: its KubeRay is older than the overlay, or the name is wrong"
        return UserError(
            f"{kind.name} {job.name}", rule, f"Upgrade CRDs (`{CRDS}`) and operator, or remove it from the overlay."
        )
    if error.code in (400, 403, 422):
        return UserError(
            f"{kind.name} {job.name}", f"the API server refuses it: {error.message}", "Correct the overlay."
        )
    return error


def check_students(api: Api, objects: Sequence[Object]) -> None:
    """Raise UserError if applying the overlay's endpoint would leave a name without a running student.

    Another generation of the endpoint starts a second cluster, and so may change every name.
    """
    for new in named(objects, RAYSERVICE.name):
        old = api.get(RAYSERVICE, new["metadata"]["namespace"], name_of(new))
        if old is not None and _generation(old) == _generation(new):
            from serving.deploy.versions import check_names_stay, students_of

            before, after = (students_of(yaml.safe_load(one["spec"]["serveConfigV2"]) or {}) for one in (old, new))
            check_names_stay(before, after)


def _generation(service: Object) -> object:
    template = cluster_spec(service)["headGroupSpec"]["template"]
    return (template.get("metadata", {}).get("annotations") or {}).get("raystill.io/generation")


def _listed(fields: Iterable[str]) -> str:
    names: Sequence[str] = list(dict.fromkeys(fields))
    return ", ".join(names)
