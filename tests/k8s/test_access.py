"""Network policies and roles: which pods reach what, and what people can do."""

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml

from tests.k8s.checker.references import selects
from tests.support.k8s.rendering import (
    K8S,
    Object,
    each_overlay,
    groups,
    named,
    needs_kustomize,
    overlay,
    render,
    with_components,
)

IDENTITY = [("169.254.169.254", 80), ("169.254.169.252", 988), ("169.254.170.23", 80)]
"""Sources of a pod's cloud credentials: GKE with and without Dataplane V2, EKS Pod Identity."""


def policies(objects: Sequence[Object]) -> list[Object]:
    return [found["spec"] for found in objects if found["kind"] == "NetworkPolicy"]


@needs_kustomize
@each_overlay
def test_ray_pods_reach_only_pods_of_their_part(name: str) -> None:
    objects = overlay(name)
    rules = policies(objects)
    pods = {(g.part, g.role): g.template["metadata"]["labels"] for g in groups(objects) if g.role != "submitter"}
    for (part, role), sender in pods.items():
        for (other, _), receiver in pods.items():
            out = opens_all_ports(rules, "egress", "to", sender, receiver)
            into = opens_all_ports(rules, "ingress", "from", receiver, sender)
            assert (out and into) is (part == other), (part, role, other)


def opens_all_ports(rules: list[Object], direction: str, side: str, own: Object, peer: Object) -> bool:
    """True if a rule for pods with the labels `own` opens all ports to pods with the labels `peer` in this namespace."""
    return any(
        "podSelector" in found and "namespaceSelector" not in found and selects(found["podSelector"], peer)
        for spec in rules
        if selects(spec["podSelector"], own)
        for rule in spec.get(direction, ())
        if "ports" not in rule
        for found in rule.get(side, ())
    )


@needs_kustomize
def test_object_store_opens_https_and_cloud_identity(tmp_path: Path) -> None:
    objects = overlay("prod-gpu", with_components(tmp_path, ["object-store"]))
    before, after = policies(overlay("prod-gpu")), policies(objects)
    for group in groups(objects):
        own = group.template["metadata"]["labels"]
        ray = group.role != "submitter"
        assert reaches(after, own, "203.0.113.7", 443) is ray, group.owner
        assert not reaches(after, own, "203.0.113.7", 80), group.owner
        for address, port in IDENTITY:
            assert reaches(after, own, address, port) is ray, (group.owner, address)
            assert not reaches(before, own, address, port), (group.owner, address)


@needs_kustomize
@each_overlay
@pytest.mark.parametrize("resolver", ["169.254.20.10", "169.254.169.254"], ids=["NodeLocal DNSCache", "Cloud DNS"])
def test_every_pod_reaches_resolvers_outside_the_cluster(name: str, resolver: str) -> None:
    objects = overlay(name)
    for group in groups(objects):
        own = group.template["metadata"]["labels"]
        assert reaches(policies(objects), own, resolver, 53), group.owner
        assert not reaches(policies(objects), own, "203.0.113.7", 53), group.owner


def reaches(rules: list[Object], own: Object, address: str, port: int) -> bool:
    """True if a rule lets pods with these labels connect to the address."""
    return any(
        ip_address(address) in ip_network(found["ipBlock"]["cidr"])
        and port in [allowed["port"] for allowed in rule["ports"]]
        for spec in rules
        if selects(spec["podSelector"], own)
        for rule in spec.get("egress", ())
        for found in rule["to"]
        if "ipBlock" in found
    )


def may(verb: str, group: str, resource: str, name: str) -> bool:
    """True if the role `raystill-runner` allows the verb."""
    rules = named(render(K8S / "overlays" / "dev-cpu"), "Role", "raystill-runner")["rules"]
    return any(
        verb in rule["verbs"]
        and group in rule["apiGroups"]
        and resource in rule["resources"]
        and name in rule.get("resourceNames", [name])
        for rule in rules
    )


@needs_kustomize
def test_runners_follow_jobs_and_read_one_secret() -> None:
    assert all(may(verb, "batch", "jobs", "raystill-label") for verb in ("get", "list", "watch")), "logs -f job/..."
    assert may("get", "", "pods/log", "any")
    assert may("create", "", "pods/portforward", "any")
    assert may("get", "", "secrets", "raystill-cluster")
    assert not may("get", "", "secrets", "raystill-keys")
    assert not may("list", "", "secrets", "raystill-cluster")
    assert not may("create", "", "pods/exec", "any")


def applied_by_runners() -> Iterator[tuple[str, str]]:
    """Commands under "Run" in README.md without the comment `administrator`, as (folder of an overlay, label selector)."""
    text = (K8S / "README.md").read_text(encoding="utf-8")
    section = text[text.index("\n## Run\n") : text.index("\n## Troubleshooting\n")]
    commands = r"(?m)^kubectl apply --server-side -k k8s/overlays/(\S+)(?: -l (\S+))?(.*)$"
    for folder, selector, comment in re.findall(commands, section):
        if "administrator" not in comment:
            yield folder, selector.strip("'")


@needs_kustomize
@pytest.mark.parametrize("chosen", [[], ["object-store", "kueue", "incremental-upgrade"]], ids=["none", "optional"])
def test_runners_apply_what_the_readme_lists(chosen: list[str], tmp_path: Path) -> None:
    root, kinds = with_components(tmp_path, chosen), {}
    for folder, selector in applied_by_runners():
        label, _, value = selector.partition("=")
        every = render(root / "overlays" / folder)
        objects = [one for one in every if not selector or one["metadata"].get("labels", {}).get(label) == value]
        kinds[folder] = {found["kind"] for found in objects}
        for found in objects:
            group, name = found["apiVersion"].rpartition("/")[0], found["metadata"]["name"]
            for verb in ("get", "create", "patch"):
                resource = f"{found['kind'].lower()}s"
                assert may(verb, group, resource, name), f"{verb} {found['kind']} {name} of {folder}"
    job = {"RayJob", "ConfigMap"}
    assert (kinds.pop("prod-gpu"), kinds.pop("dev-cpu/cluster")) == ({"RayService"}, {"RayCluster"})
    assert kinds == {"prod-gpu/label": job, "prod-gpu/train": job}


def test_the_operator_watches_one_namespace() -> None:
    values = yaml.safe_load((K8S / "platform/operator-values.yaml").read_text(encoding="utf-8"))
    assert (values["singleNamespaceInstall"], values["watchNamespace"]) == (True, ["raystill"])
