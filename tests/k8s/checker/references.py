"""Names and selectors between objects: what a name stands for must exist, and a selector must select a pod.

An API server accepts both mistakes. The pod then waits, or the Service has no endpoint, without an error.
"""

from collections.abc import Collection, Iterator, Sequence

from tests.k8s.checker.problem import Object, Problem, title
from tests.k8s.checker.rules import CLUSTERS, at, cluster_groups, pod_templates, walk

_BY_NAME = {"claimName": "PersistentVolumeClaim", "kueue.x-k8s.io/queue-name": "LocalQueue"}
_BY_NAME |= {
    f"{kind[0].lower()}{kind[1:]}Name": kind
    for kind in ("ServiceAccount", "Secret", "PriorityClass", "GatewayClass", "Service")
}
"""Fields whose value is the name of an object."""
_BY_REFERENCE = {"configMap": "ConfigMap", "configMapRef": "ConfigMap", "configMapKeyRef": "ConfigMap"}
_BY_REFERENCE |= {"secretRef": "Secret", "secretKeyRef": "Secret"}
"""Fields whose value has a `name`."""
_BY_LIST = {"imagePullSecrets": "Secret", "certificateRefs": "Secret", "flavors": "ResourceFlavor"}
_BY_LIST |= {"parentRefs": "Gateway"}
_RAY_LABELS = ("ray.io/cluster", "ray.io/group", "ray.io/node-type")
"""Labels that KubeRay adds to pods."""


def reference_problems(objects: Sequence[Object], externals: Collection[str]) -> Iterator[Problem]:
    """`externals`: KIND/NAME of what others provide, such as Secrets that people make."""
    known = [f"{item['kind']}/{item['metadata']['name']}" for item in objects]
    pods = [pod for item in objects for pod in _pods(item)]
    for item in objects:
        if known.count(f"{item['kind']}/{item['metadata']['name']}") > 1:
            yield Problem(title(item), "metadata.name", "reference/twice", "Keep one object of this kind and name.")
        for path, name in _references(item):
            if name not in known and name not in externals:
                fix = f"{name} does not exist. Correct the name, add the object, or list it as external."
                yield Problem(title(item), path, "reference/missing", fix)
        yield from _selector_problems(item, pods)


def _references(item: Object) -> Iterator[tuple[str, str]]:
    for path, key, value in walk(item):
        if key == "clusterQueue":
            yield path, f"ClusterQueue/{value}"
        elif key in _BY_NAME and isinstance(value, str):
            yield path, f"{_BY_NAME[key]}/{value}"
        elif key in _BY_REFERENCE and isinstance(value, dict):
            yield path, f"{_BY_REFERENCE[key]}/{value.get('name')}"
        elif key in _BY_LIST and isinstance(value, list):
            yield from ((path, f"{_BY_LIST[key]}/{entry['name']}") for entry in value)
        elif key == "roleRef":
            yield path, f"{value['kind']}/{value['name']}"
        elif key == "subjects":
            yield from ((path, f"{entry['kind']}/{entry['name']}") for entry in value)


def _selector_problems(item: Object, pods: Sequence[Object]) -> Iterator[Problem]:
    """Selectors of budgets, Services, monitors, network rules and spreads."""
    kind, spec = item["kind"], item.get("spec", {})
    selectors = [("spec.selector", {"matchLabels": spec["selector"]})] if kind == "Service" else []
    if kind in ("PodDisruptionBudget", "PodMonitor"):
        selectors.append(("spec.selector", spec["selector"]))
    if kind == "NetworkPolicy":
        selectors += [(path, one) for path, key, one in walk(spec) if key == "podSelector" and not _foreign(spec, path)]
    selectors += [(path, node) for path, key, node in walk(spec) if key == "labelSelector"]
    for path, selector in selectors:
        if not any(selects(selector, pod["labels"]) for pod in pods):
            yield Problem(title(item), path, "reference/selects-nothing", f"{selector} selects no pod.")
    for port in spec.get("ports", ()) if kind == "Service" else ():
        chosen = [pod for pod in pods if selects({"matchLabels": spec["selector"]}, pod["labels"])]
        if not any(port.get("targetPort") in pod["ports"] for pod in chosen):
            fix = f"Name a port of the selected pods: none has {port.get('targetPort')}."
            yield Problem(title(item), "spec.ports", "reference/target-port", fix)


def _foreign(spec: Object, path: str) -> bool:
    """True for a peer in other namespaces, and for pods that a Gateway's controller makes."""
    peers = {
        f"{side}[{i}].{way}[{j}].podSelector": peer
        for side in ("ingress", "egress")
        for i, rule in enumerate(spec.get(side, ()))
        for way in ("from", "to")
        for j, peer in enumerate(rule.get(way, ()))
    }
    selector = peers[path]["podSelector"] if path in peers else spec["podSelector"]
    return "namespaceSelector" in peers.get(path, {}) or "gateway.networking.k8s.io/gateway-name" in str(selector)


def _pods(item: Object) -> Iterator[Object]:
    """Labels and port names of an object's pods."""
    roles: dict[str, dict[str, str]] = {}
    if item["kind"] in CLUSTERS:
        for name, group in cluster_groups(at(item, CLUSTERS[item["kind"]])):
            role = "head" if name == "headGroupSpec" else "worker"
            values = (item["metadata"]["name"], group.get("groupName", "headgroup"), role)
            roles[f"{CLUSTERS[item['kind']]}.{name}.template"] = dict(zip(_RAY_LABELS, values, strict=True))
    for path, template in pod_templates(item):
        labels = template.get("metadata", {}).get("labels", {})
        ports = [p.get("name") for c in template["spec"]["containers"] for p in c.get("ports", ())]
        yield {"labels": {**labels, **roles.get(path, {})}, "ports": ports}


def selects(selector: Object, labels: Object) -> bool:
    """Whether a label selector with In and Exists matches the labels. An empty one matches all."""
    expressions = selector.get("matchExpressions", ())
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(entry["key"]) in entry["values"] if entry["operator"] == "In" else entry["key"] in labels
        for entry in expressions
    )
