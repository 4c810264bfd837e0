import signal
from types import SimpleNamespace

import pytest

from pipelines.label import interrupt
from pipelines.label.interrupt import patient_interrupt


def test_the_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one waits for the answers in flight, and then for the last rows."""
    in_flight, clock = [True], [100.0]
    methods = {"interrupt": lambda: None, "in_flight": lambda: in_flight[0]}
    health = SimpleNamespace(**{name: SimpleNamespace(remote=method) for name, method in methods.items()})
    # A process that a shell starts in the background has none.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr("ray.get", lambda found, **_: found)
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: clock[0])
    with patient_interrupt(health, is_paid=True) as interruption:
        interruption.finish()
        signal.raise_signal(signal.SIGINT)
        clock[0] += 9.0
        assert not interruption.is_over(0), "a request is in flight"
        in_flight[0] = False
        assert [interruption.is_over(rows) for rows in (5, 0)] == [False, False], "rows have just come"
        clock[0] += 9.0
        assert interruption.is_over(0)
        with pytest.raises(KeyboardInterrupt):
            interruption.finish()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with patient_interrupt(health, is_paid=False), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
