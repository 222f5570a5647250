"""The bottleneck that a summary names, in profiles counted by hand."""

from __future__ import annotations

import pickle

import pytest
from support.hand_profiles import decode, extend, profile, request, sample, with_server_times

from nbruntime.profiling.profile import Profile
from nbruntime.profiling.summary.summary import MOST_SENTENCES, Summary


def said(made: Profile) -> tuple[str, ...]:
    sentences = made.summary().sentences
    print("\n".join(sentences))
    assert 2 <= len(sentences) <= MOST_SENTENCES
    assert all(sentence.endswith(".") for sentence in sentences)
    return sentences


def test_prefill_of_one_long_prompt_makes_others_wait() -> None:
    # The long prompt is computed from 0 to 6 s, three short ones wait for it, all decode until 10 s.
    requests = [request("long", 0, 6, 10, prompt_tokens=3900)]
    requests += [request(f"short{n}", 1, 6.5, 10) for n in range(3)]
    steps = [extend(0, 6, long=3900), extend(6, 6.5, short0=10, short1=10, short2=10)]
    steps.append(decode(6.5, 10, "long", "short0", "short1", "short2"))
    sentences = said(profile(*requests, steps=steps))
    assert sentences[0] == (
        "Prefill was the bottleneck: 65 % of the time was spent in prefill, 35 % in decode."
    )
    assert "3 of 4 requests waited behind one of 3,900 tokens (5 s at the median)." in sentences
    assert "None of the 3,930 tokens of the prompts came from the cache." in sentences


@pytest.mark.parametrize(
    ("tokens", "behind"),
    [
        ({"prompt_tokens": 3900, "cached_tokens": 3000}, "one of 900 tokens"),
        ({"prompt_tokens": 0}, "another"),
    ],
)
def test_others_wait_for_the_tokens_that_were_not_cached(tokens: dict[str, int], behind: str) -> None:
    requests = [request("long", 0, 6, 10, **tokens), request("short", 1, 6.5, 10)]
    steps = [extend(0, 6, long=900), extend(6, 6.5, short=10), decode(6.5, 10, "long", "short")]
    assert f"1 of 2 requests waited behind {behind} (5 s)." in said(profile(*requests, steps=steps))


def test_a_short_wait_is_not_worth_a_sentence() -> None:
    requests = [request(f"r{n}", 0, 1, 10) for n in range(4)] + [request("late", 1, 1.3, 10)]
    steps = [extend(0.1, 1, **{f"r{n}": 10 for n in range(4)}), extend(1.2, 1.3, late=10)]
    steps += [extend(1, 1.2, other=5), decode(1.3, 10, *(each.rid for each in requests))]
    assert not [sentence for sentence in said(profile(*requests, steps=steps)) if "waited" in sentence]


def test_many_requests_are_counted_with_separators() -> None:
    requests = [request(f"r{n}", 0, 1, 2) for n in range(1200)]
    sentences = said(
        profile(*requests, *(request(f"f{n}", 0, ended=1, status="failed") for n in range(1300)))
    )
    assert "1,300 of 2,500 requests failed: unknown error." in sentences
    assert any(sentence.startswith("1,200 finished requests in 2 s") for sentence in sentences)


def test_decode_of_one_request_at_a_time() -> None:
    requests = [request(f"r{n}", 2 * n, 2 * n + 0.2, 2 * n + 2) for n in range(3)]
    steps = []
    for n in range(3):
        steps += [extend(2 * n, 2 * n + 0.2, **{f"r{n}": 10}), decode(2 * n + 0.2, 2 * n + 2, f"r{n}")]
    sentences = said(profile(*requests, steps=steps))
    assert sentences[0].startswith("Decode was the bottleneck: 90 % of the time was spent in decode, 10 % in")
    assert "A decode step held 1.0 requests on average; requests sent at once would share steps." in sentences


def test_the_client_was_the_limit() -> None:
    requests = [request("a", 0, 0.5, 1), request("b", 9, 9.5, 10)]
    steps = [extend(0, 0.5, a=10), decode(0.5, 1, "a"), extend(9, 9.5, b=10), decode(9.5, 10, "b")]
    sentences = said(profile(*requests, steps=steps))
    assert sentences[0] == "The server was idle for 80 % of the 10 s; 10 % was prefill, 10 % decode."
    assert sentences[1] == "The client was the limit: for 80 % of the time (8 s) it had no request open."
    # The same without any knowledge of the server.
    sentences = said(profile(*requests))
    assert "bottleneck" not in sentences[0]
    assert sentences[1] == "The client was the limit: for 80 % of the time (8 s) it had no request open."


def test_decode_stalls_while_other_prompts_are_computed() -> None:
    # a decodes from 1 to 9 s; b's prompt holds it up from 3 to 7 s.
    requests = [request("a", 0, 1, 3, 9), request("b", 2.9, 7, 9)]
    steps = [extend(0, 1, a=10), decode(1, 3, "a"), extend(3, 7, b=500), decode(7, 9, "a", "b")]
    sentences = said(profile(*requests, steps=steps))
    assert "Prefill of other requests held up decode for 40 % of its time." in sentences  # 4 of 8 + 2 s


def test_gaps_between_steps() -> None:
    steps = [extend(1, 2, a=10), decode(5, 6, "a"), decode(9, 10, "a")]
    sentences = said(profile(request("a", 0, 2, 6, 10), steps=steps))
    assert sentences[0] == "The server was idle for 70 % of the 10 s; 10 % was prefill, 20 % decode."
    assert (
        "For 70 % of the time requests were open, but the server ran no step: "
        "that is network, tokenizer or scheduler."
    ) in sentences


