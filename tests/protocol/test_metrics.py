"""Prometheus' text: as SGLang writes it, and invalid."""

from __future__ import annotations

import math

from hypothesis import example, given
from hypothesis import strategies as st

from nbruntime.protocol.metrics import Histogram, gauges, histograms

BOUNDS = (0.1, 0.2, 0.5, 1.0, math.inf)

TEXT = """# HELP sglang:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE sglang:time_to_first_token_seconds histogram
sglang:time_to_first_token_seconds_sum{model_name="m, le=\\"0.5\\""} 1.44
sglang:time_to_first_token_seconds_bucket{is_streaming="false",le="0.1",model_name="m"} 1.0
sglang:time_to_first_token_seconds_bucket{is_streaming="false",le="+Inf",model_name="m"} 3.0
sglang:time_to_first_token_seconds_bucket{is_streaming="true",le="0.1",model_name="m"} 2.0
sglang:time_to_first_token_seconds_bucket{is_streaming="true",le="+Inf",model_name="m"} 2.0 1395066363000
sglang:num_running_reqs{tp_rank="0"} 2.0
sglang:num_running_reqs{tp_rank="1"} 3.0
sglang:num_running_reqs_more{tp_rank="1"} 90
sglang:fwd_occupancy{tp_rank="0"} NaN
sglang:broken{ 1
sglang:gen_throughput
sglang:gen_throughput{} fast
"""


def histogram_of(values: list[float]) -> Histogram:
    return Histogram({bound: float(sum(value <= bound for value in values)) for bound in BOUNDS})


def test_histograms_are_summed_over_labels() -> None:
    found = histograms(TEXT, ["time_to_first_token_seconds", "inter_token_latency_seconds"])
    assert found == {"time_to_first_token_seconds": Histogram({0.1: 3.0, math.inf: 5.0})}


def test_gauges_are_summed_over_ranks_and_invalid_ones_skipped() -> None:
    assert gauges(TEXT, ["num_running_reqs", "fwd_occupancy", "gen_throughput", "broken"]) == {
        "num_running_reqs": 5.0
    }


@given(st.text(), st.text())
def test_any_text_is_read_without_an_error(text: str, labels: str) -> None:
    gauges(f"sglang:a{text}\nsglang:a{{{labels}}} 1", ["a"])
    histograms(f'sglang:a_bucket{{le="{text}"}} 1\nsglang:a_bucket{{{labels}}} 1', ["a"])


times = st.lists(st.floats(min_value=0.001, max_value=3), min_size=1, max_size=50)


@example([1.0, 1.0, 1.0, 0.0625, 0.0625, 0.0625], 0.5)
@given(times, st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_lies_in_its_bucket(values: list[float], share: float) -> None:
    histogram = histogram_of(values)
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    bucket = histogram.quantile(share)
    assert bucket is not None
    assert bucket[0] <= exact <= bucket[1]
    estimate = histogram.estimate(share)
    assert (estimate is None) == math.isinf(bucket[1])
    assert estimate is None or bucket[0] <= estimate <= bucket[1]


@given(times, times)
def test_a_difference_has_the_values_in_between(earlier: list[float], later: list[float]) -> None:
    assert histogram_of(earlier + later) - histogram_of(earlier) == histogram_of(later)


def test_all_values_count_after_a_restart() -> None:
    assert histogram_of([0.3]) - histogram_of([0.3, 0.4]) == histogram_of([0.3])


def test_an_empty_histogram_has_no_quantile() -> None:
    assert histogram_of([]).quantile(0.5) is None
    assert histogram_of([]).estimate(0.5) is None
    assert Histogram({}).total == 0
