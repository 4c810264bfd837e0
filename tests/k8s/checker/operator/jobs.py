"""Rules of a RayJob's spec, also as a RayCronJob's template."""

from __future__ import annotations

import yaml

from tests.k8s.checker.documents import composed, nodes
from tests.k8s.checker.nodes import Node, get, mapping
from tests.k8s.checker.operator.deletion import deletion_findings
from tests.k8s.checker.problem import Findings, rule

SUSPEND = rule("operator/suspend-needs-shutdown", "set shutdownAfterJobFinishes: true")
SUSPEND_SELECTOR = rule("operator/suspend-with-selector", "suspend only a RayJob with a cluster of its own")
TTL = rule("operator/ttl-needs-shutdown", "set shutdownAfterJobFinishes: true, or drop ttlSecondsAfterFinished")
TTL_NEGATIVE = rule("operator/negative-ttl", "take 0 or more seconds")
CLUSTER = rule("operator/no-cluster", "set rayClusterSpec or clusterSelector")
SELECTOR = rule("operator/selector-without-cluster", "name the cluster under clusterSelector's key ray.io/cluster")
SELECTOR_SIDECAR = rule("operator/selector-with-sidecar", "use another submissionMode with clusterSelector")
SELECTOR_BACKOFF = rule("operator/selector-with-backoff", "set backoffLimit: 0 with clusterSelector")
INTERACTIVE = rule("operator/interactive-with-backoff", "set backoffLimit: 0 in InteractiveMode")
SIDECAR_TEMPLATE = rule("operator/sidecar-with-submitter-template", "drop submitterPodTemplate in SidecarMode")
SIDECAR_CONFIG = rule("operator/sidecar-with-submitter-config", "drop submitterConfig in SidecarMode")
SIDECAR_RESTART = rule(
    "operator/sidecar-restart-policy", "set the head's restartPolicy to Never or leave it out in SidecarMode"
)
RUNTIME_ENV = rule("operator/runtime-env", "write runtimeEnvYAML as a YAML mapping")
DEADLINE = rule("operator/active-deadline", "take 1 or more seconds")
BACKOFF = rule("operator/negative-backoff", "take 0 or more")

_NULL, _FLOAT = "tag:yaml.org,2002:null", "tag:yaml.org,2002:float"
_SELECTOR_KEY = "ray.io/cluster"


def job_findings(spec: Node, path: str) -> Findings:
    """In: a RayJob's spec and where it stands. Out: what is wrong beside its cluster's spec."""
    selector = mapping(spec, "clusterSelector")
    ttl, backoff, mode = spec.get("ttlSecondsAfterFinished", 0), spec.get("backoffLimit", 0), spec.get("submissionMode")
    shutdown, suspend = spec.get("shutdownAfterJobFinishes") is True, spec.get("suspend") is True
    if suspend and not shutdown:
        yield SUSPEND.at(f"{path}.suspend", "true, and shutdownAfterJobFinishes is not")
    if suspend and selector:
        yield SUSPEND_SELECTOR.at(f"{path}.suspend", "true with a clusterSelector")
    if ttl < 0:
        yield TTL_NEGATIVE.at(f"{path}.ttlSecondsAfterFinished", f"{ttl}")
    if ttl > 0 and not shutdown:
        yield TTL.at(f"{path}.ttlSecondsAfterFinished", f"{ttl}, and shutdownAfterJobFinishes is not true")
    if not selector and "rayClusterSpec" not in spec:
        yield CLUSTER.at(path, "neither rayClusterSpec nor clusterSelector")
    if selector and not selector.get(_SELECTOR_KEY):
        yield SELECTOR.at(f"{path}.clusterSelector", f"without {_SELECTOR_KEY}")
    if selector and backoff > 0:
        yield SELECTOR_BACKOFF.at(f"{path}.backoffLimit", f"{backoff} with a clusterSelector")
    if mode == "InteractiveMode" and backoff > 0:
        yield INTERACTIVE.at(f"{path}.backoffLimit", f"{backoff} in InteractiveMode")
    if mode == "SidecarMode":
        yield from _sidecar_findings(spec, path, bool(selector))
    yield from runtime_env_findings(spec, path)
    if spec.get("activeDeadlineSeconds", 1) <= 0:
        yield DEADLINE.at(f"{path}.activeDeadlineSeconds", f"{spec['activeDeadlineSeconds']}")
    if backoff < 0:
        yield BACKOFF.at(f"{path}.backoffLimit", f"{backoff}")
    yield from deletion_findings(spec, path)


def _sidecar_findings(spec: Node, path: str, selector: bool) -> Findings:
    if selector:
        yield SELECTOR_SIDECAR.at(f"{path}.clusterSelector", "set in SidecarMode")
    if "submitterPodTemplate" in spec:
        yield SIDECAR_TEMPLATE.at(f"{path}.submitterPodTemplate", "set in SidecarMode")
    if "submitterConfig" in spec:
        yield SIDECAR_CONFIG.at(f"{path}.submitterConfig", "set in SidecarMode")
    policy = get(spec, "rayClusterSpec.headGroupSpec.template.spec.restartPolicy")
    if policy not in (None, "", "Never"):
        yield SIDECAR_RESTART.at(f"{path}.rayClusterSpec.headGroupSpec.template.spec.restartPolicy", f"{policy}")


def runtime_env_findings(spec: Node, path: str) -> Findings:
    """runtimeEnvYAML: the operator reads it as YAML into a map, by way of JSON; what the keys mean is Ray's business."""
    try:
        # Like Go's reader, this one takes the first document and ignores tags that it does not know.
        document = next(composed(spec.get("runtimeEnvYAML", "")), None)
    except yaml.YAMLError as error:
        yield RUNTIME_ENV.at(f"{path}.runtimeEnvYAML", str(error).partition("\n")[0])
        return
    except RecursionError:  # Go reads ten thousand levels
        return
    if document is None or document.tag == _NULL:
        return
    if not isinstance(document, yaml.MappingNode):
        yield RUNTIME_ENV.at(f"{path}.runtimeEnvYAML", f"a {document.tag.rpartition(':')[2]}, wanted a mapping")
    elif any(_without_json(node) for node in nodes(document)):
        yield RUNTIME_ENV.at(f"{path}.runtimeEnvYAML", "a number or a key that JSON does not have")


def _without_json(node: yaml.Node) -> bool:
    """Infinity, what is no number, and keys that are null or no scalar."""
    if isinstance(node, yaml.MappingNode):
        return any(key.tag == _NULL or not isinstance(key, yaml.ScalarNode) for key, _ in node.value)
    return node.tag == _FLOAT and node.value.lower().lstrip("+-") in (".nan", ".inf")
