"""The page at `/` in a real browser on a real endpoint: requests and responses match the API."""

from pathlib import Path

import pytest

from tests.support.browser import NEEDS_BROWSER, Chromium, Tab
from tests.support.endpoints import endpoint_of, small
from tests.support.local_ray import local_ray
from tests.support.tiny_students import write_student

pytestmark = [*NEEDS_BROWSER, pytest.mark.full, pytest.mark.timeout(600)]


def test_the_page_shows_what_the_endpoint_answers(tmp_path: Path) -> None:
    folder = write_student(tmp_path / "student", "decoder-only")
    with local_ray(), endpoint_of({"sums": folder}, small()) as client:
        browser = Chromium(tmp_path / "profile")
        try:
            tab = Tab(browser, str(client.base_url))
            assert "a student for" in tab.text("headline")
            tab.click("example")
            tab.answer()
            text = tab.js("document.getElementById('field-0').value")
            response = client.post("/v1/predict", json={"inputs": [{"input": text}], "rationale": True}).json()
            (answer,) = response["predictions"]
            assert tab.js("document.getElementById('label').textContent").startswith(answer["label"])
            sure = answer["confidence"]
            assert tab.text("confidence") == (f"{100 * sure:.1f}%" if sure >= 0.0005 else "under 0.1%")
            shown = tab.js("document.getElementById('rationale-text').textContent")
            assert shown == answer["rationale"] or (not answer["rationale"] and shown == "The student generated none.")
            assert tab.complaints() == []
        finally:
            browser.close()
