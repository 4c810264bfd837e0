from collections import Counter

from pipelines.data.label_manifest import EngineUsage
from pipelines.label.output.counts import Counts
from pipelines.label.reporting.prometheus import LabelMetrics
from tests.support.metrics import Recorded, recorded

__all__ = ["recorded"]


def usage(start_s: float = 0.0, up_s: float = 0.0, busy_s: float = 0.0, deaths: int = 0) -> EngineUsage:
    return EngineUsage(engines=2, start_s=start_s, up_s=up_s, busy_s=busy_s, deaths=deaths, ready_for_s=None)


def test_rows_and_tokens_of_earlier_runs_do_not_count_again(recorded: Recorded) -> None:
    before = Counts(accepted=100, rejected=Counter(tie=5), prompt_tokens=900, output_tokens=90)
    live = LabelMetrics("svamp", 0, before)
    live.rows(before, None)
    assert recorded == {}, "the corpus is not read yet"
    live.rows(before, 200)
    assert recorded == {("raystill_label_rows_left", "svamp"): 95}
    rejected = Counter(tie=5, unparsable=3)
    for _ in range(2):
        live.rows(Counts(140, rejected, heldout_answered=7, prompt_tokens=1300, output_tokens=130), 200)
    assert recorded == {
        ("raystill_label_rows_left", "svamp"): 45,
        ("raystill_label_rows", "svamp", "accepted"): 47,
        ("raystill_label_rows", "svamp", "unparsable"): 3,
        ("raystill_label_tokens", "svamp", "in"): 400,
        ("raystill_label_tokens", "svamp", "out"): 40,
    }


def test_a_reject_that_is_answered_later_lowers_no_counter(recorded: Recorded) -> None:
    live = LabelMetrics("svamp", 0, Counts(rejected=Counter(engine_error=4)))
    live.rows(Counts(accepted=4, rejected=Counter(engine_error=0)), 4)
    live.rows(Counts(accepted=4, rejected=Counter(engine_error=5)), 9)
    assert recorded["raystill_label_rows", "svamp", "accepted"] == 4
    assert recorded["raystill_label_rows", "svamp", "engine_error"] == 1


def test_engine_and_gpu_seconds_are_those_of_the_manifest(recorded: Recorded) -> None:
    live = LabelMetrics("svamp", 2, Counts())
    live.engines(usage())
    assert recorded == {}
    live.rows(Counts(accepted=4), 10)
    recorded.clear()
    live.engines(usage(start_s=40.0, up_s=50.0, busy_s=30.0))
    assert recorded["raystill_label_rows_left", "svamp"] == 6, "set again while nothing is committed"
    live.engines(usage(start_s=40.0, up_s=150.0, busy_s=120.0, deaths=1))
    seconds = [recorded["raystill_label_engine_seconds", "svamp", state] for state in ("starting", "busy", "idle")]
    assert seconds == [40.0, 120.0, 30.0]
    assert recorded["raystill_gpu_seconds", "svamp", "label"] == 2 * (40.0 + 150.0)
    assert recorded["raystill_label_engine_deaths", "svamp"] == 1
    recorded.clear()
    LabelMetrics("svamp", 0, Counts()).engines(usage(start_s=40.0))
    assert not any(name == "raystill_gpu_seconds" for name, *_ in recorded), "engines on CPUs hold no GPU"
