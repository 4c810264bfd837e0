"""Kubernetes' grammars of names, labels, ports and variables, from k8s.io/apimachinery's util/validation.

A Grammar returns what is wrong with the text, or None.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Grammar = Callable[[str], str | None]

_LABEL_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_SYSCTL_PART = r"[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SYSCTL = re.compile(rf"{_SYSCTL_PART}([./]{_SYSCTL_PART})*")
_NETBIOS = re.compile(r'[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}')
_WINDOWS_DOMAIN_PART = r"[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?"
_WINDOWS_DOMAIN = re.compile(rf"{_WINDOWS_DOMAIN_PART}(\.{_WINDOWS_DOMAIN_PART})*")


def dns_label(text: str) -> str | None:
    """RFC 1123 label: containers, volumes, namespaces."""
    if len(text) > 63:
        return f"{text!r} has {len(text)} characters, at most 63 are allowed"
    return (
        None if _LABEL_1123.fullmatch(text) else f"{text!r} is not lower-case letters, digits and '-' (RFC 1123 label)"
    )


def dns_1035_label(text: str) -> str | None:
    """RFC 1035 label: an RFC 1123 label that starts with a letter."""
    if len(text) > 63:
        return f"{text!r} has {len(text)} characters, at most 63 are allowed"
    return None if _LABEL_1035.fullmatch(text) else f"{text!r} does not start with a letter or is no RFC 1035 label"


def dns_subdomain(text: str) -> str | None:
    """RFC 1123 subdomain: names of most objects."""
    if len(text) > 253:
        return f"{text!r} has {len(text)} characters, at most 253 are allowed"
    return (
        None
        if _SUBDOMAIN.fullmatch(text)
        else f"{text!r} is not lower-case letters, digits, '-' and '.' (RFC 1123 subdomain)"
    )


def qualified_name(text: str) -> str | None:
    """A label key: NAME or DOMAIN/NAME.

    >>> qualified_name("ray.io/group") is None
    True
    """
    parts = text.split("/")
    if len(parts) > 2:
        return f"{text!r} has more than one '/'"
    if len(parts) == 2 and (not parts[0] or dns_subdomain(parts[0])):
        return f"{text!r} has a prefix that is no DNS subdomain"
    name = parts[-1]
    if len(name) > 63:
        return f"{text!r} has a name of {len(name)} characters, at most 63 are allowed"
    return (
        None
        if _QUALIFIED.fullmatch(name)
        else f"{text!r} is not letters, digits, '-', '_' and '.' between letters or digits"
    )


def label_value(text: str) -> str | None:
    """A label's value: empty, or as the name in its key."""
    if len(text) > 63:
        return f"{text!r} has {len(text)} characters, at most 63 are allowed"
    if not text or _QUALIFIED.fullmatch(text):
        return None
    return f"{text!r} is not letters, digits, '-', '_' and '.' between letters or digits"


def port_name(text: str) -> str | None:
    """A port's name (IANA service name)."""
    fits = 0 < len(text) <= 15 and re.fullmatch(r"[-a-z0-9]+", text) and re.search(r"[a-z]", text)
    if fits and "--" not in text and text[0] != "-" and text[-1] != "-":
        return None
    return f"{text!r} is not 1 to 15 lower-case letters, digits and single '-', with a letter"


def variable_name(text: str) -> str | None:
    """An environment variable: printable ASCII without '=' (relaxed since Kubernetes 1.32)."""
    if text and all(" " <= character <= "~" and character != "=" for character in text):
        return None
    return f"{text!r} is not printable ASCII without '='"


def config_key(text: str) -> str | None:
    """A key of a ConfigMap or Secret."""
    if len(text) > 253:
        return f"{text!r} has {len(text)} characters, at most 253 are allowed"
    if text in (".", "..") or text.startswith("..") or not _CONFIG_KEY.fullmatch(text):
        return f"{text!r} is not letters, digits, '-', '_' and '.'"
    return None


def masked_dash(text: str) -> str:
    """A name's beginning as the server checks it: a trailing '-' and the character before it count as one letter.

    >>> masked_dash("run-")
    'rua'
    """
    return f"{text[:-2]}a" if len(text) > 1 and text.endswith("-") else text


def byte_count(text: str) -> int:
    """A text's bytes in UTF-8. Half a surrogate pair counts as the three bytes of the sign that Go reads in its place."""
    return len(text.encode(errors="surrogatepass"))


def descending_path(text: str) -> str | None:
    """A path that stays below where it starts."""
    if text.startswith("/") or ".." in text.split("/"):
        return f"{text!r} is not relative and without '..'"
    return None


def sysctl_name(text: str) -> str | None:
    """A kernel parameter, with '.' or '/' between its parts."""
    if len(text) > 253:
        return f"{text!r} has {len(text)} characters, at most 253 are allowed"
    if _SYSCTL.fullmatch(text):
        return None
    return f"{text!r} is not lower-case letters, digits, '-' and '_' in parts between '.' or '/'"


def windows_user(text: str) -> str | None:
    """USER or DOMAIN\\USER; the domain is a NetBIOS or a DNS name."""
    domain, backslash, user = text.rpartition("\\")
    domain_fits = not backslash or _NETBIOS.fullmatch(domain) or _WINDOWS_DOMAIN.fullmatch(domain)
    user_fits = user.strip(". ") and byte_count(user) <= 104 and not re.search(r'["/:;|=,+*?<>@\[\]]', user)
    if domain_fits and len(domain) < 256 and user_fits and not re.search(r"[\x00-\x1f\x7f]", text):
        return None
    return f"{text!r} is neither USER nor DOMAIN\\USER"
