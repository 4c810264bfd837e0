import pytest

from pipelines.runtime.durations import duration, duration_s


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.0455, "45.5 ms"), (0.9999, "1 s"), (9.1, "9.1 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
     (912, "15 min 12 s"), (3599.6, "1 h 00 min"), (18_420, "5 h 07 min"), (273_600, "3 d 4 h")],
)  # fmt: skip
def test_duration_has_at_most_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_text_is_a_duration_or_refused() -> None:
    texts = {"90min": 5400, "24h": 86_400, "1d 12h": 129_600, "1.5h": 5400, "20s": 20}
    assert {text: duration_s(text) for text in texts} == texts
    for text in ("", "24", "24 hours", "h", "0h", "-3h", "1h and 2min"):
        with pytest.raises(ValueError, match="must be a duration"):
            duration_s(text)
