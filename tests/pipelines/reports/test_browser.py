"""Pages in a real browser: no console message, no request to another machine, readable in light and dark."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.compare.model import ComparisonReport
from pipelines.compare.page import comparison_page
from pipelines.evaluate.model import Report
from pipelines.evaluate.page import report_page
from tests.support import comparisons, reports
from tests.support.browser import BROWSER, NEEDS_BROWSER, Chromium, Tab
from tests.support.colours import contrast, luminance
from tests.support.page_reader import Page, hostile

FOREIGN = '<img src="http://raystill.invalid/x.png"><script>document.title = "ran"</script>'

pytestmark = NEEDS_BROWSER


def opened(html: str, folder: Path) -> tuple[Page, list[str], list[str]]:
    """The page in the browser, its console messages, and the addresses that it requested."""
    (folder / "page.html").write_text(html, encoding="utf-8")
    log = folder / "net.json"
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}",
        "--enable-logging=stderr", "--dump-dom", (folder / "page.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    sent = [event.get("params", {}) for event in events]
    requested = [one["url"] for one in sent if "url" in one and one.get("initiator") in ("file://", "null")]
    return Page(done.stdout), [line for line in done.stderr.splitlines() if "CONSOLE" in line], requested


@pytest.mark.parametrize("name", ["comparison", "report"])
def test_a_page_of_hostile_texts_loads_silently(name: str, tmp_path: Path) -> None:
    if name == "report":
        html = report_page(Report.model_validate(hostile(reports.report_tree(), reports.FIXED)))
    else:
        wild = hostile(comparisons.comparison_tree(), comparisons.FIXED)
        html = comparison_page(ComparisonReport.model_validate(wild))
    page, messages, requested = opened(html.replace(r"//x.invalid", "http://raystill.invalid"), tmp_path)
    assert messages == []
    assert [url for url in requested if url.startswith("http")] == []
    assert page.shape() == Page(html).shape()
    assert len([tag for tag, _ in page.elements if tag == "svg"]) == (8 if name == "report" else 10)


def test_the_policy_of_a_page_blocks_injected_content(tmp_path: Path) -> None:
    _, messages, requested = opened(report_page(reports.report()).replace("</main>", f"{FOREIGN}</main>"), tmp_path)
    assert len(messages) == 2
    assert all("Content Security Policy" in message for message in messages)
    _, _, noticed = opened(f"<!doctype html><title>made</title>{FOREIGN}", tmp_path)
    assert "http://raystill.invalid/x.png" in noticed, "without the policy"
    assert [url for url in requested if url.startswith("http")] == []


class PageTab(Tab):
    """A tab with a static page."""

    def open(self) -> None:
        self.order("Page.navigate", url=self._url)
        self.until(f"location.href === {json.dumps(self._url)} && document.readyState === 'complete'")

    def prefer(self, scheme: str) -> None:
        """Set the colour scheme of the reader's machine: `light` or `dark`."""
        self.order("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


SEEN = """(() => {
  const colour = one => getComputedStyle(one).color;
  const there = query => [...document.querySelectorAll(query)].filter(one => one.getClientRects().length > 0);
  return {
    paper: getComputedStyle(document.body).backgroundColor,
    plots: there("svg").map(one => one.getAttribute("class")),
    texts: there("h1, .headline, .note, .better, .worse, .open, figcaption, summary").map(colour),
    labels: there("svg text").map(one => getComputedStyle(one).fill),
  };
})()"""
READABLE = 4.5
"""Lowest contrast of text (WCAG 2.2, 1.4.3)."""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    started = Chromium(tmp_path / "profile")
    yield started
    started.close()


@pytest.mark.parametrize("name", ["comparison", "report"])
def test_a_page_follows_the_readers_colour_scheme(name: str, tmp_path: Path, browser: Chromium) -> None:
    """Leaves NAME-SCHEME.png in the test's folder for people to look at."""
    html = report_page(reports.report()) if name == "report" else comparison_page(comparisons.comparison())
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    tab = PageTab(browser, (tmp_path / "page.html").as_uri())
    seen: dict[str, dict[str, Any]] = {}
    pictures: dict[str, bytes] = {}
    for scheme in ("light", "dark"):
        tab.prefer(scheme)
        found = seen[scheme] = dict(tab.js(SEEN))
        tab.picture(tmp_path / f"{name}-{scheme}.png")
        pictures[scheme] = (tmp_path / f"{name}-{scheme}.png").read_bytes()
        assert set(found["plots"]) == {scheme}
        assert len(found["texts"]) > 5
        assert found["labels"]
        for colour in {*found["texts"], *found["labels"]}:
            assert contrast(colour, found["paper"]) >= READABLE, (scheme, colour)
        assert pictures[scheme].startswith(b"\x89PNG\r\n\x1a\n")
    assert luminance(seen["dark"]["paper"]) < 0.05 < 0.9 < luminance(seen["light"]["paper"])
    assert pictures["light"] != pictures["dark"]
    assert tab.complaints() == []
    tab.close()
