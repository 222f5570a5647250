"""What the embedded server generates: transformers' tokens, and what sampling parameters make of them."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.embedded_server import EmbeddedServer
from support.server_client import generate_body
from torch import Tensor

from nbruntime.embedded.sampling.sampler import Sampler, SamplingState
from nbruntime.protocol.sampling import SamplingParams

PROMPT = "The capital of France is"
CHAT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
STORY = "Once upon a time there was a little robot who wanted to learn how to paint. "
LONG = "".join(f"{number}. {STORY}" for number in range(1, 31))
"""More than two chunks of prefill."""

EOS = 2


class Reference:
    """The model as transformers runs it, in float32."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def generate(self, prompt: str, max_new_tokens: int) -> tuple[list[int], list[float]]:
        """The greedy answer, and by how much each token's logit leads."""
        inputs = self.tokenizer(prompt, return_tensors="pt")
        out = self.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=EOS,
            return_dict_in_generate=True,
            output_logits=True,
        )
        best = [row[0].topk(2).values for row in out.logits]
        return out.sequences[0, inputs.input_ids.shape[1] :].tolist(), [
            float(two[0] - two[1]) for two in best
        ]

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> Tensor:
        found: Tensor = self.model(torch.tensor([ids])).logits[0]
        return found

    @torch.inference_mode()
    def greedy(self, ids: list[int], steps: int, shape: Callable[[Tensor, list[int]], Tensor]) -> list[int]:
        """Greedy generation with logits that `shape` changes, knowing the tokens so far."""
        answer: list[int] = []
        new, past = ids, None
        for _ in range(steps):
            out = self.model(torch.tensor([new]), past_key_values=past, use_cache=True)
            new, past = [int(shape(out.logits[0, -1], answer).argmax())], out.past_key_values
            answer += new
        return answer


@pytest.fixture(scope="module")
def reference(server: EmbeddedServer) -> Reference:
    return Reference(server.get("/model_info").json()["model_path"])


@pytest.fixture(scope="module")
def greedy(server: EmbeddedServer) -> dict[str, Any]:
    """The answer that many tests begin from."""
    answer: dict[str, Any] = server.generate(PROMPT, max_new_tokens=24)
    return answer


@pytest.fixture(scope="module")
def incremental_server() -> Iterator[EmbeddedServer]:
    incremental = EmbeddedServer("--dtype", "float32", "--incremental-streaming-output")
    try:
        yield incremental.ready()
    finally:
        code, _ = incremental.close()
    assert code == 0, incremental.log


def check_same(ours: list[int], theirs: list[int], leads: list[float]) -> None:
    """Equal tokens, up to a place where two are so close that another order of summation swaps them."""
    different = next(
        (at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None
    )
    if different is None:
        assert len(ours) == len(theirs)
    else:
        assert leads[different] < 1e-3, f"token {different} differs: {ours} {theirs}"


# --- as transformers ---------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.parametrize(
    ("prompt", "count"),
    [(PROMPT, 32), (CHAT, 32), (LONG, 8), ("def fibonacci(n):\n", 16), ("日本の首都は", 12)],
)
def test_greedy_text_is_that_of_transformers(
    server: EmbeddedServer, reference: Reference, prompt: str, count: int
) -> None:
    theirs, leads = reference.generate(prompt, count)
    server.post("/flush_cache")
    answer = server.generate(prompt, max_new_tokens=count)
    assert answer["meta_info"]["cached_tokens"] == 0
    check_same(answer["output_ids"], theirs, leads)
    if theirs[-1] == EOS:
        assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": EOS}
    again = server.generate(prompt, max_new_tokens=count)
    assert again["meta_info"]["cached_tokens"] == again["meta_info"]["prompt_tokens"] - 1
    check_same(again["output_ids"], theirs, leads)
    assert answer["text"] == reference.tokenizer.decode(answer["output_ids"], skip_special_tokens=True)
    print(f"{answer['meta_info']['prompt_tokens']} tokens: {answer['text']!r}, least lead {min(leads):.3f}")


