"""What plots of requests draw, in cases that are counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nbruntime.profiling.plots.fitted_line import fit_line
from nbruntime.profiling.plots.token_rates import bin_edges, in_flight, token_rates
from nbruntime.profiling.plots.ttft_groups import telling_split
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord
from nbruntime.profiling.request_bars import Part, request_bars
from nbruntime.profiling.sweep_point import SweepPoint, knee


class TestRequestBars:
    def test_by_the_servers_times(self) -> None:
        times = {"request_received_ts": 110.5, "forward_entry_time": 111.0, "prefill_finished_time": 112.0}
        request = RequestRecord("a", 100, 105, ((2.5, 1),), server_times=times)
        bars = request_bars(ProfileData(requests=[request], clock_offset=10.0))
        assert bars.part == [Part.WAY, Part.QUEUE, Part.PREFILL, Part.DECODE]
        assert bars.start.tolist() == [100, 100.5, 101, 102]
        assert bars.end.tolist() == [100.5, 101, 102, 105]
        assert bars.row.tolist() == [0, 0, 0, 0]

    def test_stopped_in_prefill(self) -> None:
        request = RequestRecord("a", 100, 105, server_times={"forward_entry_time": 101.0})
        bars = request_bars(ProfileData(requests=[request]))
        assert list(zip(bars.part, bars.start.tolist(), bars.end.tolist(), strict=True)) == [
            (Part.QUEUE, 100, 101),
            (Part.PREFILL, 101, 105),
        ]

    def test_without_the_servers_times(self) -> None:
        data = ProfileData(
            requests=[RequestRecord("a", 100, 105, ((2.0, 1), (5.0, 1))), RequestRecord("b", 1, 4)]
        )
        bars = request_bars(data)
        assert bars.part == [Part.FIRST_TOKEN, Part.REST, Part.WHOLE]
        assert bars.end.tolist() == [102, 105, 4]
        rows, starts, ends = bars.of(Part.WHOLE)
        assert (rows.tolist(), starts.tolist(), ends.tolist()) == ([1], [1.0], [4.0])

    def test_nothing(self) -> None:
        assert request_bars(ProfileData()).part == []


class TestTokenRates:
    def test_counts_tokens_by_second(self) -> None:
        streamed = RequestRecord("a", 100, 103, ((0.5, 1), (1.5, 2), (1.75, 3)))
        assert token_rates([streamed], np.array([100.0, 101, 102, 103])).tolist() == [1, 5, 0]

    def test_spreads_what_was_not_streamed(self) -> None:
        whole = RequestRecord("a", 100.5, 102.5, completion_tokens=8)
        assert token_rates([whole], np.array([100.0, 101, 102, 103])).tolist() == [2, 4, 2]

    def test_edges(self) -> None:
        assert bin_edges(5.0, 5.0).tolist() == pytest.approx([5.0, 5.00001])
        assert bin_edges(0.0, 61.0)[-1] >= 61.0

    def test_in_flight(self) -> None:
        times, counts = in_flight(
            [RequestRecord("a", 1, 3), RequestRecord("b", 2, 5), RequestRecord("c", 3, 4)]
        )
        assert times.tolist() == [1, 2, 3, 3, 4, 5]
        assert counts.tolist() == [1, 2, 1, 2, 1, 0]


class TestFittedLine:
    def test_outliers_do_not_bend_it(self) -> None:
        x = np.arange(20.0)
        y = 3 * x + 5
        y[[2, 11]] = 500
        line = fit_line(x, y)
        assert line is not None
        assert line.slope == pytest.approx(3)
        assert line.at_zero == pytest.approx(5)
        assert line.low <= 3 <= line.high

    def test_no_line(self) -> None:
        some = np.arange(7.0)
        assert fit_line(some, some) is None
        assert fit_line(np.repeat([1.0, 2.0], 20), np.arange(40.0)) is None
        noise = np.random.default_rng(1)
        assert fit_line(noise.random(50), noise.random(50)) is None

    def test_many_points(self) -> None:
        x = np.arange(10_000.0)
        line = fit_line(x, 0.5 * x)
        assert line is not None
        assert line.slope == pytest.approx(0.5)


def prompt(tokens: int, cached: int, ttft: float) -> RequestRecord:
    return RequestRecord("", 0, 9, ((ttft, 1),), prompt_tokens=tokens, cached_tokens=cached)


class TestTellingSplit:
    def test_by_cached_share(self) -> None:
        cold = [prompt(1000, 0, 1 + number / 100) for number in range(6)]
        warm = [prompt(1000, 900, 0.1 + number / 100) for number in range(6)]
        split = telling_split([*cold, *warm])
        assert split is not None
        assert split.by == "cached share of the prompt"
        assert [(group.name, len(group.ttft)) for group in split.groups] == [
            ("nothing cached", 6),
            ("half or more cached", 6),
        ]
        assert 0.7 < split.share < 1

    def test_by_prompt_length(self) -> None:
        split = telling_split(
            [prompt(tokens, 0, tokens / 1000) for tokens in [60] * 6 + [200] * 6 + [900] * 3]
        )
        assert split is not None
        assert [group.name for group in split.groups] == ["17–64 tokens", "65–256 tokens"]

    def test_where_it_says_nothing(self) -> None:
        assert telling_split([]) is None
        assert telling_split([prompt(1000, 0, 0.1)] * 20) is None
        alternating = [prompt(100 if number % 2 else 1000, 0, number // 2) for number in range(20)]
        assert telling_split(alternating) is None


class TestKnee:
    def test_best_throughput_for_its_latency(self) -> None:
        e2e = {1: 1.0, 2: 1.05, 4: 1.15, 8: 1.4, 16: 2.8, 32: 5.6}
        found = knee([SweepPoint("a", load, load / seconds, e2e=seconds) for load, seconds in e2e.items()])
        assert found is not None
        assert found.load == 8

    def test_none(self) -> None:
        assert knee([SweepPoint("a", load, load, e2e=1.0) for load in (1, 2, 4)]) is None
        assert knee([SweepPoint("a", 1, 1, e2e=1.0), SweepPoint("a", 2, 1, e2e=2.0)]) is None
        assert knee([SweepPoint("a", load, 1.0) for load in (1, 2, 4)]) is None
