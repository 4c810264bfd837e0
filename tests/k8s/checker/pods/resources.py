"""Resources of a container and of a Pod: requests, limits, what may be asked for and in which amounts."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, join, mapping
from tests.k8s.checker.pods.fields import one_of, written
from tests.k8s.checker.problem import Findings, rule
from tests.k8s.checker.quantities import quantity

NAME = rule("pod/resource-name", "use cpu, memory, ephemeral-storage, hugepages-SIZE or DOMAIN/NAME")
AMOUNT = rule("pod/resource-amount", "write a quantity of 0 or more: 500m, 24Gi")
WHOLE = rule("pod/resource-whole", "ask for a whole number: it cannot be split")
ABOVE = rule("pod/request-above-limit", "raise the limit or lower the request")
EQUAL = rule("pod/request-not-limit", "make request and limit equal, or leave the request out")
LIMIT = rule("pod/request-without-limit", "set the same number as limit: such a resource cannot be overcommitted")
HUGE_PAGES = rule("pod/hugepages-alone", "ask for cpu or memory beside huge pages")
PAGES = rule("pod/hugepages-size", "ask for whole pages: a multiple of the size in the resource's name")
CLAIM = rule("pod/resource-claim", "let a container name a claim of the Pod's resourceClaims, once")
RESIZE = rule("pod/resize-policy", "name a resource once, with NotRequired where the container is not restarted")
TOGETHER = rule("pod/resources-together", "give the Pod what its containers ask for together, or lower their numbers")

_STANDARD = {"cpu", "memory", "ephemeral-storage"}
_HUGE_PAGES = "hugepages-"

Amounts = Mapping[str, Decimal]


def resource_findings(container: Node, path: str, claims: set[str] | None = None) -> Findings:
    """In: a container and the Pod's claims, by name. Out: what is wrong with its `resources`."""
    limits, requests = mapping(container, "resources.limits"), mapping(container, "resources.requests")
    at = f"{path}.resources"
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            yield from _entry_findings(name, amount, join(f"{at}.{kind}", name))
    for name in requests:
        yield from _pair_findings(name, requests, limits, join(f"{at}.requests", name))
    # A limit alone is its own request, so that limits are asked as well.
    asked = {**limits, **requests}
    if any(name.startswith(_HUGE_PAGES) for name in asked) and not asked.keys() & {"cpu", "memory"}:
        yield HUGE_PAGES.at(at, "huge pages without cpu and memory")
    yield from _claim_findings(mapping(container, "resources"), at, claims or set())


def resize_findings(container: Node, path: str, *, restarted: bool) -> Findings:
    """In: a container, and whether it may be `restarted`. Out: what is wrong with its `resizePolicy`."""
    seen: set[str] = set()
    for place, entry in elements(container, "resizePolicy", path):
        yield from one_of(entry, "resourceName", ("cpu", "memory"), place)
        yield from one_of(entry, "restartPolicy", ("NotRequired", "RestartContainer"), place)
        name = str(entry.get("resourceName"))
        if name in seen:
            yield RESIZE.at(f"{place}.resourceName", f"{name!r} stands twice")
        if entry.get("restartPolicy") == "RestartContainer" and not restarted:
            yield RESIZE.at(f"{place}.restartPolicy", "RestartContainer for a container that is not restarted")
        seen.add(name)


def _claim_findings(resources: Node, path: str, claims: set[str]) -> Findings:
    seen: set[tuple[str, str]] = set()
    for place, claim in elements(resources, "claims", path):
        name, request = str(claim.get("name") or ""), str(claim.get("request") or "")
        # A claim without a request stands for all of its requests.
        if any(other == name and (not request or part in ("", request)) for other, part in seen):
            yield CLAIM.at(place, f"{name!r} stands twice")
        yield from written(CLAIM, claim, "request", syntax.dns_label, place, empty_is_unset=True)
        if name not in claims:
            yield CLAIM.at(f"{place}.name", f"there is no claim {name!r}")
        seen.add((name, request))


def _entry_findings(name: str, written: object, path: str) -> Findings:
    wrong = syntax.qualified_name(name)
    if wrong:
        yield NAME.at(path, wrong)
    elif "/" not in name and name not in _STANDARD and not _page_bytes(name):
        yield NAME.at(path, f"{name!r} is no resource of a container")
    elif _extended(name) and (name.startswith("requests.") or syntax.qualified_name(f"requests.{name}")):
        yield NAME.at(path, f"{name!r} is no name of an extended resource")
    amount = quantity(written)
    if amount is None or amount < 0:
        yield AMOUNT.at(path, f"{written!r}")
    elif _extended(name) and int(_milli(amount)) % 1000:
        yield WHOLE.at(path, f"{written!r}")
    else:
        size = _page_bytes(name)
        if size and int(amount.to_integral_value(rounding="ROUND_CEILING")) % int(size):
            yield PAGES.at(path, f"{written!r}")