@pytest.mark.model
def test_concurrent_requests_get_the_same_answers_as_alone(
    server: EmbeddedServer, reference: Reference
) -> None:
    prompts = [PROMPT, LONG[:900], CHAT, LONG[:1500] + "The moral is", "2+2="]
    expected = [reference.generate(prompt, 12) for prompt in prompts]
    server.post("/flush_cache")
    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(lambda prompt: server.generate(prompt, max_new_tokens=12), prompts))
    answers += server.generate(prompts, max_new_tokens=12)  # as one batch, its prompts cached
    assert all(answer["meta_info"]["cached_tokens"] > 0 for answer in answers[len(prompts) :])
    for answer, (theirs, leads) in zip(answers, expected * 2, strict=True):
        check_same(answer["output_ids"], theirs, leads)


@pytest.mark.model
def test_logprobs_are_those_of_transformers(server: EmbeddedServer, reference: Reference) -> None:
    wanted = {
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": 5,
        "token_ids_logprob": [0, 7042],
    }
    largest = 0.0
    for prompt in (PROMPT, LONG[:1800]):
        answer = server.generate(
            prompt, fields=wanted | {"return_prompt_token_ids": True}, max_new_tokens=8, ignore_eos=True
        )
        meta, ids = answer["meta_info"], answer["prompt_token_ids"] + answer["output_ids"]
        assert answer["prompt_token_ids"] == reference.tokenizer(prompt).input_ids
        logprobs = reference.logits(ids).log_softmax(dim=-1)
        for kind in ("token", "top", "token_ids"):
            name = f"{kind}_logprobs" if kind != "token" else "token_logprobs"
            rows = meta[f"input_{name}"] + meta[f"output_{name}"]
            assert len(rows) == len(ids)
            assert rows[0] is None or rows[0][0] is None
            for at, row in enumerate(rows[1:]):
                entries = [row] if kind == "token" else row
                values = torch.tensor([entry[0] for entry in entries])
                tokens = [entry[1] for entry in entries]
                if kind == "token":
                    assert tokens == [ids[at + 1]]
                elif kind == "token_ids":
                    assert tokens == [0, 7042]
                else:
                    best = logprobs[at].topk(5).values
                    largest = max(largest, float((values - best).abs().max()))
                largest = max(largest, float((values - logprobs[at, tokens]).abs().max()))
    print(f"largest deviation of a log-probability: {largest:.1e}")
    assert largest < 1e-4


@pytest.mark.model
def test_penalties_change_the_choice_as_defined(server: EmbeddedServer, reference: Reference) -> None:
    ids = reference.tokenizer("one two one two one two").input_ids
    penalties = {"frequency_penalty": 0.7, "presence_penalty": 0.4, "repetition_penalty": 1.3}

    def penalised(logits: Tensor, answer: list[int]) -> Tensor:
        counts = torch.bincount(torch.tensor(answer, dtype=torch.int64), minlength=len(logits))
        seen = counts > 0
        logits = logits - penalties["frequency_penalty"] * counts - penalties["presence_penalty"] * seen
        factor = penalties["repetition_penalty"]
        return torch.where(seen, torch.where(logits > 0, logits / factor, logits * factor), logits)

    plain = server.generate(ids, max_new_tokens=8, ignore_eos=True)["output_ids"]
    ours = server.generate(ids, max_new_tokens=8, ignore_eos=True, **penalties)["output_ids"]
    assert ours == reference.greedy(ids, 8, penalised)
    assert len(set(ours)) > len(set(plain))


# --- sampling ----------------------------------------------------------------------------------------

LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.0, -1.0, -3.0])


def draw(logits: Tensor, count: int, **params: Any) -> Tensor:
    """How often each token is drawn, of `count` times."""
    state = SamplingState(SamplingParams.from_dict(params), len(logits))
    choice = Sampler(seed=7).choose(logits.repeat(count, 1), [state] * count, logprobs=False)
    return torch.bincount(torch.tensor(choice.token_ids), minlength=len(logits))


