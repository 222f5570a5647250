"""Sentences about what limits a run."""

from __future__ import annotations

from nbruntime.profiling.bench.notes import run_notes
from nbruntime.profiling.bench.options import BenchOptions
from nbruntime.profiling.bench.plan import ClientEnded
from nbruntime.profiling.records import RequestRecord

QUICK = ClientEnded(lag=0.001, processor_share=0.1)


def requests(lateness: float, count: int = 10) -> list[RequestRecord]:
    return [RequestRecord(str(n), 10.0 + n, 12.0 + n, scheduled=10.0 + n - lateness) for n in range(count)]


def notes(client: ClientEnded, lateness: float = 0.001, **options: int) -> list[str]:
    return run_notes(BenchOptions(loop="open", rate=1.0, **options), requests(lateness), client)  # type: ignore[arg-type]


def test_a_quick_client_needs_no_note() -> None:
    assert notes(QUICK) == []


def test_a_slow_client_says_so() -> None:
    assert "half of its requests were sent 8 ms late or more" in notes(QUICK, 0.008)[0]
    assert "its event loop was 50 ms late in a tenth of the time" in notes(ClientEnded(0.05, 0.1))[0]
    assert "it used 97 % of a processor" in notes(ClientEnded(0.001, 0.97))[0]


def test_waiting_for_a_place_is_no_fault_of_the_client() -> None:
    [note] = notes(ClientEnded(0.001, 0.1, waited=7), 3.0, concurrency=4)
    assert note.startswith("7 of 10 requests waited for one of the 4 places")


def test_a_lost_server_is_named() -> None:
    [note] = notes(ClientEnded(0.001, 0.1, unreachable="ServerConnectionError: refused"))
    assert "no server answered any more (ServerConnectionError: refused)" in note


def test_where_nothing_was_measured_the_client_limits_nothing() -> None:
    stopped = [RequestRecord("a", 10.0, 12.0, status="stopped", scheduled=9.0)]
    assert run_notes(BenchOptions(), stopped, ClientEnded(0.05, 0.1)) == []
