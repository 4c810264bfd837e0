"""What we ask of our own manifests beyond what Kubernetes and KubeRay do: no root, pinned images, no secrets, memory that fits."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.k8s.checker.nodes import Node, elements, get, mapping
from tests.k8s.checker.pods import Template, pod_templates
from tests.k8s.checker.pods.templates import CLUSTERS
from tests.k8s.checker.problem import Findings, rule
from tests.k8s.checker.quantities import quantity
from tests.k8s.checker.secrets import secret_findings

ROOT = rule("policy/root", "set runAsNonRoot: true, or a runAsUser above 0, for the Pod or the container")
PRIVILEGED = rule("policy/privileged", "drop privileged, host namespaces and host paths")
TAG = rule("policy/image-tag", "name a version of the image, not latest")
DIGEST = rule("policy/image-digest", "pin the image by its digest: NAME:TAG@sha256:...")
SECRET_OBJECT = rule("policy/secret-object", "leave Secrets with values out of the manifests; create them beside")
SHM = rule("policy/memory-volume", "give an emptyDir of medium Memory a sizeLimit below the containers' memory limit")
HEAD_TOLERATION = rule(
    "policy/head-toleration", "give tolerations to worker groups only: the head would land on a GPU or spot node"
)
MODE = rule(
    "policy/submission-mode", "take K8sJobMode, HTTPMode, SidecarMode or InteractiveMode: the operator ignores others"
)
MEMORY = rule(
    "policy/memory-limit", "set a memory limit, and the request equal to it: Ray sizes its object store by the limit"
)

_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_MODES = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")


def policy_findings(item: Node, *, digests: bool) -> Findings:
    """In: an object; `digests` asks for images by digest. Out: what it does against our own rules."""
    for template in pod_templates(item):
        yield from _template_findings(template)
        for path, image in _images(template):
            yield from image_findings(image, path, digests=digests)
    yield from secret_findings(item)
    if item.get("kind") == "Secret" and any(get(item, part) for part in ("data", "stringData")):
        yield SECRET_OBJECT.at("data", "holds values")
    for path in ("spec", "spec.jobTemplate"):
        mode = mapping(item, path).get("submissionMode")
        if item.get("kind") in ("RayJob", "RayCronJob") and mode not in (None, *_MODES):
            yield MODE.at(f"{path}.submissionMode", f"{mode!r}")
    yield from _cluster_findings(item, digests)


def _cluster_findings(item: Node, digests: bool) -> Findings:
    if item.get("kind") not in CLUSTERS:
        return
    path = CLUSTERS[str(item["kind"])]
    options = mapping(item, f"{path}.autoscalerOptions")
    if options.get("image"):
        yield from image_findings(str(options["image"]), f"{path}.autoscalerOptions.image", digests=digests)


def _template_findings(template: Template) -> Findings:
    spec, path = template.spec, template.spec_path
    if template.role == "head" and spec.get("tolerations"):
        yield HEAD_TOLERATION.at(f"{path}.tolerations", "set on the head")
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name) is True:
            yield PRIVILEGED.at(f"{path}.{name}", "true")
    for place, volume in elements(spec, "volumes", path):
        if volume.get("hostPath") is not None:
            yield PRIVILEGED.at(f"{place}.hostPath", str(get(volume, "hostPath.path")))
    for place, container in template.containers():
        if get(container, "securityContext.privileged") is True:
            yield PRIVILEGED.at(f"{place}.securityContext.privileged", "true")
        if not _is_non_root(container, spec):
            yield ROOT.at(f"{place}.securityContext", "may run as root")
    yield from _memory_findings(template)


def _is_non_root(container: Node, spec: Node) -> bool:
    """A container's own settings go before the Pod's, each for itself."""
    own, shared = mapping(container, "securityContext"), mapping(spec, "securityContext")
    user = own.get("runAsUser", shared.get("runAsUser"))
    non_root = own.get("runAsNonRoot", shared.get("runAsNonRoot"))
    return user != 0 and (non_root is True or (isinstance(user, int) and user > 0))


def _memory_findings(template: Template) -> Findings:
    limits = [
        quantity(mapping(container, "resources.limits").get("memory"))
        for _, container in elements(template.spec, "containers")
    ]
    total = sum((limit for limit in limits if limit is not None), start=quantity(0) or 0)
    for place, volume in elements(template.spec, "volumes", template.spec_path):
        if get(volume, "emptyDir.medium") == "Memory":
            size = quantity(get(volume, "emptyDir.sizeLimit"))
            # What lies in it counts as the container's memory.
            if size is None or (all(limit is not None for limit in limits) and size >= total):
                yield SHM.at(
                    f"{place}.emptyDir.sizeLimit",
                    f"{get(volume, 'emptyDir.sizeLimit')}, and the limits are {total} bytes",
                )
    if template.role in ("head", "worker"):
        for place, container in elements(template.spec, "containers", template.spec_path):
            limit, request = (mapping(container, f"resources.{part}").get("memory") for part in ("limits", "requests"))
            if limit is None or (request is not None and quantity(request) != quantity(limit)):
                yield MEMORY.at(f"{place}.resources", f"limit {limit}, request {request}")


def _images(template: Template) -> Iterator[tuple[str, str]]:
    for path, container in template.containers():
        yield f"{path}.image", str(container.get("image", ""))
    for path, volume in elements(template.spec, "volumes", template.spec_path):
        if get(volume, "image.reference"):
            yield f"{path}.image.reference", str(get(volume, "image.reference"))


def image_findings(image: str, path: str, *, digests: bool) -> Findings:
    """An image's reference.

    >>> [f.rule.id for f in image_findings("registry:5000/raystill", "image", digests=False)]
    ['policy/image-tag']
    """
    name, _, _ = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if tag == "latest" or not (tag or _DIGEST.search(image)):
        yield TAG.at(path, f"{image!r}")
    if digests and not _DIGEST.search(image):
        yield DIGEST.at(path, f"{image!r}")
