"""Prometheus metrics of labelling. Ray exports them, on the metrics port of the node on which the command runs.

The rate of raystill_label_engine_seconds is the number of engines. Held-out rows count too. The driver updates the sums when it has
committed rows, so a single row costs nothing. The manifest has the exact figures.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from pipelines.data.label_manifest import EngineUsage
from pipelines.label.output.counts import Counts

_Key = tuple[str, str]
"""(metric, value of its label)."""


class LabelMetrics:
    """Metrics of one run, in the driver. Takes sums and exports what they grow by."""

    def __init__(self, run: str, gpus_per_replica: int, before: Counts) -> None:
        """`before`: counts of earlier runs of the stage, which have exported them."""
        self._run, self._gpus = {"run": run}, gpus_per_replica
        self._rows = Counter(
            "raystill_label_rows", "Rows by outcome: `accepted`, or the reason of the reject.", ("run", "outcome")
        )
        self._left = Gauge("raystill_label_rows_left", "Rows without an outcome; 0 when the stage has ended.", ("run",))
        self._tokens = Counter(
            "raystill_label_tokens", "Tokens that the teacher read (in) and generated (out).", ("run", "direction")
        )
        self._engines = Counter(
            "raystill_label_engine_seconds",
            "Seconds of all engines together: `starting`, `busy`, `idle`.",
            ("run", "state"),
        )
        self._deaths = Counter("raystill_label_engine_deaths", "Engines that died.", ("run",))
        self._gpu = Counter("raystill_gpu_seconds", "GPUs held x seconds, by stage.", ("run", "stage"))
        self._exported: dict[_Key, float] = dict(_sums(before))
        self._rows_left: int | None = None
        self._lock = threading.Lock()  # the thread of the progress file calls `engines`

    def rows(self, counts: Counts, total: int | None) -> None:
        """Update the metrics of rows and tokens.

        Args:
            counts: of all rows with an outcome.
            total: rows of the corpus. None: not known yet.
        """
        for (kind, name), increase in self._increases(_sums(counts)).items():
            if kind == "rows":
                self._rows.inc(increase, {**self._run, "outcome": name})
            else:
                self._tokens.inc(increase, {**self._run, "direction": name})
        if total is not None:
            self._rows_left = total - counts.done
            self._left.set(self._rows_left, self._run)

    def engines(self, usage: EngineUsage) -> None:
        """Update the metrics of engines. Call it every few seconds, also while nothing is committed."""
        if self._rows_left is not None:
            # Ray drops a gauge that is not set for two of its intervals, 20 s.
            self._left.set(self._rows_left, self._run)
        seconds = {
            ("engines", "starting"): usage.start_s,
            ("engines", "busy"): usage.busy_s,
            ("engines", "idle"): usage.up_s - usage.busy_s,
        }
        for (_, state), increase in self._increases(seconds).items():
            self._engines.inc(increase, {**self._run, "state": state})
            if self._gpus:
                self._gpu.inc(increase * self._gpus, {**self._run, "stage": "label"})
        for increase in self._increases({("deaths", ""): usage.deaths}).values():
            self._deaths.inc(increase, self._run)

    def _increases(self, sums: Mapping[_Key, float]) -> dict[_Key, float]:
        """What each sum has grown by since the last call. A sum may fall for a while: `engine_error` rows that are answered later."""
        with self._lock:
            exported = self._exported
            increases = {
                key: value - exported.get(key, 0) for key, value in sums.items() if value > exported.get(key, 0)
            }
            exported.update((key, sums[key]) for key in increases)
        return increases


def _sums(counts: Counts) -> dict[_Key, int]:
    rejected = counts.rejected + counts.heldout_rejected
    return {
        **{("rows", reason): count for reason, count in rejected.items()},
        ("rows", "accepted"): counts.accepted + counts.heldout_answered,
        ("tokens", "in"): counts.prompt_tokens,
        ("tokens", "out"): counts.output_tokens,
    }
