"""A whole Pod, as the API server validates it when it is created (Kubernetes 1.36, pkg/apis/core/validation)."""

from __future__ import annotations

import ipaddress

from tests.k8s.checker import syntax
from tests.k8s.checker.metadata import ANNOTATIONS, LABELS, annotation_findings, label_findings
from tests.k8s.checker.nodes import Node, elements, get, mapping
from tests.k8s.checker.pods.containers import container_findings, security_findings
from tests.k8s.checker.pods.fields import MAX_INT32, at_least, one_of
from tests.k8s.checker.pods.resources import pod_resource_findings
from tests.k8s.checker.pods.scheduling import scheduling_findings
from tests.k8s.checker.pods.templates import Template
from tests.k8s.checker.pods.volumes import volume_findings
from tests.k8s.checker.problem import Findings, rule

CONTAINERS = rule("pod/no-container", "give the Pod at least one container")
POD_LABEL = rule("pod/label", LABELS.todo)
POD_ANNOTATION = rule("pod/annotation", ANNOTATIONS.todo)
GROUP_NAME = rule("pod/group-name", "name the group with letters, digits and '-': Pods and labels take its name")
NAMES = rule("pod/name", "name it with lower-case letters, digits and '-'")
EPHEMERAL = rule("pod/ephemeral-container", "drop ephemeralContainers: they are added to running Pods only")
DNS = rule("pod/dns", "give dnsPolicy None a nameserver; nameservers are at most 3 addresses")
HOST_ALIAS = rule("pod/host-alias", "write an IP address and host names")
SHARED = rule("pod/shared-processes", "keep one of hostPID and shareProcessNamespace")
CLAIM = rule("pod/claim-source", "name a resourceClaim or a template, not both")
RESTART = rule("pod/restart-policy", "take the restart policy that the workload allows")

_DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")


def pod_findings(template: Template) -> Findings:
    """In: a Pod template. Out: what a server refuses a Pod of it for."""
    spec, path = template.spec, template.spec_path
    if not spec.get("containers"):
        yield CONTAINERS.at(f"{path}.containers", "none")
    yield from _metadata_findings(template)
    yield from container_findings(spec, path)
    yield from volume_findings(spec, path)
    yield from scheduling_findings(spec, path)
    yield from security_findings(mapping(spec, "securityContext"), f"{path}.securityContext")
    if spec.get("resources"):
        yield from pod_resource_findings(spec, path)
    yield from _policy_findings(template)
    yield from _name_findings(spec, path)
    yield from _network_findings(spec, path)
    if spec.get("ephemeralContainers"):
        yield EPHEMERAL.at(f"{path}.ephemeralContainers", "set in a template")
    if spec.get("hostPID") is True and spec.get("shareProcessNamespace") is True:
        yield SHARED.at(f"{path}.shareProcessNamespace", "true with hostPID")
    for place, claim in elements(spec, "resourceClaims", path):
        if bool(claim.get("resourceClaimName")) == bool(claim.get("resourceClaimTemplateName")):
            yield CLAIM.at(place, "both or neither are set")


def _metadata_findings(template: Template) -> Findings:
    metadata = mapping(template.node, "metadata")
    for finding in label_findings(metadata, template.metadata_path):
        yield POD_LABEL.at(finding.path, finding.wrong)
    for finding in annotation_findings(metadata, template.metadata_path):
        yield POD_ANNOTATION.at(finding.path, finding.wrong)
    name = template.group.get("groupName")
    if name is not None:
        # KubeRay lower-cases a Pod's name, and labels the Pod with the group's name as it is.
        wrong = syntax.dns_subdomain(f"x-{name}".lower()) or syntax.label_value(name)
        if wrong or not name:
            yield GROUP_NAME.at(f"{template.path.rpartition('.')[0]}.groupName", wrong or "empty")


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
    yield from one_of(mapping(spec, "os"), "name", ("linux", "windows"), f"{path}.os")
    yield from at_least(spec, "activeDeadlineSeconds", 1, path, MAX_INT32)


def _name_findings(spec: Node, path: str) -> Findings:
    for key in ("serviceAccountName", "priorityClassName", "runtimeClassName", "nodeName"):
        wrong = syntax.dns_subdomain(str(spec[key])) if spec.get(key) else None
        if wrong:
            yield NAMES.at(f"{path}.{key}", wrong)
    for key in ("hostname", "subdomain"):
        wrong = syntax.dns_label(str(spec[key])) if spec.get(key) else None
        if wrong:
            yield NAMES.at(f"{path}.{key}", wrong)
    for kind, key in (("readinessGates", "conditionType"), ("schedulingGates", "name")):
        for place, gate in elements(spec, kind, path):
            wrong = syntax.qualified_name(str(gate.get(key, "")))
            if wrong:
                yield NAMES.at(f"{place}.{key}", wrong)


def _network_findings(spec: Node, path: str) -> Findings:
    yield from one_of(spec, "dnsPolicy", _DNS_POLICIES, path, empty_is_unset=True)
    servers = get(spec, "dnsConfig.nameservers") or []
    if spec.get("dnsPolicy") == "None" and not servers:
        yield DNS.at(f"{path}.dnsConfig.nameservers", "none, and dnsPolicy is None")
    if len(servers) > 3:
        yield DNS.at(f"{path}.dnsConfig.nameservers", f"{len(servers)} nameservers")
    for index, server in enumerate(servers):
        if not _is_address(server):
            yield DNS.at(f"{path}.dnsConfig.nameservers[{index}]", f"{server!r} is no address")
    for place, alias in elements(spec, "hostAliases", path):
        if not _is_address(alias.get("ip")):
            yield HOST_ALIAS.at(f"{place}.ip", f"{alias.get('ip')!r} is no address")
        for index, name in enumerate(alias.get("hostnames") or []):
            if syntax.dns_subdomain(str(name)):
                yield HOST_ALIAS.at(f"{place}.hostnames[{index}]", str(syntax.dns_subdomain(str(name))))


def _is_address(text: object) -> bool:
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return True
