"""How a Pod finds others and is found: DNS, host aliases, its host name."""

from __future__ import annotations

import ipaddress
import re

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, mapping
from tests.k8s.checker.pods.fields import each_written, not_empty, one_of
from tests.k8s.checker.problem import Findings, rule

DNS = rule("pod/dns", "give dnsPolicy None a nameserver; nameservers are at most 3 addresses")
SEARCH = rule(
    "pod/dns-search", "search at most 32 domains of 2048 characters in all, with lower-case letters and digits"
)
HOST_ALIAS = rule("pod/host-alias", "write an IP address and host names")
HOSTNAME = rule(
    "pod/hostname-override",
    "write a DNS name of at most 64 characters, without setHostnameAsFQDN and off the host's network",
)

_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
_MAX_SERVERS, _MAX_SEARCHES, _MAX_SEARCH_CHARACTERS = 3, 32, 2048
_MAX_HOSTNAME = 64
# A domain to search may have '_' where other names have '-', and at the start of a part.
_SEARCHED_PART = r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SEARCHED = re.compile(rf"{_SEARCHED_PART}(\.{_SEARCHED_PART})*")


def network_findings(spec: Node, path: str) -> Findings:
    """In: a Pod's spec. Out: what is wrong with its DNS settings, host aliases and host name."""
    yield from one_of(spec, "dnsPolicy", _POLICIES, path, empty_is_unset=True)
    config = mapping(spec, "dnsConfig")
    if spec.get("dnsPolicy") == "None" and not config.get("nameservers"):
        yield DNS.at(f"{path}.dnsConfig.nameservers", "none, and dnsPolicy is None")
    yield from _dns_findings(config, f"{path}.dnsConfig")
    for place, alias in elements(spec, "hostAliases", path):
        if not _is_address(alias.get("ip")):
            yield HOST_ALIAS.at(f"{place}.ip", f"{alias.get('ip')!r} is no address")
        yield from each_written(HOST_ALIAS, alias, "hostnames", syntax.dns_subdomain, place)
    if spec.get("hostnameOverride"):
        yield from _hostname_findings(spec, path)


def _dns_findings(config: Node, path: str) -> Findings:
    servers, searches = config.get("nameservers") or [], config.get("searches") or []
    if len(servers) > _MAX_SERVERS:
        yield DNS.at(f"{path}.nameservers", f"{len(servers)} nameservers")
    for index, server in enumerate(servers):
        if not _is_address(server):
            yield DNS.at(f"{path}.nameservers[{index}]", f"{server!r} is no address")
    characters = len(" ".join(map(str, searches)))
    if len(searches) > _MAX_SEARCHES or characters > _MAX_SEARCH_CHARACTERS:
        yield SEARCH.at(f"{path}.searches", f"{len(searches)} domains of {characters} characters")
    for index, search in enumerate(map(str, searches)):
        domain = search.removesuffix(".")
        if search != "." and (len(domain) > 253 or not _SEARCHED.fullmatch(domain)):
            yield SEARCH.at(f"{path}.searches[{index}]", f"{search!r}")
    for place, option in elements(config, "options", path):
        yield from not_empty(option, "name", place)


def _hostname_findings(spec: Node, path: str) -> Findings:
    name = str(spec["hostnameOverride"])
    wrong = syntax.dns_subdomain(name)
    if len(name) > _MAX_HOSTNAME:
        wrong = f"{name!r} has {len(name)} characters, at most {_MAX_HOSTNAME} are allowed"
    for key in ("setHostnameAsFQDN", "hostNetwork"):
        if spec.get(key) is True:
            wrong = f"set beside {key}: true"
    if wrong:
        yield HOSTNAME.at(f"{path}.hostnameOverride", wrong)


def _is_address(text: object) -> bool:
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    # Python takes a zone behind '%', Go does not.
    return "%" not in str(text)
