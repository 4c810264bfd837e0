"""A Pod template's metadata: beside what every object's has to keep to, annotations that the server reads in a Pod."""

from __future__ import annotations

import re

from tests.k8s.checker import syntax
from tests.k8s.checker.metadata import (
    ANNOTATIONS,
    FINALIZERS,
    LABELS,
    annotation_findings,
    finalizer_findings,
    label_findings,
)
from tests.k8s.checker.nodes import join, mapping
from tests.k8s.checker.pods.templates import Template
from tests.k8s.checker.problem import Findings, rule
from tests.k8s.checker.quantities import integer

LABEL = rule("pod/label", LABELS.todo)
ANNOTATION = rule("pod/annotation", ANNOTATIONS.todo)
READ = rule("pod/annotation-value", "drop the annotation, or write what Kubernetes reads there")
FINALIZER = rule("pod/finalizer", FINALIZERS.todo)
GROUP_NAME = rule("pod/group-name", "name the group with letters, digits and '-': Pods and labels take its name")

_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_SECCOMP_POD, _SECCOMP = "seccomp.security.alpha.kubernetes.io/pod", "container.seccomp.security.alpha.kubernetes.io/"
_COST = re.compile(r"0|-\d+|[1-9]\d*", re.ASCII)
_APPARMOR_PROFILES = ("", "runtime/default", "unconfined")
_SECCOMP_PROFILES = ("runtime/default", "docker/default", "unconfined")
_OWN_FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion")
# What a Pod's metadata has in common with every object's; the layer is another one.
_SHARED = ((LABEL, label_findings), (ANNOTATION, annotation_findings), (FINALIZER, finalizer_findings))


def template_metadata_findings(template: Template) -> Findings:
    """In: a Pod template. Out: what is wrong with its metadata, and with the name that its group gives the Pods."""
    metadata, path = mapping(template.node, "metadata"), template.metadata_path
    for which, findings in _SHARED:
        for finding in findings(metadata, path):
            yield which.at(finding.path, finding.wrong)
    containers = {str(container.get("name")) for _, container in template.containers()}
    for key, value in mapping(metadata, "annotations").items():
        wrong = _value_error(str(key), str(value or ""), containers)
        if wrong:
            yield READ.at(join(f"{path}.annotations", str(key)), wrong)
    for index, finalizer in enumerate(metadata.get("finalizers") or []):
        if "/" not in (finalizer or "") and finalizer not in _OWN_FINALIZERS:
            yield FINALIZER.at(f"{path}.finalizers[{index}]", f"{finalizer!r} has no domain")
    name = template.group.get("groupName")
    if name is not None:
        # KubeRay lower-cases a Pod's name, and labels the Pod with the group's name as it is.
        wrong = syntax.dns_subdomain(f"x-{name}".lower()) or syntax.label_value(name)
        if wrong or not name:
            yield GROUP_NAME.at(f"{template.path.rpartition('.')[0]}.groupName", wrong or "empty")


def _value_error(key: str, value: str, containers: set[str]) -> str | None:
    fits = True
    if key == _DELETION_COST:
        cost = integer(value) if _COST.fullmatch(value) else None
        fits = cost is not None and -(2**31) <= cost < 2**31
    if key == _SECCOMP_POD or key.startswith(_SECCOMP):
        local = value.startswith("localhost/") and not syntax.descending_path(value.removeprefix("localhost/"))
        fits = value in _SECCOMP_PROFILES or local
    if key.startswith(_APPARMOR):
        fits = value in _APPARMOR_PROFILES or value.startswith("localhost/")
        container = key.removeprefix(_APPARMOR)
        if container not in containers:
            return f"the Pod has no container {container!r}"
    return None if fits else f"{value!r}"