def distribution(logits: Tensor, *, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """What SGLang draws from: each limit looks at the probabilities that the temperature gives."""
    probabilities = (logits.double() / temperature).softmax(dim=0).numpy()
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    before = np.cumsum(ranked) - ranked
    kept = np.arange(len(ranked)) < (len(ranked) if top_k == -1 else top_k)
    kept &= (before <= top_p) & (ranked >= min_p * ranked[0])
    result = np.zeros_like(probabilities)
    result[order] = np.where(kept, ranked, 0)
    return torch.tensor(result / result.sum())


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"temperature": 1.5, "top_k": 4, "top_p": 0.9, "min_p": 0.1},
    ],
    ids=str,
)
def test_tokens_are_drawn_in_proportion(params: dict[str, float]) -> None:
    count = 20_000
    filled: dict[str, Any] = {"temperature": 1.0, "top_k": -1, "top_p": 1.0, "min_p": 0.0} | params
    expected = distribution(LOGITS, **filled)
    seen = draw(LOGITS, count, **filled)
    deviations = (seen - count * expected).abs() / (count * expected * (1 - expected)).sqrt().clamp(min=1e-9)
    possible = expected > 0
    print(f"drawn {seen.tolist()}, at most {float(deviations[possible].max()):.1f} standard deviations off")
    assert seen[~possible].sum() == 0
    assert (deviations[possible] < 4.5).all()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3000),
    st.integers(0, 2**32 - 1),
    st.floats(0.1, 3),
    st.just(-1) | st.integers(1, 1500),
    st.floats(0.01, 1),
    st.floats(0, 1),
)
def test_only_tokens_within_the_limits_are_drawn(
    vocab: int, seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * 2
    limits: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    # A token at the very edge may fall to either side: the two compute with other precisions.
    wider = {"top_p": min(1.0, top_p + 1e-5), "min_p": max(0.0, min_p - 1e-5)}
    allowed = distribution(logits, **(limits | wider))
    assert (allowed[draw(logits, 50, **limits) > 0] > 0).all()


def test_a_seed_repeats_independently_of_other_requests() -> None:
    def tokens(others: int) -> list[int]:
        state = SamplingState(SamplingParams.from_dict({"sampling_seed": 5}), len(LOGITS))
        rest = [SamplingState(SamplingParams(), len(LOGITS)) for _ in range(others)]
        sampler = Sampler()
        return [
            sampler.choose(LOGITS.repeat(1 + others, 1), [*rest, state], logprobs=False).token_ids[-1]
            for _ in range(30)
        ]

    assert tokens(0) == tokens(3)
    assert len(set(tokens(0))) > 2


@pytest.mark.model
def test_seeds_repeat_over_http(server: EmbeddedServer) -> None:
    def sample(seed: int) -> list[int]:
        answer = server.generate(PROMPT, temperature=1.5, sampling_seed=seed, max_new_tokens=12)
        ids: list[int] = answer["output_ids"]
        return ids

    first = sample(1)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(sample, [1, 2, 1])) == [first, second := sample(2), first]
    assert first != second


@pytest.mark.model
@pytest.mark.parametrize(
    "limit", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-7}], ids=str
)
def test_sampling_from_one_candidate_is_greedy(
    server: EmbeddedServer, greedy: dict[str, Any], limit: dict[str, float]
) -> None:
    answer = server.generate(PROMPT, **{"temperature": 2.0, "max_new_tokens": 8, **limit})
    assert answer["output_ids"] == greedy["output_ids"][:8]


@pytest.mark.model
def test_sampled_logprobs_are_scaled_by_temperature_and_not_narrowed(
    server: EmbeddedServer, reference: Reference
) -> None:
    answer = server.generate(
        PROMPT, fields={"return_logprob": True}, temperature=1.7, top_k=5, sampling_seed=3, max_new_tokens=6
    )
    prompt = reference.tokenizer(PROMPT).input_ids
    logits = reference.logits(prompt + answer["output_ids"])[len(prompt) - 1 : -1]
    expected = (logits / 1.7).log_softmax(dim=-1)[range(6), answer["output_ids"]]
    ours = torch.tensor([entry[0] for entry in answer["meta_info"]["output_token_logprobs"]])
    assert torch.allclose(ours, expected, atol=1e-4)


@pytest.mark.model
def test_logit_bias_forces_and_forbids(server: EmbeddedServer, greedy: dict[str, Any]) -> None:
    forced = server.generate(PROMPT, max_new_tokens=4, logit_bias={"260": 100})
    assert forced["output_ids"] == [260] * 4
    first = greedy["output_ids"][0]
    forbidden = server.generate(PROMPT, max_new_tokens=8, logit_bias={str(first): -100})
    assert first not in forbidden["output_ids"]


# --- where an answer ends ----------------------------------------------------------------------------


