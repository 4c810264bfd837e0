"""Who reaches whom, and who may do what: rules of the network, and roles."""

from __future__ import annotations

import yaml

from tests.k8s.rendering import K8S, Object, groups, named, needs_kustomize, overlay, render
from tests.k8s.test_manifests import each_overlay, selects


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


@needs_kustomize
def test_runners_may_do_what_the_readme_has_them_do_and_read_one_secret() -> None:
    rules = named(render(K8S / "overlays" / "dev-cpu"), "Role", "raystill-runner")["rules"]

    def may(verb: str, group: str, resource: str, name: str) -> bool:
        return any(
            verb in r["verbs"] and group in r["apiGroups"] and resource in r["resources"] and name in r.get("resourceNames", [name])
            for r in rules
        )  # fmt: skip

    assert all(may(verb, "batch", "jobs", "raystill-label") for verb in ("get", "list", "watch")), "logs -f job/..."
    assert may("get", "", "pods/log", "any")
    assert may("create", "", "pods/portforward", "any")
    assert may("get", "", "secrets", "raystill-cluster")
    assert not may("get", "", "secrets", "raystill-keys")
    assert not may("list", "", "secrets", "raystill-cluster")
    assert not may("create", "", "pods/exec", "any")


def test_the_operators_rights_end_with_the_namespace() -> None:
    values = yaml.safe_load((K8S / "platform/operator-values.yaml").read_text(encoding="utf-8"))
    assert (values["singleNamespaceInstall"], values["watchNamespace"]) == (True, ["raystill"])
