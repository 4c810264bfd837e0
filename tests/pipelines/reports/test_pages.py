"""What the pages of both reports promise: untrusted text stays text, nothing is loaded, and limits of the figures are stated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from pipelines.compare.model import ComparisonReport
from pipelines.compare.page import comparison_page
from pipelines.evaluate.model import Report
from pipelines.evaluate.page import report_page
from pipelines.scoring.heldout_notices import heldout_notices
from pipelines.scoring.model import HeldoutPart, report_bytes
from tests.support import comparisons, reports
from tests.support.page_reader import HOSTILE, Page, assert_needs_nothing_else, hostile
from tests.support.version_0_1 import known_to_0_1

IDS = [f"a-{i}" for i in range(12)]
HELDOUT = {
    "split": "test", "scored": 200, "without_gold": {"count": 1, "ids": ["e-9"]},
    "unreadable": {"count": 2, "ids": ["e-7", "e-8"], "problems": [{"id": i, "problem": "no hypothesis"} for i in ("e-7", "e-8")]},
    "duplicates": {"count": 12, "ids": IDS},
    "trained_on": {"count": 2, "ids": ["e-3", "e-4"], "by": {"id": 1, "input": 1, "near": 1}},
    "chosen_on": {"count": 1, "ids": ["e-5"], "by": {"id": 0, "input": 1, "near": 0}},
}  # fmt: skip
NOTICES = [
    "2 of 200 scored examples (1 by equal input, 1 by similar input: e-3, e-4) are also in the training data. Their accuracy says little.",
    "1 of 200 scored examples (1 by equal input, 0 by similar input: e-5) is also in the data on which weights or settings were chosen. "
    "Their accuracy may be too high.",
    "Not scored: 1 row with no gold label: e-9.",
    "Not scored: 12 rows with the id of an earlier row: a-0, a-1, a-2, a-3, a-4, a-5, a-6, a-7, a-8, a-9, ....",
    "Not scored: 2 unreadable rows. First problem: e-7, no hypothesis.",
]


@dataclass(frozen=True)
class Kind:
    """One of the two reports."""

    tree: Callable[[], dict[str, Any]]
    model: type[Report] | type[ComparisonReport]
    page: Callable[[Any], str]
    fixed: frozenset[str]

    def html(self, **changes: Any) -> str:
        return self.page(self.model.model_validate(self.tree() | changes))


KINDS = {
    "evaluate": Kind(reports.report_tree, Report, report_page, reports.FIXED),
    "compare": Kind(comparisons.comparison_tree, ComparisonReport, comparison_page, comparisons.FIXED),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def test_a_report_survives_its_file(kind: Kind) -> None:
    made = kind.model.model_validate(kind.tree())
    assert kind.model.model_validate_json(report_bytes(made)) == made
    assert known_to_0_1(made.model_dump(mode="json"), kind.tree()) == kind.tree(), "every key of 0.1 is kept"


def test_hostile_texts_stay_text(kind: Kind) -> None:
    tree = kind.tree() | {"heldout": HELDOUT}
    html = kind.html(**hostile(tree, kind.fixed))
    page, shown = Page(html), HOSTILE.replace("\ud800", "?")
    assert page.shape() == Page(kind.html(**tree)).shape()
    for text in (tree["headline"], tree["run"], "no hypothesis", "e-3", "vllm", "2.13.0"):
        assert text + shown in page.text
    assert_needs_nothing_else(html)


def test_limits_of_the_heldout_examples_are_stated(kind: Kind) -> None:
    assert heldout_notices(HeldoutPart.model_validate(HELDOUT)) == NOTICES
    page = Page(kind.html(heldout=HELDOUT))
    assert [notice for notice in NOTICES if notice not in page.text] == []
    assert ["e-8", "no hypothesis"] in page.rows()
    assert kind.html() == kind.html(), "a page is deterministic"
