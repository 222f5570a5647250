"""The offset of a server's clock."""

from __future__ import annotations

import itertools
import math

import pytest

from nbruntime.profiling.recording.clock import ROUND_TRIPS, ClockOffset, estimate_offset


def clocks(offset: float, there: list[float], back: list[float]) -> tuple[list[float], list[float]]:
    """What the client and the server read when requests take these times on their way there and back."""
    now, client, server = 1000.0, [1000.0], []
    for forth, home in zip(there, back, strict=True):
        client.append(now + forth + home)
        server.append(now + forth + offset)
        now += forth + home
        client.append(now)
    return client, server


@pytest.mark.parametrize("offset", [0.0, 3.0, -7200.0])
def test_the_quickest_round_trip_counts(offset: float) -> None:
    there, back = [0.05, 0.001, 0.04, 0.09, 0.01], [0.01, 0.002, 0.09, 0.01, 0.02]
    client, server = clocks(offset, there, back)
    client_now, server_now = iter(client), iter(server)
    found = estimate_offset(lambda: next(server_now), clock=lambda: next(client_now))
    assert found.error == pytest.approx(0.0015)
    assert abs(found.seconds - offset) <= found.error + 1e-9
    assert len(there) == ROUND_TRIPS
    assert next(server_now, None) is None


def test_on_this_machine_an_offset_within_the_error_is_none() -> None:
    for offset, expected in ((0.004, 0.0), (5.0, 5.0)):
        client, server = clocks(offset, [0.005] * ROUND_TRIPS, [0.005] * ROUND_TRIPS)
        client_now, server_now = iter(client), iter(server)
        found = estimate_offset(lambda: next(server_now), local=True, clock=lambda: next(client_now))  # noqa: B023
        assert found.seconds == pytest.approx(expected)


def test_a_slow_server_is_asked_once() -> None:
    ticks = itertools.count(0.0, 1.0)
    asked = []

    def ask() -> float:
        asked.append(1)
        return 0.5

    estimate_offset(ask, clock=lambda: next(ticks))
    assert len(asked) == 1
    assert ClockOffset() == ClockOffset(0.0, math.inf)