def test_queue_by_the_servers_times() -> None:
    requests = [request(f"r{n}", 0, 7, 10, **with_server_times(0, 6, 7)) for n in range(2)]
    load = {"num_running_reqs": 2, "num_waiting_reqs": 1, "max_running_requests": 2}
    sentences = said(profile(*requests, samples=[sample(1, **load)]))
    assert sentences[0] == (
        "The queue was the bottleneck: 60 % of the requests' time was spent in the queue, "
        "30 % in decode, 10 % in prefill."
    )
    assert "Both requests waited (6 s at the median); the server runs at most 2 at once." in sentences
    assert sentences[-1].startswith("Which requests shared a step is not known")


def test_client_times_alone_say_what_is_not_known() -> None:
    requests = [request(f"r{n}", 0, 3, 10) for n in range(2)]
    sentences = said(profile(*requests, samples=[sample(1, num_waiting_reqs=5)]))
    assert sentences[0] == "30 % of the requests' time passed before their first token, 70 % after it."
    assert sentences[1] == "2 finished requests in 10 s gave 0.4 tokens/s, 2.0 at once on average."
    assert sentences[-1].startswith("Queue and prefill cannot be told apart")
    assert sentences[-1].endswith("; up to 5 queued at once.")


def test_answers_that_were_not_streamed() -> None:
    sentences = said(profile(request("a", 0, ended=2), request("b", 0, ended=4)))
    assert sentences[0] == "The requests took 3 s at the median."


def test_failures_come_first() -> None:
    failed = [
        request("b", 0, ended=1, status="failed", error="ServerBusyError: <b>full</b>"),
        request("c", 0, ended=1, status="failed", error="ServerBusyError: full"),
        request("d", 0, ended=1, status="failed", error="StreamError: cut"),
    ]
    sentences = said(profile(request("a", 0, 1, 2), *failed))
    assert sentences[1] == "3 of 4 requests failed: ServerBusyError (2), StreamError (1)."
    sentences = said(profile(*failed[:1]))
    assert sentences[:2] == ("No request finished in 1 s: 1 failed.", "The request failed: ServerBusyError.")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"retractions": 2}, "1 of 2 requests was put back into the queue, as the KV cache was full."),
        ({}, "The KV cache was 99 % full while requests were queued."),
    ],
)
def test_a_full_cache(fields: dict[str, int], sentence: str) -> None:
    requests = [request("a", 0, 1, 10, **fields), request("b", 0, 1, 10)]
    usages = {1: 0.5, 2: 0.99, 3: None}
    samples = [sample(at, token_usage=usage, num_waiting_reqs=1) for at, usage in usages.items()]
    assert sentence in said(profile(*requests, samples=samples))


def test_cache_hits() -> None:
    requests = [request("a", 0, 1, 2, prompt_tokens=1000, cached_tokens=900)]
    assert "90 % of the 1,000 tokens of the prompts came from the cache." in said(profile(*requests))


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"completion_tokens": 400}, "it generated 400 tokens, the median is 2"),
        ({"prompt_tokens": 5000}, "its prompt had 5,000 tokens to compute, the median is 10"),
        ({"retractions": 1}, "the server put it back into the queue"),
        (with_server_times(0, 15, 16), "it waited for 15 s"),
        ({}, "neither its tokens nor its wait explain it"),
    ],
)
def test_one_slow_request(fields: dict[str, object], cause: str) -> None:
    quick = [request(f"r{n}", 0, 1, 2) for n in range(4)]
    slow = request("slow", 0, 1, 20, **fields)
    assert f"One request took 20 s, 10 times the median: {cause}." in said(profile(*quick, slow))


def test_a_trace_of_some_steps_says_nothing_about_the_rest() -> None:
    steps = [extend(4, 4.5, a=10), decode(4.5, 5, "a")]
    made = profile(request("a", 0, 5, 10), steps=steps, steps_from="trace")
    assert said(made)[0].endswith("50 % of the traced time was spent in prefill, 50 % in decode.")


def test_steps_of_several_ranks_count_once() -> None:
    steps = [extend(0, 5, a=10), extend(0, 5, a=10), decode(5, 10, "a"), decode(5, 10, "a")]
    assert (
        "50 % of the time was spent in prefill, 50 % in decode"
        in said(profile(request("a", 0, 5, 10), steps=steps))[0]
    )


def test_profiles_without_an_end_have_one_sentence() -> None:
    open_ = [request("a", 0, 1, status="running"), request("b", 0, 1, status="stopped")]
    assert profile(*open_).summary() == "No request finished in 1 s: 1 running, 1 stopped."
    assert Profile().summary() == "No request has been made yet."
    assert profile(ended=3).summary() == "No request was made through this client in this time."


def test_a_summary_is_a_text_that_shows_itself_line_by_line() -> None:
    made = Summary(["One <b>.", "Two."])
    assert str(made) == made == "One <b>. Two."
    assert repr(made) == "One <b>.\nTwo."
    bundle = made._repr_mimebundle_()
    assert "One &lt;b&gt;." in bundle["text/html"]
    assert "<b>." not in bundle["text/html"]
    assert pickle.loads(pickle.dumps(made)).sentences == ("One <b>.", "Two.")
