"""What sampling parameters make of the embedded server's tokens."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.embedded_server import PROMPT, STORY, EmbeddedServer
from support.reference import Reference
from torch import Tensor

from nbruntime.embedded.sampling.sampler import Sampler, SamplingState
from nbruntime.protocol.sampling import SamplingParams

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
def test_the_samples_of_a_seed_differ_and_repeat(server: EmbeddedServer) -> None:
    params: dict[str, Any] = {"temperature": 1.5, "top_p": 0.95, "max_new_tokens": 6, "sampling_seed": 7}

    def samples(prompts: Any, **more: Any) -> list[list[int]]:
        return [answer["output_ids"] for answer in server.generate(prompts, **params, **more)]

    three = samples(PROMPT, n=3)
    assert len({tuple(ids) for ids in three}) == 3
    assert samples([PROMPT]) == three[:1]
    assert samples(PROMPT, n=4)[:3] == three
    # A neighbouring seed has none of these samples.
    other = [answer["output_ids"] for answer in server.generate(PROMPT, **params | {"sampling_seed": 8}, n=3)]
    assert not {tuple(ids) for ids in other} & {tuple(ids) for ids in three}
    # Among other requests, in a stream, and from an empty cache
    server.post("/flush_cache")
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(server.generate, STORY, temperature=1, n=2, max_new_tokens=12)
        assert samples(["2+2=", PROMPT], n=3)[3:] == three
        assert len(busy.result()) == 2
    streamed: dict[int, list[int]] = {}
    for event in server.events(PROMPT, n=3, **params):
        streamed[event["index"]] = event["output_ids"]
    assert [streamed[index] for index in range(3)] == three
    # Equal prompts are requests of their own: a seed gives each the answer that it gives alone.
    each = [{**params, "sampling_seed": seed} for seed in (7, 7, 8)]
    answers = server.generate([PROMPT] * 3, fields={"sampling_params": each})
    assert [answer["output_ids"] for answer in answers] == [three[0], three[0], other[0]]


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
