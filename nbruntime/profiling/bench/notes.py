"""Sentences about what limits a run's result."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from nbruntime.display.numbers import duration, percent
from nbruntime.profiling.bench.options import BenchOptions
from nbruntime.profiling.bench.plan import ClientEnded
from nbruntime.profiling.bench_run import CLIENT_LIMIT
from nbruntime.profiling.records import RequestRecord

MOST_LATENESS = 0.005
"""Seconds; a client that is later than that limits what it measures."""

MOST_LAG = 0.01
"""Seconds; more than the lateness, since a busy machine disturbs every loop now and then."""

MOST_PROCESSOR = 0.9
"""Part of one processor above which the client is the limit."""


def run_notes(
    options: BenchOptions, requests: Sequence[RequestRecord], client: ClientEnded | None
) -> list[str]:
    """Return what a reader of the result has to know; empty if nothing limits it."""
    notes = []
    if client is not None:
        if client.unreachable:
            notes.append(f"The run was ended: no server answered any more ({client.unreachable}).")
        if client.waited:
            places = options.concurrency
            which = f"one of the {places} places" if places != 1 else "the only place"
            notes.append(
                f"{client.waited} of {len(requests)} requests waited for {which}; "
                "their lateness is no fault of the client."
            )
        measured = any(each.status == "finished" for each in requests)
        if measured and (limit := _client_limit(requests, client)):
            notes.append(f"{CLIENT_LIMIT}: {limit}. The server may be faster than measured.")
    failed = [request for request in requests if request.status == "failed"]
    if failed and len(failed) == len(requests):
        all_of_them = f"All {len(failed)} requests" if len(failed) > 1 else "The only request"
        notes.append(f"{all_of_them} failed; the first error: {failed[0].error}")
    if options.prompts and len(requests) > len(options.prompts):
        several = len(options.prompts) > 1
        notes.append(
            f"The {f'{len(options.prompts)} prompts were' if several else 'prompt was'} sent more than once, "
            "so that the cache knew them: TTFT is lower than for new prompts."
        )
    return notes


def _client_limit(requests: Sequence[RequestRecord], client: ClientEnded) -> str:
    """Return what shows that the client was too slow; empty if it was not."""
    late = [each.lateness for each in requests if each.lateness is not None]
    lateness = median(late) if late and not client.waited else 0.0
    if lateness > MOST_LATENESS:
        return f"half of its requests were sent {duration(lateness)} late or more"
    if client.lag > MOST_LAG:
        return f"its event loop was {duration(client.lag)} late in a tenth of the time"
    if client.processor_share > MOST_PROCESSOR:
        return f"it used {percent(client.processor_share)} of a processor"
    return ""
