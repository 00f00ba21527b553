"""Prometheus metrics out of one status: nothing is counted twice, nothing here is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

PHASES = ("starting", "initialising", "training", "finishing", "ended")


class StatusCollector(Collector):
    """The families for one scrape."""

    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        yield from self._service()
        yield from self._run()
        yield from self._learners()

    def _service(self) -> Iterator[Metric]:
        counts, intake = self._status["counts"], self._status["contributions"]
        merges, merge_s = counts["merges"], counts["merge_s"]
        text = "Seconds from a closed round to a durable merge"
        yield SummaryMetricFamily("atoll_merge_seconds", text, merges, merge_s)
        yield CounterMetricFamily("atoll_bytes_in", "Bytes of parts received", counts["bytes_in"])
        yield CounterMetricFamily("atoll_bytes_out", "Bytes of versions sent", counts["bytes_out"])
        yield CounterMetricFamily("atoll_snapshots", "Snapshots written", counts["snapshots"])
        refused = CounterMetricFamily("atoll_refused", "Refusals by code", labels=["code"])
        for code, count in sorted(counts["refused"].items()):
            refused.add_metric([code], count)
        yield refused
        text = "Memory that contributions take"
        yield GaugeMetricFamily("atoll_contribution_bytes", text, intake["used_bytes"])
        text = "Control connections"
        yield GaugeMetricFamily("atoll_connections", text, self._status["connections"])
        yield GaugeMetricFamily("atoll_epoch", "Epoch of this syncer", self._status["epoch"])
        text = "1 while the syncer waits for something, see /api/status"
        yield GaugeMetricFamily("atoll_waiting", text, int(bool(self._status["waiting"])))
        text = "1 while somebody who is due is merged nowhere, see degraded in /api/status"
        yield GaugeMetricFamily("atoll_degraded", text, int(bool(self._status["degraded"])))
        phase = GaugeMetricFamily("atoll_phase", "1 for the run's phase", labels=["phase"])
        for each in PHASES:
            phase.add_metric([each], int(each == self._status["phase"]))
        yield phase

    def _run(self) -> Iterator[Metric]:
        coordinator = self._status.get("coordinator")
        if coordinator is None:
            return
        for name in ("live", "busy", "away"):
            text = f"Learners that are {name}"
            yield GaugeMetricFamily(f"atoll_learners_{name}", text, coordinator[name])
        for name in ("trained", "merged", "budget"):
            text = f"Tokens of the run: {name}"
            yield GaugeMetricFamily(f"atoll_tokens_{name}", text, coordinator[name])
        for name in ("items", "streams"):
            text = f"Leased data {name} that were trained and are trained again"
            count = coordinator[f"repeated_{name}"]
            yield CounterMetricFamily(f"atoll_repeated_{name}", text, count)
        text = "Leases on data that learners hold"
        yield GaugeMetricFamily("atoll_leases_held", text, coordinator["leases_held"])
        text = "Pass over the data set that is dealt out"
        yield GaugeMetricFamily("atoll_data_pass", text, coordinator["data_pass"])
        for name in ("merges", "thin", "solo", "abandoned"):
            family = CounterMetricFamily(
                f"atoll_rounds_{name}", f"Rounds: {name}", labels=["shard"]
            )
            for shard, each in self._status["shards"].items():
                family.add_metric([shard], each["tally"][name])
            yield family
        text = "Learners merged of learners live, over all rounds"
        share = GaugeMetricFamily("atoll_participation", text, labels=["shard"])
        version = GaugeMetricFamily("atoll_fragment_version", "Version", labels=["fragment"])
        for shard, each in self._status["shards"].items():
            share.add_metric([shard], each["participation"])
            for fragment in each["fragments"]:
                version.add_metric([str(fragment["fragment"])], fragment["version"])
        yield share
        yield version

    def _learners(self) -> Iterator[Metric]:
        step = GaugeMetricFamily("atoll_learner_step", "Last step told", labels=["learner"])
        pace = GaugeMetricFamily("atoll_learner_step_seconds", "Step time", labels=["learner"])
        for name, each in self._status.get("learners", {}).items():
            step.add_metric([name], each["step"])
            pace.add_metric([name], each["pace_s"])
        yield step
        yield pace