@pytest.mark.model
def test_min_new_tokens_and_ignore_eos(server: EmbeddedServer) -> None:
    natural = server.generate(CHAT, max_new_tokens=40)
    length = natural["meta_info"]["completion_tokens"]
    assert natural["meta_info"]["finish_reason"] == {"type": "stop", "matched": EOS}
    assert natural["output_ids"][-1] == EOS
    longer = server.generate(CHAT, max_new_tokens=length + 8, min_new_tokens=length + 4)
    assert longer["meta_info"]["completion_tokens"] >= length + 4
    assert EOS not in longer["output_ids"][: length + 4]
    ignoring = server.generate(CHAT, max_new_tokens=length + 4, ignore_eos=True)
    assert ignoring["output_ids"][:length] == natural["output_ids"]
    assert ignoring["meta_info"]["finish_reason"] == {"type": "length", "length": length + 4}
    # None is the rest of the context: the answer ends where it ends.
    assert server.generate(CHAT, max_new_tokens=None)["output_ids"] == natural["output_ids"]
    kept = server.generate(CHAT, max_new_tokens=40, no_stop_trim=True, skip_special_tokens=False)
    assert kept["text"] == natural["text"] + "<|im_end|>"
    shown = server.generate(CHAT, max_new_tokens=length + 2, ignore_eos=True, skip_special_tokens=False)
    assert "<|im_end|>" in shown["text"]


