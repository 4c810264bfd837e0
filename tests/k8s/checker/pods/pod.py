"""A whole Pod, as the API server validates it when it is created (Kubernetes 1.36, pkg/apis/core/validation)."""

from __future__ import annotations

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, mapping
from tests.k8s.checker.pods.containers import container_findings
from tests.k8s.checker.pods.fields import MAX_INT32, OBJECT_NAME, at_least, exactly_one, one_of, written
from tests.k8s.checker.pods.metadata import template_metadata_findings
from tests.k8s.checker.pods.network import network_findings
from tests.k8s.checker.pods.resources import pod_resource_findings
from tests.k8s.checker.pods.scheduling import scheduling_findings
from tests.k8s.checker.pods.security import pod_security_findings
from tests.k8s.checker.pods.systems import pod_system_findings
from tests.k8s.checker.pods.templates import Template
from tests.k8s.checker.pods.volumes import volume_findings
from tests.k8s.checker.problem import Findings, rule

CONTAINERS = rule("pod/no-container", "give the Pod at least one container")
NAMES = rule("pod/name", "name it with lower-case letters, digits and '-'")
EPHEMERAL = rule("pod/ephemeral-container", "drop ephemeralContainers: they are added to running Pods only")
SHARED = rule("pod/shared-processes", "keep one of hostPID and shareProcessNamespace")
HOST_USERS = rule("pod/host-users", "drop hostUsers: false, or hostNetwork, hostPID and hostIPC")
CLAIM = rule("pod/claim-source", "name a resourceClaim or a template, not both")
CLAIM_TWICE = rule("pod/claim-twice", "name each resource claim of the Pod differently")
GATES = rule("pod/scheduling-gates", "name each gate once, and no node beside them")
PRIORITY = rule("pod/priority", "name a priorityClassName, and leave priority and preemptionPolicy to the class")
OVERHEAD = rule("pod/overhead", "name a runtimeClassName, and leave overhead to the class")
RESTART = rule("pod/restart-policy", "take the restart policy that the workload allows")

# The classes that every server has, and what a Pod without a class gets where the cluster has no default class.
_PRIORITIES = {"": 0, "system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


def pod_findings(template: Template) -> Findings:
    """In: a Pod template. Out: what a server refuses a Pod of it for."""
    spec, path = template.spec, template.spec_path
    if not spec.get("containers"):
        yield CONTAINERS.at(f"{path}.containers", "none")
    yield from template_metadata_findings(template)
    yield from container_findings(spec, path)
    yield from volume_findings(spec, path)
    yield from scheduling_findings(spec, path, mapping(template.node, "metadata.labels"))
    yield from pod_security_findings(spec, path)
    yield from pod_system_findings(spec, path)
    if spec.get("resources"):
        yield from pod_resource_findings(spec, path)
    yield from _policy_findings(template)
    yield from _name_findings(spec, path)
    yield from network_findings(spec, path)
    yield from _class_findings(spec, path)
    yield from _claim_findings(spec, path)
    yield from _host_findings(spec, path)
    if spec.get("ephemeralContainers"):
        yield EPHEMERAL.at(f"{path}.ephemeralContainers", "set in a template")


def _policy_findings(template: Template) -> Findings:
    spec, path = template.spec, template.spec_path
    policy = spec.get("restartPolicy")
    yield from one_of(spec, "restartPolicy", ("Always", "OnFailure", "Never"), path, empty_is_unset=True)
    if template.role in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet") and policy not in (None, "", "Always"):
        yield RESTART.at(f"{path}.restartPolicy", f"{policy} in a {template.role}")
    if template.role in ("Job", "CronJob") and policy not in ("OnFailure", "Never"):
        yield RESTART.at(f"{path}.restartPolicy", f"{policy or 'Always'} in a {template.role}")
    # KubeRay fills in Never for its submitter, which becomes a Job.
    if template.role == "submitter" and policy == "Always":
        yield RESTART.at(f"{path}.restartPolicy", "Always in the submitter's Job")
    yield from one_of(spec, "preemptionPolicy", ("Never", "PreemptLowerPriority"), path)
    yield from at_least(spec, "activeDeadlineSeconds", 1, path, MAX_INT32)


def _name_findings(spec: Node, path: str) -> Findings:
    for key in ("serviceAccountName", "priorityClassName", "nodeName", "runtimeClassName"):
        # The server's type has a pointer for the runtime class alone.
        yield from written(NAMES, spec, key, syntax.dns_subdomain, path, empty_is_unset=key != "runtimeClassName")
    for key in ("hostname", "subdomain"):
        yield from written(NAMES, spec, key, syntax.dns_label, path, empty_is_unset=True)
    for kind, key in (("readinessGates", "conditionType"), ("schedulingGates", "name")):
        for place, gate in elements(spec, kind, path):
            yield from written(NAMES, gate, key, syntax.qualified_name, place, required=True)
    gates = [gate.get("name") for _, gate in elements(spec, "schedulingGates")]
    if len(gates) != len(set(gates)):
        yield GATES.at(f"{path}.schedulingGates", "one stands in the Pod twice")
    if gates and spec.get("nodeName"):
        yield GATES.at(f"{path}.nodeName", f"{spec['nodeName']} beside schedulingGates")


def _class_findings(spec: Node, path: str) -> Findings:
    """What the server takes from the Pod's classes; what other classes than its own say is not known here."""
    priority = _PRIORITIES.get(spec.get("priorityClassName") or "")
    if priority is not None:
        if spec.get("priority") not in (None, priority):
            yield PRIORITY.at(f"{path}.priority", f"{spec['priority']}, and the class says {priority}")
        if spec.get("preemptionPolicy") == "Never":
            yield PRIORITY.at(f"{path}.preemptionPolicy", "Never, and the class says PreemptLowerPriority")
    if spec.get("overhead") and spec.get("runtimeClassName") is None:
        yield OVERHEAD.at(f"{path}.overhead", "set without a runtimeClassName")


def _claim_findings(spec: Node, path: str) -> Findings:
    names: set[str] = set()
    for place, claim in elements(spec, "resourceClaims", path):
        name = str(claim.get("name", ""))
        yield from written(NAMES, claim, "name", syntax.dns_label, place, required=True)
        if name in names:
            yield CLAIM_TWICE.at(f"{place}.name", f"{name!r} stands in the Pod twice")
        names.add(name)
        yield from exactly_one(CLAIM, claim, ("resourceClaimName", "resourceClaimTemplateName"), place)
        for key in ("resourceClaimName", "resourceClaimTemplateName"):
            yield from written(OBJECT_NAME, claim, key, syntax.dns_subdomain, place)


def _host_findings(spec: Node, path: str) -> Findings:
    if spec.get("hostPID") is True and spec.get("shareProcessNamespace") is True:
        yield SHARED.at(f"{path}.shareProcessNamespace", "true with hostPID")
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get("hostUsers") is False and spec.get(key) is True:
            yield HOST_USERS.at(f"{path}.{key}", "true with hostUsers: false")
