"""Plans: when which requests are sent, and what they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbruntime.profiling.bench.arrivals import arrival_times
from nbruntime.profiling.bench.client.prompts import Prompts
from nbruntime.profiling.bench.lengths import LengthSampler
from nbruntime.profiling.bench.options import BenchOptions
from nbruntime.profiling.bench.plan import ClientPlan, PlannedRequest
from nbruntime.profiling.bench.replay import ReplayedRequest
from nbruntime.profiling.bench.workload import TABLE, plan_replay, plan_requests


def tokens(least: int, most: int | None = None) -> LengthSampler:
    return LengthSampler("prompt_tokens", least if most is None else (least, most))


def prompts(requests: list[PlannedRequest], seed: int = 0, **changes: Any) -> Prompts:
    plan = ClientPlan(
        base_url="http://127.0.0.1:1", api_key=None, verify=None, connect_timeout=1, read_timeout=1,
        loop="closed", concurrency=1, think_time=0, requests=requests, count=None, warmup=0, seconds=None,
        timeout=None, prompts=changes.pop("texts", []), vocabulary=list(range(1000, 1500)), seed=[seed, 1],
        body={"sampling_params": {"temperature": 0.0}},
    )  # fmt: skip
    return Prompts(plan)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_arrivals_have_the_rate_and_the_burstiness(burstiness: float) -> None:
    times = arrival_times(20.0, 20_000, burstiness, np.random.default_rng(3))
    gaps = np.diff(times)
    assert times[0] == 0
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.05)


def test_poisson_gaps_are_exponential() -> None:
    gaps = np.diff(arrival_times(1.0, 20_000, 1.0, np.random.default_rng(3)))
    for limit in (0.1, 0.5, 1.0, 2.0):
        assert (gaps < limit).mean() == pytest.approx(1 - np.exp(-limit), abs=0.01)


def test_seconds_limit_an_open_loop_after_its_warmup() -> None:
    options = BenchOptions(loop="open", rate=50.0, seconds=20.0, warmup=10, burstiness=0.5)
    times = [planned.at for planned in plan_requests(options)]
    assert times == sorted(times)
    assert times[10] + 19 < times[-1] <= times[10] + 20
    assert len(times) == pytest.approx(1010, rel=0.15)


def test_a_larger_rate_keeps_the_pattern() -> None:
    slow, fast = (
        [each.at for each in plan_requests(BenchOptions(loop="open", rate=rate, requests=50))]
        for rate in (1.0, 4.0)
    )
    assert slow == pytest.approx([4 * at for at in fast])


def test_the_warmup_comes_on_top() -> None:
    assert len(plan_requests(BenchOptions(concurrency=4, requests=20))) == 24
    assert len(plan_requests(BenchOptions(concurrency=4, requests=20, warmup=0))) == 20
    assert len(plan_requests(BenchOptions(concurrency=4, seconds=5))) == TABLE


def test_prompts_have_their_lengths_and_differ() -> None:
    planned = plan_requests(BenchOptions(concurrency=2, requests=30, prompt_tokens=tokens(5, 50)))
    made = prompts(planned)
    lengths = {len(made.tokens(number)) for number in range(32)}
    assert min(lengths) >= 5
    assert max(lengths) <= 50
    assert len(lengths) > 10
    assert len({tuple(made.tokens(number)) for number in range(32)}) == 32
    # After the last request it begins again, with other tokens.
    assert len(made.tokens(0)) == len(made.tokens(32))
    assert made.tokens(0) != made.tokens(32)


def test_the_same_seed_makes_the_same_prompts_and_another_does_not() -> None:
    planned = plan_requests(BenchOptions(concurrency=1, requests=3))
    assert prompts(planned).tokens(2) == prompts(planned).tokens(2)
    assert prompts(planned).tokens(2) != prompts(planned, seed=1).tokens(2)


def test_a_shared_prefix_is_a_part_of_each_prompt() -> None:
    options = BenchOptions(requests=20, prompt_tokens=tokens(100), prefix_tokens=60, prefix_groups=3)
    made = prompts(plan_requests(options))
    whole = [tuple(made.tokens(number)) for number in range(20)]
    assert {len(each) for each in whole} == {100}
    assert len({each[:60] for each in whole}) == 3
    assert len({each[:61] for each in whole}) > 3
    assert len({each[60:] for each in whole}) == 20


def test_given_prompts_are_sent_in_turn() -> None:
    planned = plan_requests(BenchOptions(requests=5, warmup=0, prompts=["a", "b"]), 2)
    made = prompts(planned, texts=["a", [1, 2]])
    assert b'"text":"a"' in made.body(0, "r")
    assert b'"input_ids":[1,2]' in made.body(3, "r")
    assert b'"max_new_tokens":64' in made.body(3, "r")


def test_a_replay_has_its_times_by_its_speed() -> None:
    replay = [
        ReplayedRequest(0.0, 700, 5, ((11, 512), (12, 88))),
        ReplayedRequest(3.0, 600, 6, ((11, 512), (13, 88))),
        ReplayedRequest(3.0, 20, 7, (), 0, 2.0),
    ]
    options = BenchOptions(loop="open", replay=replay, speed=2.0)
    planned = plan_replay(options)
    assert [each.at for each in planned] == [0.0, 1.5, 1.5]
    assert (planned[2].after, planned[2].wait) == (0, 1.0)
    made = prompts(planned)
    first, second, third = (made.tokens(number) for number in range(3))
    assert (len(first), len(second), len(third)) == (700, 600, 20)
    assert first[:512] == second[:512]
    assert first[512:520] != second[512:520]


def test_blocks_of_a_key_begin_alike() -> None:
    made = prompts([PlannedRequest(1, ((4, 300),)), PlannedRequest(1, ((4, 1000),))])
    assert made.tokens(1)[:300] == made.tokens(0)


def test_all_at_once_has_no_warmup() -> None:
    assert len(plan_requests(BenchOptions(loop="open", rate=float("inf"), requests=5))) == 5