@pytest.mark.model
def test_stop_strings_end_the_answer_and_are_never_shown(
    server: EmbeddedServer, greedy: dict[str, Any]
) -> None:
    text = greedy["text"]
    stops = sorted({text[begin : begin + length] for begin in (1, 6, 20) for length in (1, 4, 9)})

    def events(stop: str) -> list[dict[str, Any]]:
        return server.events(PROMPT, max_new_tokens=24, stop=[stop, "never said"])

    with ThreadPoolExecutor(len(stops)) as pool:
        for stop, answer in zip(stops, pool.map(events, stops), strict=True):
            assert answer[-1]["text"] == text[: text.index(stop)]
            assert answer[-1]["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
            for event in answer:
                assert answer[-1]["text"].startswith(event["text"]), stop
    kept = server.generate(PROMPT, max_new_tokens=24, stop=stops[0], no_stop_trim=True)
    assert stops[0] in kept["text"]
    assert text.startswith(kept["text"])


@pytest.mark.model
def test_beginning_of_a_stop_string_is_shown_if_it_is_not_completed(
    server: EmbeddedServer, greedy: dict[str, Any]
) -> None:
    beginnings = [greedy["text"][at : at + 3] + "\0" for at in range(0, 40, 5)]
    events = server.events(PROMPT, max_new_tokens=24, stop=beginnings)
    assert events[-1]["text"] == greedy["text"]
    assert 1 < len(events) < 24
    assert all(greedy["text"].startswith(event["text"]) for event in events)


@pytest.mark.model
def test_stop_token_ids(server: EmbeddedServer, greedy: dict[str, Any]) -> None:
    stop = greedy["output_ids"][3]
    at = greedy["output_ids"].index(stop)
    answer = server.generate(PROMPT, max_new_tokens=24, stop_token_ids=[stop])
    assert answer["output_ids"] == greedy["output_ids"][: at + 1]
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    assert greedy["text"].startswith(answer["text"])


@pytest.mark.model
def test_stop_regex(server: EmbeddedServer, greedy: dict[str, Any]) -> None:
    pattern = r"[A-Z][a-z]+\."
    answer = server.generate(PROMPT, max_new_tokens=24, stop_regex=["never said", pattern])
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": pattern}
    assert re.search(pattern, answer["text"])
    assert greedy["text"].startswith(answer["text"])
    assert len(answer["output_ids"]) < 24


@pytest.mark.model
def test_a_slow_stop_regex_does_not_stall_other_requests(
    server: EmbeddedServer, greedy: dict[str, Any]
) -> None:
    with server.stream(PROMPT, max_new_tokens=24) as events:
        next(events)
        slow = server.post(
            "/generate",
            generate_body("aaaa", max_new_tokens=40, logit_bias={"81": 100}, stop_regex="(a|aa)+b"),
        )
        last = list(events)[-1]
    assert slow.status_code == 400
    assert "takes too long" in slow.json()["error"]["message"]
    assert last["text"] == greedy["text"]


# --- grammars ----------------------------------------------------------------------------------------

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 1, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.mark.model
def test_answers_follow_their_grammars(server: EmbeddedServer) -> None:
    regex = r"(red|green|blue)(, (red|green|blue)){1,2}\."
    ebnf = 'root ::= "yes" | "no" digits\ndigits ::= [0-9] [0-9]?'
    hot = {"temperature": 2.0, "n": 3, "sampling_seed": 4}
    bodies: dict[str, dict[str, Any]] = {
        "regex": {"regex": regex, "max_new_tokens": 40},
        "schema": {"json_schema": json.dumps(PERSON), "max_new_tokens": 90},
        "ebnf": {"ebnf": ebnf, "max_new_tokens": 20},
    }
    with ThreadPoolExecutor(3) as pool:
        found = pool.map(lambda params: server.generate("Answer: ", **params, **hot), bodies.values())
    for kind, answers in zip(bodies, found, strict=True):
        for answer in answers:
            assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": EOS}, answer["text"]
            text = answer["text"]
            if kind == "regex":
                assert re.fullmatch(regex, text), text
            elif kind == "ebnf":
                assert re.fullmatch(r"yes|no\d\d?", text), text
            else:
                person = json.loads(text)
                assert person.keys() == PERSON["properties"].keys()  # type: ignore[attr-defined]
                assert len(person["name"]) <= 10
                assert 1 <= person["age"] <= 120
                assert set(person["tags"]) <= {"a", "b"}


# --- shapes of requests and answers ------------------------------------------------------------------


@pytest.mark.model
def test_samples_of_a_prompt_are_adjacent(server: EmbeddedServer, greedy: dict[str, Any]) -> None:
    prompts = [PROMPT, "2+2="]
    answers = server.generate(prompts, fields={"rid": "mine"}, n=3, max_new_tokens=4)
    assert len(answers) == 6
    assert len({answer["meta_info"]["id"] for answer in answers}) == 6
    assert [answer["output_ids"] for answer in answers[:3]] == [greedy["output_ids"][:4]] * 3
    assert answers[3]["text"] == answers[5]["text"] != answers[0]["text"]
    events = server.events(PROMPT, n=3, temperature=1, max_new_tokens=3)
    assert {event["index"] for event in events} == {0, 1, 2}
    for index in range(3):
        assert len({event["meta_info"]["id"] for event in events if event["index"] == index}) == 1


@pytest.mark.model
def test_request_ids_come_back(server: EmbeddedServer) -> None:
    assert server.generate("Hi", fields={"rid": "mine ✓"}, max_new_tokens=1)["meta_info"]["id"] == "mine ✓"
    batch = server.generate(["Hi", "Ho"], fields={"rid": "mine"}, max_new_tokens=1)
    assert [answer["meta_info"]["id"] for answer in batch] == ["mine_0", "mine_1"]
    batch = server.generate(["Hi", "Ho"], fields={"rid": ["b", "a"]}, max_new_tokens=1)
    assert [answer["meta_info"]["id"] for answer in batch] == ["b", "a"]


@pytest.mark.model
def test_no_new_tokens_scores_the_prompt(server: EmbeddedServer) -> None:
    wanted = {"return_logprob": True, "logprob_start_len": 0, "return_prompt_token_ids": True}
    answer = server.generate(PROMPT, fields=wanted, max_new_tokens=0)
    assert (answer["text"], answer["output_ids"]) == ("", [])
    assert answer["meta_info"]["finish_reason"] == {"type": "length", "length": 0}
    entries = answer["meta_info"]["input_token_logprobs"]
    assert [entry[1] for entry in entries] == answer["prompt_token_ids"]
    assert entries[0][0] is None
    assert all(entry[0] < 0 for entry in entries[1:])


@pytest.mark.model
def test_where_logprobs_begin(server: EmbeddedServer) -> None:
    fields: dict[str, Any] = {"return_logprob": True, "top_logprobs_num": 2, "return_text_in_logprobs": True}
    whole = server.generate(PROMPT, fields=fields | {"logprob_start_len": 0}, max_new_tokens=3)["meta_info"]
    count = whole["prompt_tokens"]
    assert "".join(entry[2] for entry in whole["input_token_logprobs"]) == PROMPT
    for start in range(count + 1):
        meta = server.generate(PROMPT, fields=fields | {"logprob_start_len": start}, max_new_tokens=3)[
            "meta_info"
        ]
        assert len(meta["input_token_logprobs"]) == len(meta["input_top_logprobs"]) == count - start
        for at, entry in enumerate(meta["input_token_logprobs"]):
            assert entry[1:] == whole["input_token_logprobs"][start + at][1:]
            if at == 0:
                assert entry[0] is None
                assert meta["input_top_logprobs"][0] is None
            else:
                assert entry[0] == pytest.approx(whole["input_token_logprobs"][start + at][0], abs=1e-4)
        assert len(meta["output_token_logprobs"]) == meta["output_token_logprobs_length"] == 3
    none = server.generate(PROMPT, fields=fields, max_new_tokens=3)["meta_info"]
    assert (none["input_token_logprobs"], none["input_top_logprobs"]) == ([], [])
    assert [row[0][1] for row in none["output_top_logprobs"]] == [
        row[1] for row in none["output_token_logprobs"]
    ]
    beyond = server.post(
        "/generate", generate_body(PROMPT, fields | {"logprob_start_len": count + 1}, max_new_tokens=1)
    )
    assert beyond.status_code == 400


# --- incremental streams -----------------------------------------------------------------------------


@pytest.mark.model
def test_incremental_streams_join_to_the_cumulative_ones(
    server: EmbeddedServer, incremental_server: EmbeddedServer, greedy: dict[str, Any]
) -> None:
    assert incremental_server.get("/server_info").json()["incremental_streaming_output"] is True
    fields: dict[str, Any] = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
    emoji = "<|im_start|>user\nRepeat exactly: 😀🎉 日本語<|im_end|>\n<|im_start|>assistant\n"
    prompts, params = [PROMPT, emoji, CHAT], {"max_new_tokens": 20, "stop": ["\n\nThe"]}
    whole = server.events(prompts, fields=fields, **params)
    parts = incremental_server.events(prompts, fields=fields, **params)
    for index in range(3):
        last = [event for event in whole if event["index"] == index][-1]
        deltas = [event for event in parts if event["index"] == index]
        assert len(deltas) > 2
        assert "".join(delta["text"] for delta in deltas) == last["text"]
        assert joined(delta["output_ids"] for delta in deltas) == last["output_ids"]
        for name in ("output_token_logprobs", "output_top_logprobs"):
            theirs = last["meta_info"][name]
            ours = joined(delta["meta_info"][name] for delta in deltas)
            assert json.dumps(rounded(ours)) == json.dumps(rounded(theirs))
        for delta in deltas:
            assert len(delta["meta_info"]["input_token_logprobs"]) == delta["meta_info"]["prompt_tokens"]
        counts = [delta["meta_info"]["completion_tokens"] for delta in deltas]
        assert counts == list(itertools.accumulate(len(delta["output_ids"]) for delta in deltas))
        assert deltas[-1]["meta_info"]["finish_reason"] == last["meta_info"]["finish_reason"]


def joined(lists: Any) -> list[Any]:
    return list(itertools.chain.from_iterable(lists))


def rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 3) if isinstance(value, float) else value


@pytest.mark.model
def test_incomplete_characters_are_never_streamed(server: EmbeddedServer) -> None:
    emoji = "<|im_start|>user\nRepeat exactly: 😀🎉 日本語<|im_end|>\n<|im_start|>assistant\n"
    events = server.events(emoji, max_new_tokens=24)
    assert any(ord(character) > 0xFFFF for character in events[-1]["text"])
    assert not any("\ufffd" in event["text"] for event in events[:-1])


@pytest.mark.model
def test_concurrent_streams_do_not_mix(server: EmbeddedServer) -> None:
    prompts = [PROMPT, "2+2=", "My name is", "def add(a, b):"]
    alone = [server.generate(prompt, max_new_tokens=10)["output_ids"] for prompt in prompts]
    started = threading.Barrier(len(prompts))

    def stream(prompt: str) -> list[int]:
        started.wait()
        ids: list[int] = server.events(prompt, max_new_tokens=10)[-1]["output_ids"]
        return ids

    with ThreadPoolExecutor(len(prompts)) as pool:
        assert list(pool.map(stream, prompts)) == alone
