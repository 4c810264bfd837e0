"""The page as a file: one that needs nothing else, whose controls have names, in colours that can be read."""

from __future__ import annotations

import base64
import hashlib
import re
from itertools import product

import pytest

from serving.page import CONTENT_SECURITY_POLICY, page
from tests.support.colours import contrast
from tests.support.page_reader import Page

HTML = page()
READ = Page(HTML)
CONTROLS = {"input", "select", "textarea"}
MAX_BYTES = 30_000


def attributes(tag: str) -> list[dict[str, str]]:
    return [found for name, found in READ.elements if name == tag]


def between(tag: str) -> str:
    (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", HTML, re.DOTALL)
    return str(inner)


def test_it_is_one_small_file() -> None:
    assert len(HTML.encode()) <= MAX_BYTES


def test_nothing_is_asked_of_another_machine() -> None:
    assert not {"iframe", "object", "embed", "base", "img"} & {tag for tag, _ in READ.elements}
    named = {"src", "srcset", "action", "formaction", "href", "poster", "data"}
    targets = {value for _, found in READ.elements for name, value in found.items() if name in named}
    assert targets == {"data:,"}
    assert "//" not in re.sub(r"^\s*//.*$|\s// [^\n]*$", "", HTML, flags=re.MULTILINE)
    assert not re.search(r"@import|\burl\(|\bimport\b|XMLHttpRequest|WebSocket|EventSource|sendBeacon", HTML)
    assert re.findall(r"fetch\((.*?), how\)", HTML) == ["new URL(path, BASE)"]


def test_texts_from_the_server_become_no_markup() -> None:
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|eval\(|new Function|setHTML"
    assert not re.search(sinks, HTML)


def test_no_handler_and_no_style_stands_in_an_element() -> None:
    assert not [name for _, found in READ.elements for name in found if name.startswith("on") or name == "style"]


def test_a_key_cannot_slip_into_the_address() -> None:
    """A control without a name is no part of a form's data, whatever submits it."""
    assert not [found for tag, found in READ.elements if tag in CONTROLS | {"button"} and "name" in found]
    assert not re.search(r"localStorage|document\.cookie|pushState|replaceState|location\.(?:hash|search|href)", HTML)


def test_every_control_has_a_name() -> None:
    labelled = {found["for"] for found in attributes("label")}
    controls = [found["id"] for tag, found in READ.elements if tag in CONTROLS]
    assert {"key", "remember", "model", "rationale"} <= set(controls) <= labelled
    buttons = re.findall(r"<button[^>]*>(.*?)</button>", HTML)
    assert len(buttons) == len(attributes("button"))
    assert all(name.strip() for name in buttons)


def test_ids_are_there_once_and_references_have_their_targets() -> None:
    ids = [found["id"] for _, found in READ.elements if "id" in found]
    assert len(ids) == len(set(ids))
    referring = ("for", "aria-labelledby", "aria-describedby")
    assert {found[name] for _, found in READ.elements for name in referring if name in found} <= set(ids)
    assert set(re.findall(r'(?:\$|setText|show)\("([a-z-]+)"', HTML)) <= set(ids)


def test_a_reader_hears_of_results_and_nothing_takes_the_order_of_tabs() -> None:
    assert {"class": "spoken", "id": "live", "role": "status"} in attributes("p")
    assert {found["tabindex"] for _, found in READ.elements if "tabindex" in found} == {"0", "-1"}
    assert attributes("html") == [{"lang": "en"}]
    assert "user-scalable" not in HTML


def test_the_policy_lets_in_the_own_script_and_style_alone() -> None:
    rules = dict(rule.partition(" ")[::2] for rule in CONTENT_SECURITY_POLICY.split("; "))
    for tag in ("script", "style"):
        assert len(attributes(tag)) == 1
        digest = base64.b64encode(hashlib.sha256(between(tag).encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert (rules["default-src"], rules["connect-src"], rules["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert "unsafe" not in CONTENT_SECURITY_POLICY


def test_the_page_brings_its_policy_along() -> None:
    policies = [
        found["content"] for found in attributes("meta") if found.get("http-equiv") == "Content-Security-Policy"
    ]
    assert [f"{policy}; frame-ancestors 'none'" for policy in policies] == [CONTENT_SECURITY_POLICY]
    assert HTML.index("Content-Security-Policy") < HTML.index("<style>")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read(scheme: str) -> None:
    light, dark = (
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", HTML, re.DOTALL)
    )
    colours = {**light, **(dark if scheme == "dark" else {})}
    assert light.keys() == dark.keys()
    texts = [
        *product(("ink", "muted", "accent", "bad"), ("paper",)),
        *product(("ink", "muted", "accent"), ("raised", "notice", "faint")),
    ]
    assert {
        pair: round(contrast(*(colours[name] for name in pair)), 2)
        for pair in texts
        if contrast(*(colours[name] for name in pair)) < 4.5
    } == {}
    # Edges of controls, and the ring around the one that has the focus.
    edges = [*product(("muted", "accent"), ("paper", "raised", "notice"))]
    assert all(contrast(colours[one], colours[other]) >= 3 for one, other in edges)
