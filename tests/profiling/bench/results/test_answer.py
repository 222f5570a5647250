"""The answer of a load test in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from support.load_tests import SimulatedServer, closed_run, open_run

from nbruntime.profiling.bench.results.result import BenchResult
from nbruntime.profiling.bench_run import BenchRun
from nbruntime.profiling.records import RequestRecord

LIMITS = {"ttft": 0.5, "tokens_per_second": 20.0}
AT = "at TTFT < 500 ms and ≥ 20 tokens/s each (90 %)"


def answer(runs: Sequence[BenchRun], share: float = 0.9, **thresholds: float) -> tuple[str, ...]:
    return BenchResult(list(runs), thresholds or LIMITS, share).summary().sentences


def failing(run: BenchRun, every: int) -> BenchRun:
    """Let every n-th request of a run fail."""
    requests = [
        replace(each, status="failed", error="ServerBusyError: full") if number % every == 0 else each
        for number, each in enumerate(run.requests)
    ]
    return replace(run, requests=requests)


def test_a_sweep_of_users() -> None:
    first, measured, bend = answer([closed_run(users, seconds=20) for users in (1, 2, 3, 4, 5, 6)])
    assert first == (
        f"Holds 4 users at once {AT}; "
        "beyond that requests queue (first token after 547 ms, 497 ms of it in the queue)."
    )
    assert measured.startswith("100 % of 144 requests met them; medians: TTFT 50 ms, 33.3 tokens/s each;")
    assert bend == "The knee is at 4 users: beyond it requests wait longer for few more tokens/s."


def test_a_sweep_with_gaps_names_the_load_that_was_too_much() -> None:
    first = answer(closed_run(users, seconds=20) for users in (1, 2, 4, 8))[0]
    assert first.startswith(f"Holds 4 users at once {AT}; at 8 users requests queue (")


def test_the_order_of_the_runs_does_not_matter() -> None:
    runs = [closed_run(users, seconds=20) for users in (1, 2, 4, 8)]
    assert answer(runs) == answer(runs[::-1])


def test_a_sweep_of_rates() -> None:
    first = answer(open_run(rate) for rate in (1, 4, 16))[0]
    assert first.startswith(f"Holds 4 requests/s {AT}; at 16 requests/s the queue grows (TTFT by ")


def test_all_held() -> None:
    first = answer(closed_run(users, seconds=20) for users in (1, 2))[0]
    assert first == f"Holds at least 2 users at once, the most tried, {AT}."


def test_none_held() -> None:
    slow = SimulatedServer(step=0.1)
    first = answer(closed_run(users, slow, seconds=20) for users in (1, 2))[0]
    assert first == (
        f"Does not hold even 1 user at once, the least tried, {AT}: decode is too slow (10 tokens/s each)."
    )


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (closed_run(3, seconds=20), "Holds 3 users at once"),
        (closed_run(1, seconds=20), "Holds 1 user at once"),
        (open_run(2.5), "Holds 2.5 requests/s"),
        (replace(open_run(2), rate=math.inf), "Holds 120 requests at once"),
        (replace(open_run(2), rate=None, settings={"replay": "trace.jsonl"}), "Holds trace.jsonl"),
        (open_run(20), "Does not hold 20 requests/s"),
    ],
)
def test_a_single_run(run: BenchRun, expected: str) -> None:
    assert answer([run])[0].startswith(f"{expected} {AT}")


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (closed_run(8, seconds=20), "requests queue (first token after 550 ms, 500 ms of it in the queue)"),
        (
            closed_run(8, SimulatedServer(reports_times=False), seconds=20),
            "requests queue (first token after 550 ms, 5 waiting on average)",
        ),
        (
            replace(closed_run(8, SimulatedServer(reports_times=False), seconds=20), samples=[]),
            "first tokens come too late (first token after 550 ms)",
        ),
        (
            closed_run(2, SimulatedServer(prefill=0.8), seconds=20),
            "prefill is too slow (first token after 800 ms for 100 new prompt tokens)",
        ),
        (closed_run(2, SimulatedServer(step=0.06), seconds=20), "decode is too slow (16.7 tokens/s each)"),
        (failing(closed_run(3, seconds=20), 3), "36 of 108 requests failed (ServerBusyError: full)"),
    ],
)
def test_why_a_run_did_not_hold(run: BenchRun, why: str) -> None:
    assert answer([run])[0].endswith(f"{AT}: {why}.")


def test_a_queue_that_grows() -> None:
    assert f"{AT}: the queue grows (TTFT by " in answer([open_run(16)])[0]


def test_requests_that_wait_for_a_place_are_not_held() -> None:
    run = replace(open_run(2.5), concurrency=1)
    late = [replace(each, scheduled=each.sent - 1.5) for each in run.requests]
    assert answer([replace(run, requests=late)])[0] == (
        f"Does not hold 2.5 requests/s {AT}: half of the requests waited 1.5 s or longer for the only place."
    )
    assert answer([run])[0].startswith("Holds 2.5 requests/s")


def test_decode_that_stalls() -> None:
    gaps = [0.02] * 12 + [0.5] * 2 + [0.02]
    times = [0.1 + sum(gaps[:count]) for count in range(len(gaps) + 1)]
    requests = [
        RequestRecord(
            "a", 1010.0 + n, 1010.0 + n + times[-1], tuple((at, 1) for at in times), completion_tokens=16
        )
        for n in range(30)
    ]
    run = replace(closed_run(2, seconds=60), requests=requests)
    assert (
        "decode stalls, as when other prompts are computed (11.9 tokens/s each, 76 % of" in answer([run])[0]
    )


def test_a_late_answer_as_a_whole() -> None:
    assert "decode is too slow" in answer([closed_run(2, seconds=20)], e2e=0.4)[0]
    assert "requests queue" in answer([closed_run(12, seconds=20)], e2e=0.6)[0]


def test_too_few_requests() -> None:
    assert answer([closed_run(1, seconds=5)])[0] == (
        f"Cannot tell whether it holds 1 user at once {AT}: "
        "only 9 requests of its steady state can be judged, 10 are needed."
    )
    few = closed_run(8, seconds=20)
    few = replace(few, requests=few.requests[:1])
    held = answer([closed_run(2, seconds=20), few])[0]
    assert held.startswith(f"Holds 2 users at once {AT}; at 8 users it cannot be told: no request of")


def test_a_load_of_too_few_requests_below_others_does_not_matter() -> None:
    few, slow = closed_run(1, seconds=5), closed_run(4, SimulatedServer(step=0.1), seconds=20)
    held, queueing = closed_run(2, seconds=20), closed_run(8, seconds=20)
    assert answer([few, held])[0].startswith("Holds at least 2 users at once, the most tried, at")
    assert answer([few, slow])[0].startswith(f"Does not hold 4 users at once {AT}: ")
    assert answer([few, held, few, queueing])[0].startswith(
        f"Holds 2 users at once {AT}; at 8 users requests queue"
    )


def test_stopped_requests_are_named_where_too_few_are_left() -> None:
    run = closed_run(2, seconds=20)
    stopped = [replace(each, status="stopped") for each in run.requests]
    first = answer([replace(run, requests=stopped, interrupted=True)])[0]
    assert "no request of its steady state can be judged (72 were stopped), 10 are needed." in first


def test_an_interrupted_test_says_so() -> None:
    sentences = answer([replace(closed_run(2, seconds=20), interrupted=True)])
    assert sentences[-1] == "The test was stopped early: what was measured until then counts."


def test_a_share_near_the_bound_is_not_certain() -> None:
    run = failing(closed_run(1, seconds=20), 13)
    first, measured, certainty = answer([run])
    assert first.startswith("Holds 1 user at once")
    assert measured.startswith("92 % of 36 requests")
    assert certainty == "Not certain: with more requests it may be 78 % to 97 %."


def test_a_load_that_holds_again_is_noise() -> None:
    runs = [closed_run(1, seconds=20), failing(closed_run(2, seconds=20), 2), closed_run(4, seconds=20)]
    sentences = answer(runs)
    assert sentences[0].startswith(f"Holds 1 user at once {AT}; beyond that 36 of 72 requests failed")
    assert "4 users held again: the figures are noisy." in sentences


def test_another_share() -> None:
    run = failing(closed_run(3, seconds=20), 5)
    assert "(90 %): 21 of 108 requests failed" in answer([run])[0]
    assert answer([run], 0.75)[0].startswith(
        "Holds 3 users at once at TTFT < 500 ms and ≥ 20 tokens/s each (75 %)"
    )


def test_default_thresholds_are_stated() -> None:
    sentences = BenchResult([closed_run(2, seconds=20)]).summary().sentences
    assert sentences[0] == f"Holds 2 users at once {AT}."
    assert sentences[-1] == "These are the default thresholds: .against({...}) judges by others."


def test_several_servers_have_an_answer_each() -> None:
    slow = SimulatedServer(step=0.1)
    runs = [closed_run(2, seconds=20, label="small"), closed_run(2, slow, seconds=20, label="large")]
    sentences = answer(runs)
    assert sentences[0].startswith("small: Holds 2 users at once")
    assert sentences[2].startswith("large: Does not hold 2 users at once")


def test_the_client_as_the_limit() -> None:
    run = replace(closed_run(2, seconds=20), notes=["The client was the limit: it used 97 % of a processor."])
    assert "The client was the limit at 2 users: the server may be faster." in answer([run])


def test_no_run() -> None:
    assert answer([]) == ("No run was made.",)