def _page_bytes(name: str) -> Decimal | None:
    """The size of a page, from the name of huge pages; None for other names and for sizes that are none."""
    size = quantity(name.removeprefix(_HUGE_PAGES)) if name.startswith(_HUGE_PAGES) else None
    return size if size and size > 0 and size == size.to_integral_value() else None


def _pair_findings(name: str, requests: Node, limits: Node, path: str) -> Findings:
    request, limit = quantity(requests[name]), quantity(limits.get(name))
    shareable = not _extended(name) and not name.startswith(_HUGE_PAGES)
    if name not in limits:
        if not shareable:
            yield LIMIT.at(path, f"{requests[name]}, and no limit")
    elif request is None or limit is None:
        return
    elif not shareable and _milli(request) != _milli(limit):
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
    """Resources of the whole Pod (`spec.resources`): cpu, memory and huge pages only, and enough for its containers."""
    at = f"{path}.resources"
    for kind in ("limits", "requests"):
        for name in mapping(spec, f"resources.{kind}"):
            if name not in ("cpu", "memory") and not name.startswith(_HUGE_PAGES):
                yield NAME.at(join(f"{at}.{kind}", name), f"{name!r} is no resource of a whole Pod")
    if mapping(spec, "resources").get("claims"):
        yield CLAIM.at(f"{at}.claims", "set for a whole Pod")
    resources = _with_defaults(spec)
    yield from resource_findings({"resources": resources}, path)
    # Limits may overlap, so that each container is held against the Pod's; huge pages are set aside for all of them.
    pages = {name: amount for name, amount in _together(spec, "limits").items() if name.startswith(_HUGE_PAGES)}
    yield from _enough_findings(_together(spec, "requests"), resources["requests"], f"{at}.requests")
    yield from _enough_findings(pages, resources["limits"], f"{at}.limits")
    for _, container in elements(spec, "containers", path):
        yield from _enough_findings(_amounts(container, "limits"), resources["limits"], f"{at}.limits")


def _enough_findings(needed: Amounts, given: Node, path: str) -> Findings:
    for name, amount in needed.items():
        limit = quantity(given.get(name))
        if limit is not None and amount > _milli(limit) / 1000:
            yield TOGETHER.at(join(path, name), f"{given[name]}, and the containers have {amount:f}")


def _with_defaults(spec: Node) -> dict[str, dict[str, Any]]:
    """The amounts of `spec.resources` as the server fills them in before it looks at them."""
    limits, requests = dict(mapping(spec, "resources.limits")), dict(mapping(spec, "resources.requests"))
    if limits or requests:
        for name, amount in _together(spec, "limits").items():
            if name.startswith(_HUGE_PAGES) and name not in requests:
                limits.setdefault(name, f"{amount:f}")
    if limits:
        for name, amount in _together(spec, "requests").items():
            if name in ("cpu", "memory"):
                requests.setdefault(name, f"{amount:f}")
        requests = {**limits, **requests}
    return {"limits": limits, "requests": requests}


def _together(spec: Node, kind: str) -> Amounts:
    """Limits or requests of a Pod's containers at the time when they are highest: while one starts, or later."""
    together: dict[str, Decimal] = {}
    sidecars: dict[str, Decimal] = {}
    highest: dict[str, Decimal] = {}
    for _, container in elements(spec, "initContainers"):
        amounts = _amounts(container, kind)
        if container.get("restartPolicy") == "Always":
            sidecars = _sum(sidecars, amounts)
            amounts = {}
        for name, amount in _sum(sidecars, amounts).items():
            highest[name] = max(amount, highest.get(name, amount))
    for _, container in elements(spec, "containers"):
        together = _sum(together, _amounts(container, kind))
    together = _sum(together, sidecars)
    return {name: max(table.get(name, Decimal(0)) for table in (together, highest)) for name in {**together, **highest}}


def _sum(one: Amounts, other: Amounts) -> dict[str, Decimal]:
    return {name: one.get(name, Decimal(0)) + other.get(name, Decimal(0)) for name in {**one, **other}}


def _amounts(container: Node, kind: str) -> Amounts:
    """A container's limits or requests, as numbers; a limit alone is its own request."""
    written = {**mapping(container, "resources.limits")}
    if kind == "requests":
        written |= mapping(container, "resources.requests")
    numbers = {name: quantity(text) for name, text in written.items()}
    return {name: _milli(number) / 1000 for name, number in numbers.items() if number is not None}
