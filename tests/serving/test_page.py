"""The page as a file: self-contained, accessible, and closed to markup from outside."""

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


def attributes(tag: str) -> list[dict[str, str]]:
    return [found for name, found in READ.elements if name == tag]


def values(*names: str) -> set[str]:
    return {value for _, found in READ.elements for name, value in found.items() if name in names}


def test_the_page_is_one_small_file() -> None:
    assert len(HTML.encode()) <= 20_000
    assert not {"iframe", "object", "embed", "base", "img"} & {tag for tag, _ in READ.elements}
    assert values("src", "srcset", "action", "formaction", "href", "poster", "data") == {"data:,"}
    assert "//" not in re.sub(r"^\s*//.*$|\s// [^\n]*$", "", HTML, flags=re.MULTILINE)
    assert not re.search(r"@import|\burl\(|\bimport\b|XMLHttpRequest|WebSocket|EventSource|sendBeacon", HTML)
    assert re.findall(r"fetch\((.*?), how\)", HTML) == ["new URL(path, BASE)"]


def test_no_text_becomes_markup_and_no_key_an_address() -> None:
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|eval\(|new Function|setHTML"
    assert not re.search(sinks, HTML)
    assert not [name for _, found in READ.elements for name in found if name.startswith("on") or name == "style"]
    assert not [found for tag, found in READ.elements if tag in CONTROLS | {"button"} and "name" in found]
    assert not re.search(r"localStorage|document\.cookie|pushState|replaceState|location\.(?:hash|search|href)", HTML)


def test_controls_are_accessible() -> None:
    controls = {found["id"] for tag, found in READ.elements if tag in CONTROLS}
    assert {"key", "model", "rationale"} <= controls <= values("for")
    buttons = re.findall(r"<button[^>]*>(.*?)</button>", HTML)
    assert len(buttons) == len(attributes("button"))
    assert all(name.strip() for name in buttons)
    assert {"class": "spoken", "id": "live", "role": "status"} in attributes("p")
    assert values("tabindex") == {"-1"}
    assert attributes("html") == [{"lang": "en"}]
    assert "user-scalable" not in HTML
    ids = [found["id"] for _, found in READ.elements if "id" in found]
    assert len(ids) == len(set(ids))
    assert values("for", "aria-labelledby", "aria-describedby") <= set(ids)
    assert set(re.findall(r'(?:\$|setText|show)\("([a-z-]+)"', HTML)) <= set(ids)


def test_the_policy_allows_only_the_own_script_and_style() -> None:
    rules = dict(rule.partition(" ")[::2] for rule in CONTENT_SECURITY_POLICY.split("; "))
    for tag in ("script", "style"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", HTML, re.DOTALL)
        assert len(attributes(tag)) == 1
        assert rules[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'"
    assert (rules["default-src"], rules["connect-src"], rules["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    carried = [meta["content"] for meta in attributes("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert [f"{policy}; frame-ancestors 'none'" for policy in carried] == [CONTENT_SECURITY_POLICY]
    assert HTML.index("Content-Security-Policy") < HTML.index("<style>")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_enough_contrast(scheme: str) -> None:
    blocks = re.findall(r":root \{(.*?)\}", HTML, re.DOTALL)
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)) for block in blocks)
    colours = {**light, **(dark if scheme == "dark" else {})}
    assert light.keys() == dark.keys()

    def below(limit: float, *groups: tuple[str, str]) -> list[tuple[str, str]]:
        pairs = [pair for fronts, backs in groups for pair in product(fronts.split(), backs.split())]
        return [(one, other) for one, other in pairs if contrast(colours[one], colours[other]) < limit]

    assert below(4.5, ("ink muted accent", "paper raised notice faint")) == []
    # Edges of controls, and the ring around the focused one.
    assert below(3.0, ("muted accent", "paper raised notice")) == []
