"""References between objects: what one names has to be among the others, or be declared as coming from elsewhere.

    reference_problems(objects, externals={"Secret/raystill-token"})

An external is KIND/NAME, in whatever namespace. What the platform has to offer is asked for in the same way: Gate/RayCronJob is a gate
of the operator that is off by default, GatewayClass/istio a class of gateways.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tests.k8s.checker.nodes import Node, elements, get, mapping
from tests.k8s.checker.pods import Template, pod_templates
from tests.k8s.checker.pods.templates import CLUSTERS
from tests.k8s.checker.problem import Findings, rule

MISSING = rule("reference/missing", "add the object, correct its name, or list it among the externals as KIND/NAME")
KEY = rule("reference/missing-key", "add the key to the object, or correct it")
TWICE = rule("reference/defined-twice", "keep one object of a kind and name in a namespace")
MOUNT = rule(
    "reference/autoscaler-mount", "add the volume to the head's template: the autoscaler runs in the head's Pod"
)

_ALWAYS = {"ServiceAccount/default", "PriorityClass/system-cluster-critical", "PriorityClass/system-node-critical"}
_FROM_ENV = {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}
_FROM_ENV_ALL = {"secretRef": "Secret", "configMapRef": "ConfigMap"}
_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


@dataclass(frozen=True)
class Reference:
    """A name of another object in `namespace` (empty: of the whole cluster); `key` is one of its keys, if a key is asked for."""

    path: str
    kind: str
    name: str
    namespace: str
    key: str | None = None


class Inventory:
    """Objects by kind, namespace and name."""

    def __init__(self, objects: Sequence[Node], externals: Collection[str]) -> None:
        self._objects: dict[tuple[str, str, str], Node] = {}
        self._externals = {*externals, *_ALWAYS}
        self.twice: list[Node] = []
        for item in objects:
            key = (str(item.get("kind")), namespace_of(item), str(get(item, "metadata.name")))
            if key in self._objects and get(item, "metadata.name"):
                self.twice.append(item)
            self._objects[key] = item

    def findings(self, reference: Reference) -> Findings:
        """Nothing where the object, and its key, are there."""
        if f"{reference.kind}/{reference.name}" in self._externals:
            return
        found = self._objects.get((reference.kind, reference.namespace, reference.name))
        found = found or self._objects.get((reference.kind, "", reference.name))
        if found is None:
            where = f" in namespace {reference.namespace}" if reference.namespace else ""
            yield MISSING.at(reference.path, f"there is no {reference.kind} {reference.name}{where}")
        elif reference.key is not None:
            keys = {key for part in ("data", "binaryData", "stringData") for key in mapping(found, part)}
            if reference.key not in keys:
                yield KEY.at(reference.path, f"{reference.kind} {reference.name} has no key {reference.key}")


def namespace_of(item: Node) -> str:
    """The namespace that an object names, empty where it names none."""
    return str(get(item, "metadata.namespace") or "")


def reference_findings(item: Node, inventory: Inventory) -> Findings:
    """In: an object and what there is. Out: names that lead nowhere."""
    if any(item is other for other in inventory.twice):
        yield TWICE.at("metadata.name", "there is an object of this kind and name before it")
    for reference in _references(item):
        yield from inventory.findings(reference)
    if item.get("kind") in CLUSTERS:
        yield from _autoscaler_findings(item)


def _references(item: Node) -> Iterator[Reference]:
    kind, namespace = item.get("kind"), namespace_of(item)
    for template in pod_templates(item):
        yield from _template_references(template, namespace)
    if kind in CLUSTERS:
        yield from _cluster_references(item, namespace)
    queue = mapping(item, "metadata.labels").get(_QUEUE_LABEL)
    if queue:
        yield Reference(f"metadata.labels[{_QUEUE_LABEL}]", "LocalQueue", str(queue), namespace)
    selected = mapping(item, "spec.clusterSelector").get("ray.io/cluster")
    if selected:
        yield Reference("spec.clusterSelector", "RayCluster", str(selected), namespace)
    if kind == "RayCronJob":
        # Without its gate the operator never looks at one, in silence.
        yield Reference("kind", "Gate", "RayCronJob", "")
    gateway = get(item, "spec.upgradeStrategy.clusterUpgradeOptions.gatewayClassName")
    if gateway:
        yield Reference("spec.upgradeStrategy.clusterUpgradeOptions.gatewayClassName", "GatewayClass", str(gateway), "")
    if kind == "StatefulSet" and get(item, "spec.serviceName"):
        yield Reference("spec.serviceName", "Service", str(get(item, "spec.serviceName")), namespace)
    if kind in ("RoleBinding", "ClusterRoleBinding"):
        role = str(get(item, "roleRef.kind"))
        yield Reference("roleRef", role, str(get(item, "roleRef.name")), namespace if role == "Role" else "")
        for path, subject in elements(item, "subjects"):
            if subject.get("kind") == "ServiceAccount":
                yield Reference(
                    path, "ServiceAccount", str(subject.get("name")), str(subject.get("namespace") or namespace)
                )
    if kind == "LocalQueue":
        yield Reference("spec.clusterQueue", "ClusterQueue", str(get(item, "spec.clusterQueue")), "")
    for path, group in elements(item, "spec.resourceGroups"):
        for place, flavor in elements(group, "flavors", path):
            yield Reference(f"{place}.name", "ResourceFlavor", str(flavor.get("name")), "")


def _cluster_references(item: Node, namespace: str) -> Iterator[Reference]:
    path = CLUSTERS[str(item["kind"])]
    cluster = mapping(item, path)
    # Without a name KubeRay makes the token's Secret itself.
    secret = get(cluster, "authOptions.secretName")
    if secret and get(cluster, "authOptions.mode") == "token":
        yield Reference(f"{path}.authOptions.secretName", "Secret", str(secret), namespace, "auth_token")
    for name in ("redisUsername", "redisPassword"):
        source = mapping(cluster, f"gcsFaultToleranceOptions.{name}.valueFrom")
        yield from _source_references(source, f"{path}.gcsFaultToleranceOptions.{name}.valueFrom", namespace)
    claim = get(cluster, "gcsFaultToleranceOptions.storage.claimName")
    if claim:
        yield Reference(
            f"{path}.gcsFaultToleranceOptions.storage.claimName", "PersistentVolumeClaim", str(claim), namespace
        )
    yield from _container_references(mapping(cluster, "autoscalerOptions"), f"{path}.autoscalerOptions", namespace)


def _template_references(template: Template, namespace: str) -> Iterator[Reference]:
    spec, path = template.spec, template.spec_path
    for place, container in template.containers():
        yield from _container_references(container, place, namespace)
    for place, volume in elements(spec, "volumes", path):
        yield from _volume_references(volume, place, namespace)
    for place, secret in elements(spec, "imagePullSecrets", path):
        yield Reference(f"{place}.name", "Secret", str(secret.get("name")), namespace)
    if spec.get("serviceAccountName"):
        yield Reference(f"{path}.serviceAccountName", "ServiceAccount", str(spec["serviceAccountName"]), namespace)
    for key, kind in (("priorityClassName", "PriorityClass"), ("runtimeClassName", "RuntimeClass")):
        if spec.get(key):
            yield Reference(f"{path}.{key}", kind, str(spec[key]), "")


def _container_references(container: Node, path: str, namespace: str) -> Iterator[Reference]:
    for place, entry in elements(container, "env", path):
        yield from _source_references(mapping(entry, "valueFrom"), f"{place}.valueFrom", namespace)
    for place, entry in elements(container, "envFrom", path):
        for key, kind in _FROM_ENV_ALL.items():
            source = mapping(entry, key)
            if source and not source.get("optional"):
                yield Reference(f"{place}.{key}", kind, str(source.get("name")), namespace)


def _source_references(source: Node, path: str, namespace: str) -> Iterator[Reference]:
    for key, kind in _FROM_ENV.items():
        target = mapping(source, key)
        if target and not target.get("optional"):
            yield Reference(f"{path}.{key}", kind, str(target.get("name")), namespace, str(target.get("key")))


def _volume_references(volume: Node, path: str, namespace: str) -> Iterator[Reference]:
    claim = get(volume, "persistentVolumeClaim.claimName")
    if claim:
        yield Reference(f"{path}.persistentVolumeClaim", "PersistentVolumeClaim", str(claim), namespace)
    sources = [
        (path, volume, "secretName"),
        *((place, entry, "name") for place, entry in elements(volume, "projected.sources", path)),
    ]
    for place, holder, secret_name in sources:
        for key, kind, name in (("secret", "Secret", secret_name), ("configMap", "ConfigMap", "name")):
            source = mapping(holder, key)
            if source and not source.get("optional"):
                yield Reference(f"{place}.{key}", kind, str(source.get(name)), namespace)
                for item_place, item in elements(source, "items", f"{place}.{key}"):
                    yield Reference(f"{item_place}.key", kind, str(source.get(name)), namespace, str(item.get("key")))


def _autoscaler_findings(item: Node) -> Findings:
    path = CLUSTERS[str(item["kind"])]
    cluster = mapping(item, path)
    volumes = {volume.get("name") for _, volume in elements(cluster, "headGroupSpec.template.spec.volumes")}
    for place, mount in elements(cluster, "autoscalerOptions.volumeMounts", path):
        if mount.get("name") not in volumes:
            yield MOUNT.at(place, f"the head's Pod has no volume {mount.get('name')!r}")
