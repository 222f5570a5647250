"""Prometheus metrics under SGLang's names."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from nbruntime.embedded.engine.engine import Engine
from nbruntime.embedded.engine.request import Request

_TTFT_BUCKETS = (0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400)
_ITL_BUCKETS = (0.002, 0.004, 0.006, 0.008, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, *_TTFT_BUCKETS[:10])
_E2E_BUCKETS = (*_TTFT_BUCKETS, 600, 1200, 1800, 2400)

Metric = TypeVar("Metric", Gauge, Counter, Histogram)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters, gauges and histograms of one server, labelled with `model_name`."""

    def __init__(self, model_name: str = "") -> None:
        self._registry = CollectorRegistry()
        labels = {"model_name": model_name}

        def made(kind: type[Metric], name: str, text: str, **options: Any) -> Metric:
            whole = kind(f"sglang:{name}", text, labels, registry=self._registry, **options)
            return whole.labels(**labels)

        gauge, counter = partial(made, Gauge), partial(made, Counter)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return made(Histogram, name, text, buckets=buckets)

        self._running = gauge("num_running_reqs", "The number of running requests.")
        self._queued = gauge("num_queue_reqs", "The number of requests in the waiting queue.")
        self._used = gauge("num_used_tokens", "The number of used tokens.")
        self._usage = gauge("token_usage", "The token usage.")
        self._capacity = gauge("max_total_num_tokens", "The maximum number of tokens in the KV cache.")
        self._throughput = gauge("gen_throughput", "The generation throughput (token/s).")
        self._hits = gauge("cache_hit_rate", "The prefix cache hit rate.")
        self._retracted = gauge("num_retracted_reqs", "The number of retracted requests.")
        self._prompt = counter("prompt_tokens", "Number of prefill tokens processed.")
        self._generated = counter("generation_tokens", "Number of generation tokens processed.")
        self._cached = counter("cached_tokens", "Number of cached prompt tokens.")
        self._requests = counter("num_requests", "Number of requests processed.")
        self._aborted = counter("num_aborted_requests", "Number of requests aborted.")
        self._ttft = histogram("time_to_first_token_seconds", "Time to first token.", _TTFT_BUCKETS)
        self._itl = histogram("inter_token_latency_seconds", "Inter-token latency.", _ITL_BUCKETS)
        self._e2e = histogram("e2e_request_latency_seconds", "End-to-end request latency.", _E2E_BUCKETS)
        self._queue = histogram("queue_time_seconds", "Time in the waiting queue.", _TTFT_BUCKETS)

    def finished(self, request: Request) -> None:
        """Count a request that has ended."""
        times, generated = request.times, len(request.output_ids)
        self._requests.inc()
        self._prompt.inc(len(request.prompt_ids))
        self._generated.inc(generated)
        self._cached.inc(request.cached_tokens)
        if (request.finish_reason or {}).get("type") == "abort":
            self._aborted.inc()
        self._e2e.observe(times.finished - times.received)
        if times.forward_entry:
            self._queue.observe(max(0.0, times.forward_entry - times.dispatched))
        if times.first_token:
            self._ttft.observe(times.first_token - times.received)
            if generated > 1:
                self._itl.observe((times.finished - times.first_token) / (generated - 1))

    def exposition(self, engine: Engine | None) -> bytes:
        """Write all metrics in Prometheus' text format."""
        if engine is not None:
            scheduler, cache = engine.scheduler, engine.scheduler.cache
            self._running.set(len(scheduler.running) + len(scheduler.extending))
            self._queued.set(len(scheduler.waiting))
            self._used.set(cache.used)
            self._usage.set(cache.used / cache.capacity)
            self._capacity.set(cache.capacity)
            self._throughput.set(engine.stats.throughput)
            self._hits.set(engine.stats.cache_hit_rate)
            self._retracted.set(engine.stats.retracted)
        return generate_latest(self._registry)
