"""The embedded server's tokens and log-probabilities are those of transformers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.embedded_server import CHAT, LONG, PROMPT, EmbeddedServer
from support.reference import EOS, Reference, check_same
from torch import Tensor


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
