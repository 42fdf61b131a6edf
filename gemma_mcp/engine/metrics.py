"""The engine's figures, in Prometheus' format. Each engine has a registry of its own, so nothing is global."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gemma_mcp.engine.residency import Resident
from gemma_mcp.engine.stats import SchedulerStats
from gemma_mcp.types import Finished

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
TOKEN_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)

SUMS = ("requests", "steps", "prompt_tokens", "cached_tokens", "completion_tokens", "restarts", "step_seconds")


class Metrics:
    """Counts what the engine does. `residents` tells which models are loaded."""

    def __init__(self, residents: Callable[[], list[Resident]]) -> None:
        self._registry = CollectorRegistry()
        self._models = _ModelCollector(residents)
        self._registry.register(self._models)
        self._requests = Counter(
            "gemma_http_requests", "HTTP requests by route and status.", ("route", "status"), registry=self._registry
        )
        self._finished = Counter(
            "gemma_replies",
            "Finished replies by model and finish reason.",
            ("model", "reason"),
            registry=self._registry,
        )
        self._ttft = self._histogram(
            "gemma_ttft_seconds", "From submission to the first text, queue included.", SECONDS
        )
        self._queue = self._histogram("gemma_queue_seconds", "From submission to a slot.", SECONDS)
        self._tpot = self._histogram("gemma_tpot_seconds", "Decode time per completion token.", TOKEN_SECONDS)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ("model",), registry=self._registry, buckets=buckets)

    def request(self, route: str, status: int) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()

    def finished(self, model: str, event: Finished) -> None:
        """A reply came to its end."""
        self._finished.labels(model, event.reason).inc()
        self._ttft.labels(model).observe(event.timings.ttft_seconds)
        self._queue.labels(model).observe(event.timings.queue_seconds)
        if event.usage.completion_tokens:
            self._tpot.labels(model).observe(event.timings.decode_seconds / event.usage.completion_tokens)

    def unloaded(self, resident: Resident) -> None:
        """A model leaves memory; what it counted stays counted."""
        self._models.retire(resident.spec.name, resident.model.stats)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


class _ModelCollector(Collector):
    """Reads the schedulers' own counters when asked, so that counting costs a step nothing."""

    def __init__(self, residents: Callable[[], list[Resident]]) -> None:
        self._residents = residents
        self._retired: dict[str, dict[str, float]] = {}

    def retire(self, model: str, stats: SchedulerStats) -> None:
        self._retired[model] = _added(self._retired.get(model, {}), stats)

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        now = [(one.spec.name, one.model.stats) for one in self._residents()]
        sums = dict(self._retired)
        for model, stats in now:
            sums[model] = _added(sums.get(model, {}), stats)
        loaded = GaugeMetricFamily("gemma_models_loaded", "Models in memory.", value=len(now))
        return [loaded, *_gauges(now), *_counters(sums)]


def _added(sums: dict[str, float], stats: SchedulerStats) -> dict[str, float]:
    return {name: sums.get(name, 0.0) + getattr(stats, name) for name in SUMS}


def _gauges(now: list[tuple[str, SchedulerStats]]) -> Iterator[Metric]:
    for name, text in (
        ("running", "Requests that have a slot."),
        ("waiting", "Requests that wait for a slot."),
        ("slots", "Requests that can run at once."),
    ):
        family = GaugeMetricFamily(f"gemma_{name}", text, labels=("model",))
        for model, stats in now:
            family.add_metric((model,), getattr(stats, name))
        yield family


def _counters(sums: dict[str, dict[str, float]]) -> Iterator[Metric]:
    tokens = CounterMetricFamily("gemma_tokens", "Tokens by model and kind.", labels=("model", "kind"))
    restarts = CounterMetricFamily("gemma_worker_restarts", "Workers that died and were replaced.", labels=("model",))
    steps = SummaryMetricFamily("gemma_step_seconds", "Steps of the scheduler.", labels=("model",))
    for model, values in sums.items():
        for kind in ("prompt", "cached", "completion"):
            tokens.add_metric((model, kind), values[f"{kind}_tokens"])
        restarts.add_metric((model,), values["restarts"])
        steps.add_metric((model,), int(values["steps"]), values["step_seconds"])
    return iter((tokens, restarts, steps))
