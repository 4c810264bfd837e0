"""Who reaches whom, and who may do what: rules of the network, and roles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml

from tests.k8s.test_manifests import each_overlay, selects
from tests.support.k8s.rendering import K8S, Object, groups, named, needs_kustomize, overlay, render, with_components


@needs_kustomize
@each_overlay
def test_rays_pods_reach_those_of_their_own_part_alone(name: str) -> None:
    objects = overlay(name)
    rules = [found["spec"] for found in objects if found["kind"] == "NetworkPolicy"]
    pods = {
        (group.part, group.role): group.template["metadata"]["labels"]
        for group in groups(objects)
        if group.role != "submitter"
    }
    for (part, role), sender in pods.items():
        for (other, _), receiver in pods.items():
            out = lets(rules, "egress", "to", sender, receiver)
            into = lets(rules, "ingress", "from", receiver, sender)
            assert (out and into) is (part == other), (part, role, other)


def lets(rules: list[Object], way: str, whom: str, own: Object, peer: Object) -> bool:
    """Whether a rule for pods with these labels opens all ports to pods of this namespace with the peer's labels."""
    return any(
        "podSelector" in found and "namespaceSelector" not in found and selects(found["podSelector"], peer)
        for spec in rules
        if selects(spec["podSelector"], own)
        for rule in spec.get(way, ())
        if "ports" not in rule
        for found in rule.get(whom, ())
    )


CLOUDS = [("169.254.169.254", 80), ("169.254.169.252", 988), ("169.254.170.23", 80)]
"""Where pods get the credentials of their account: GKE with Dataplane V2 and without, EKS Pod Identity."""


@needs_kustomize
def test_with_an_object_store_rays_pods_reach_it_and_what_hands_out_their_identity(tmp_path: Path) -> None:
    root = with_components(tmp_path, ["object-store"])
    objects = overlay("prod-gpu", root)
    before, after = (
        [o["spec"] for o in found if o["kind"] == "NetworkPolicy"] for found in (overlay("prod-gpu"), objects)
    )
    for group in groups(objects):
        own = group.template["metadata"]["labels"]
        ray = group.role != "submitter"
        assert leaves(after, own, "203.0.113.7", 443) is ray, group.owner
        assert not leaves(after, own, "203.0.113.7", 80), group.owner
        for address, port in CLOUDS:
            assert leaves(after, own, address, port) is ray, (group.owner, address)
            assert not leaves(before, own, address, port), (group.owner, address)


@needs_kustomize
@each_overlay
@pytest.mark.parametrize("resolver", ["169.254.20.10", "169.254.169.254"], ids=["NodeLocal DNSCache", "Cloud DNS"])
def test_every_pod_reaches_resolvers_that_no_selector_finds(name: str, resolver: str) -> None:
    objects = overlay(name)
    rules = [found["spec"] for found in objects if found["kind"] == "NetworkPolicy"]
    for group in groups(objects):
        own = group.template["metadata"]["labels"]
        assert leaves(rules, own, resolver, 53), group.owner
        assert not leaves(rules, own, "203.0.113.7", 53), group.owner


def leaves(rules: list[Object], own: Object, address: str, port: int) -> bool:
    """Whether a rule for pods with these labels lets them out to an address."""
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
    """Whether the role of runners lets them."""
    rules = named(render(K8S / "overlays" / "dev-cpu"), "Role", "raystill-runner")["rules"]
    return any(
        verb in r["verbs"] and group in r["apiGroups"] and resource in r["resources"] and name in r.get("resourceNames", [name])
        for r in rules
    )  # fmt: skip


@needs_kustomize
def test_runners_may_do_what_the_readme_has_them_do_and_read_one_secret() -> None:
    assert all(may(verb, "batch", "jobs", "raystill-label") for verb in ("get", "list", "watch")), "logs -f job/..."
    assert may("get", "", "pods/log", "any")
    assert may("create", "", "pods/portforward", "any")
    assert may("get", "", "secrets", "raystill-cluster")
    assert not may("get", "", "secrets", "raystill-keys")
    assert not may("list", "", "secrets", "raystill-cluster")
    assert not may("create", "", "pods/exec", "any")


def applied() -> Iterator[tuple[str, str]]:
    """What README.md has runners apply, as (folder of an overlay, selector): all of "Run" that it does not call an administrator's."""
    text = (K8S / "README.md").read_text(encoding="utf-8")
    run = text[text.index("\n## Run\n") : text.index("\n## Upgrade\n")]
    for folder, selector, note in re.findall(
        r"(?m)^kubectl apply --server-side -k k8s/overlays/(\S+)(?: -l (\S+))?(.*)$", run
    ):
        if "administrator" not in note:
            yield folder, selector.strip("'")


@needs_kustomize
@pytest.mark.parametrize(
    "chosen", [[], ["object-store", "kueue", "incremental-upgrade"]], ids=["as they are", "with more"]
)
def test_runners_may_apply_what_the_readme_has_them_apply(chosen: list[str], tmp_path: Path) -> None:
    root, kinds = with_components(tmp_path, chosen), {}
    for folder, selector in applied():
        label, _, value = selector.partition("=")
        objects = [
            found
            for found in render(root / "overlays" / folder)
            if not selector or found["metadata"].get("labels", {}).get(label) == value
        ]
        kinds[folder] = {found["kind"] for found in objects}
        for found in objects:
            group, name = found["apiVersion"].rpartition("/")[0], found["metadata"]["name"]
            for verb in ("get", "create", "patch"):
                assert may(verb, group, f"{found['kind'].lower()}s", name), (
                    f"{verb} {found['kind']} {name}, of {folder}"
                )
    job = {"RayJob", "ConfigMap"}
    assert kinds == {
        "prod-gpu/label": job,
        "prod-gpu/train": job,
        "prod-gpu": {"RayService"},
        "dev-cpu/cluster": {"RayCluster"},
    }


def test_the_operators_rights_end_with_the_namespace() -> None:
    values = yaml.safe_load((K8S / "platform/operator-values.yaml").read_text(encoding="utf-8"))
    assert (values["singleNamespaceInstall"], values["watchNamespace"]) == (True, ["raystill"])
