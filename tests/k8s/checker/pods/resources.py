"""Resources of a container and of a Pod: requests, limits, what may be asked for and in which amounts."""

from __future__ import annotations

from decimal import Decimal

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, join, mapping
from tests.k8s.checker.pods.fields import one_of
from tests.k8s.checker.problem import Findings, rule
from tests.k8s.checker.quantities import quantity

NAME = rule("pod/resource-name", "use cpu, memory, ephemeral-storage, hugepages-SIZE or DOMAIN/NAME")
AMOUNT = rule("pod/resource-amount", "write a quantity of 0 or more: 500m, 24Gi")
WHOLE = rule("pod/resource-whole", "ask for a whole number: it cannot be split")
ABOVE = rule("pod/request-above-limit", "raise the limit or lower the request")
EQUAL = rule("pod/request-not-limit", "make request and limit equal, or leave the request out")
LIMIT = rule("pod/request-without-limit", "set the same number as limit: such a resource cannot be overcommitted")
HUGE_PAGES = rule("pod/hugepages-alone", "ask for cpu or memory beside huge pages")
CLAIM = rule("pod/resource-claim", "name a claim of the Pod's resourceClaims, once")

_STANDARD = {"cpu", "memory", "ephemeral-storage"}


def resource_findings(container: Node, path: str, claims: set[str] | None = None) -> Findings:
    """In: a container and the Pod's claims, by name. Out: what is wrong with its `resources` and `resizePolicy`."""
    limits, requests = mapping(container, "resources.limits"), mapping(container, "resources.requests")
    at = f"{path}.resources"
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, written in amounts.items():
            yield from _entry_findings(name, written, join(f"{at}.{kind}", name))
    for name in requests:
        yield from _pair_findings(name, requests, limits, join(f"{at}.requests", name))
    # A limit alone is its own request, so that limits are asked as well.
    asked = {**limits, **requests}
    if any(name.startswith("hugepages-") for name in asked) and not asked.keys() & {"cpu", "memory"}:
        yield HUGE_PAGES.at(at, "huge pages without cpu and memory")
    seen: set[tuple[str, str]] = set()
    for place, claim in elements(container, "resources.claims", path):
        key = (str(claim.get("name")), str(claim.get("request", "")))
        if key in seen or key[0] not in (claims or set()):
            yield CLAIM.at(place, f"{key[0]!r} stands twice" if key in seen else f"there is no claim {key[0]!r}")
        seen.add(key)
    for place, entry in elements(container, "resizePolicy", path):
        yield from one_of(entry, "resourceName", ("cpu", "memory"), place)
        yield from one_of(entry, "restartPolicy", ("NotRequired", "RestartContainer"), place)


def _entry_findings(name: str, written: object, path: str) -> Findings:
    wrong = syntax.qualified_name(name)
    if wrong:
        yield NAME.at(path, wrong)
    elif "/" not in name and name not in _STANDARD and not name.startswith("hugepages-"):
        yield NAME.at(path, f"{name!r} is no resource of a container")
    elif _extended(name) and (name.startswith("requests.") or syntax.qualified_name(f"requests.{name}")):
        yield NAME.at(path, f"{name!r} is no name of an extended resource")
    amount = quantity(written)
    if amount is None or amount < 0:
        yield AMOUNT.at(path, f"{written!r}")
    elif _extended(name) and amount != amount.to_integral_value():
        yield WHOLE.at(path, f"{written!r}")


def _pair_findings(name: str, requests: Node, limits: Node, path: str) -> Findings:
    request, limit = quantity(requests[name]), quantity(limits.get(name))
    shareable = not _extended(name) and not name.startswith("hugepages-")
    if name not in limits:
        if not shareable:
            yield LIMIT.at(path, f"{requests[name]}, and no limit")
    elif request is None or limit is None:
        return
    elif not shareable and request != limit:
        yield EQUAL.at(path, f"{requests[name]}, and the limit is {limits[name]}")
    elif shareable and _milli(request) > _milli(limit):
        yield ABOVE.at(path, f"{requests[name]}, and the limit is {limits[name]}")


def _milli(amount: Decimal) -> Decimal:
    """The server rounds quantities up to thousandths before it compares them."""
    return (amount * 1000).to_integral_value(rounding="ROUND_CEILING")


def _extended(name: str) -> bool:
    """Resources of device plugins: with a domain that is not Kubernetes' own."""
    return "/" in name and "kubernetes.io/" not in name


def pod_resource_findings(spec: Node, path: str) -> Findings:
    """Resources of the whole Pod (`spec.resources`): cpu, memory and huge pages only."""
    for kind in ("limits", "requests"):
        for name in mapping(spec, f"resources.{kind}"):
            if name not in ("cpu", "memory") and not name.startswith("hugepages-"):
                yield NAME.at(join(f"{path}.resources.{kind}", name), f"{name!r} is no resource of a whole Pod")
    yield from resource_findings({"resources": spec.get("resources", {})}, path)
