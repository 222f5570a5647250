"""Known defects of SGLang's RuntimeEndpoint (0.5.23), list 3.1: a test each that they are not in ours."""

from __future__ import annotations

import asyncio
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sglang as sgl
from sglang.lang.choices import (
    greedy_token_selection,
    token_length_normalized,
    unconditional_likelihood_normalized,
)
from sglang.lang.ir import SglSamplingParams
from support.language_model import ScriptedModel
from support.scripted_server import MODEL_INFO, Reply, ScriptedServer, Wait, answer, cumulative, stream

from nbruntime import AsyncRuntimeEndpoint, RuntimeEndpoint, errors
from nbruntime.protocol.requests import OPTION_NAMES
from nbruntime.protocol.sampling import PARAMETER_NAMES

WORDS = ["Hel", "lo ", "wor", "ld!"]


def state(text: str, images: list[tuple[str, str]] | None = None) -> SimpleNamespace:
    """What a backend reads of a program's state."""
    return SimpleNamespace(text_=text, images_=images or [], messages_=[], sid="s")


@pytest.mark.parametrize("method", [greedy_token_selection, unconditional_likelihood_normalized])
def test_3_1_01_select_works_by_every_method(
    server: ScriptedServer, endpoint: RuntimeEndpoint, method: Any
) -> None:
    server.on("/generate", ScriptedModel())
    assert endpoint.select(state("The answer is"), [" no", " yes"], 0.0, method).decision == " yes"


@pytest.mark.parametrize("text", ["A", "no!!"])
def test_3_1_02_select_after_a_single_token_and_after_two_equal_ones(
    server: ScriptedServer, endpoint: RuntimeEndpoint, text: str
) -> None:
    server.on("/generate", ScriptedModel())
    decided = endpoint.select(state(text), [" no", " yes"], 0.0, token_length_normalized)
    assert decided.decision in (" no", " yes")


def test_3_1_03_select_counts_the_tokens_of_the_choice_alone(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", ScriptedModel())
    decided = endpoint.select(state("The answer is"), [" no", " yes"], 0.0, token_length_normalized)
    texts = [[token[2] for token in tokens] for tokens in decided.meta_info["input_token_logprobs"]]
    assert texts == [[" no"], [" yes"]]  # not " is", the prompt's last
    assert decided.meta_info["normalized_prompt_logprobs"] == [-1.5, -0.5]


def test_3_1_04_a_certain_token_counts(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", ScriptedModel())
    decided = endpoint.select(state("The"), ["A", "a"], 0.0, token_length_normalized)  # "A": logprob 0.0
    assert decided.meta_info["normalized_prompt_logprobs"] == [0.0, -1.0]
    assert all(math.isfinite(each) for each in decided.meta_info["normalized_prompt_logprobs"])


def test_3_1_05_gen_gives_several_samples(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=[answer("one"), answer("two")]))
    texts, meta = endpoint.generate(state("x"), SglSamplingParams(n=2))
    assert (texts, len(meta)) == (["one", "two"], 2)


def test_3_1_06_streams_of_a_batch_keep_their_answers_apart(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    made = [{**event, "index": index} for event in cumulative(WORDS) for index in (1, 0)]
    server.on("/generate", stream(*made))
    with endpoint.stream("x", n=2) as running:
        assert [each.text for each in running.result()] == ["Hello world!"] * 2  # type: ignore[union-attr]


def test_3_1_07_incremental_servers_lose_no_text(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    made = cumulative(WORDS)
    for place, event in enumerate(made):
        event["text"], event["output_ids"] = WORDS[place], event["output_ids"][place:]
    server.on("/generate", stream(*made))
    deltas_of_it = endpoint.generate_stream(state("x"), SglSamplingParams())
    assert [text for text, _ in deltas_of_it] == WORDS


def test_3_1_08_errors_and_aborts_in_a_stream_are_errors(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", stream({"error": {"message": "out of memory"}}))
    with pytest.raises(errors.StreamError, match="out of memory"):
        list(endpoint.generate_stream(state("x"), SglSamplingParams()))
    reason = {"type": "abort", "message": "no room", "status_code": 503, "err_type": None}
    server.on("/generate", stream(answer("Hel", [1], finish_reason=reason)))
    with pytest.raises(errors.GenerationAbortedError, match="no room"):
        list(endpoint.generate_stream(state("x"), SglSamplingParams()))


def test_3_1_09_time_outs_and_kept_connections(server: ScriptedServer) -> None:
    with RuntimeEndpoint(server.url) as endpoint:
        server.on("/generate", Reply(json=answer("x")))
        for _ in range(5):
            endpoint.complete("x")
        assert server.connections == 1
        endpoint.settings.read_timeout = 0.2
        server.on("/generate", stream(Wait()))
        with pytest.raises(errors.ServerTimeoutError):
            endpoint.complete("x")
    with RuntimeEndpoint(server.url) as endpoint:
        assert endpoint.settings.connect_timeout is not None
        assert endpoint.settings.read_timeout is not None


@pytest.mark.parametrize("kind", [RuntimeEndpoint, AsyncRuntimeEndpoint])
def test_3_1_10_no_proxy_for_this_machine(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.on("/generate", Reply(json=answer("reached")))

    async def ask() -> Any:
        async with kind(server.url) as client:
            return await client.complete("x")

    reached = kind(server.url).complete("x") if kind is RuntimeEndpoint else asyncio.run(ask())
    assert reached.text == "reached"


def test_3_1_11_the_template_is_the_tokenizers_own(server: ScriptedServer, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0, "<end>": 1}, "<unk>")),
        unk_token="<unk>",
        eos_token="<end>",
    )
    tokenizer.chat_template = (
        "{% for m in messages %}({{ m.role }}){{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}(assistant){% endif %}"
    )
    tokenizer.save_pretrained(tmp_path)
    server.on("/model_info", Reply(json={**MODEL_INFO, "tokenizer_path": str(tmp_path)}))
    with RuntimeEndpoint(server.url) as endpoint:
        assert endpoint.get_chat_template().get_prefix_and_suffix("user", []) == ("(user)", "<end>")
        assert tuple(endpoint.get_chat_template().stop_str) == ("<end>",)


def test_3_1_12_no_request_goes_to_a_removed_route(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=answer("x", [1])))

    @sgl.function
    def program(s: Any) -> None:
        s += "x"
        forks = s.fork(2)
        forks += lambda number: f"{number}"
        forks.join("concate_and_append")
        s += sgl.gen("z", max_tokens=1)

    assert program.run(backend=endpoint)["z"] == "x"
    assert {asked.path for asked in server.asked} == {"/model_info", "/generate"}


def test_3_1_13_a_prompt_may_have_several_images(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=answer("two cats")))
    endpoint.generate(state("x", [("a.png", "QUE="), ("b.png", "QkI=")]), SglSamplingParams())
    assert server.to("/generate")[0].json["image_data"] == ["QUE=", "QkI="]


def test_3_1_14_a_dtype_with_a_stop_text(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=answer("7")))
    params = SglSamplingParams(dtype=int, stop="x")
    endpoint.generate(state("x"), params)
    assert (params.stop, params.regex) == ("x", None)  # the caller's own are as they were
    assert server.to("/generate")[0].json["sampling_params"]["stop"] == ["x", " ", "\n"]


def test_3_1_15_a_profile_takes_options(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/start_profile", Reply(body=b"Start profiling.\n"))
    endpoint.start_profile("traces", num_steps=5, activities=["CPU"])
    (asked,) = server.to("/start_profile")
    assert asked.method == "POST"
    assert asked.json == {"output_dir": "traces", "num_steps": 5, "activities": ["CPU"]}


def test_3_1_16_every_parameter_and_an_abort(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=answer("x")))
    params = {
        "repetition_penalty": 1.1,
        "ebnf": 'root ::= "x"',
        "logit_bias": {"5": 1.0},
        "sampling_seed": 7,
        "no_stop_trim": True,
        "skip_special_tokens": False,
    }
    assert {*params, "structural_tag", "json_schema", "regex"} <= set(PARAMETER_NAMES)
    assert {"lora_path", "session_params", "session_id"} <= set(OPTION_NAMES)
    endpoint.complete("x", rid="mine", lora_path="adapter", session_id="s", **params)
    sent = server.to("/generate")[0].json
    assert sent["sampling_params"] == params
    assert (sent["rid"], sent["lora_path"], sent["session_id"]) == ("mine", "adapter", "s")
    endpoint.abort("mine")
    assert server.to("/abort_request")[0].json == {"rid": "mine"}


def test_3_1_18_many_threads_share_connections_and_ours_are_daemons(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", lambda asked: Reply(json=answer(asked.json["text"], [1])))
    with ThreadPoolExecutor(96) as pool:
        texts = list(pool.map(lambda n: endpoint.complete(f"{n}").text, range(300)))  # type: ignore[union-attr]
    assert texts == [f"{n}" for n in range(300)]
    assert server.connections <= 97
    server.on("/generate", stream(*cumulative(WORDS)))
    with endpoint.stream("x", timeout=60):
        ours = [thread for thread in threading.enumerate() if thread.name.startswith("nbruntime")]
    assert ours
    assert all(thread.daemon for thread in ours)


def test_3_1_19_the_current_route_is_tried_first(server: ScriptedServer) -> None:
    server.on("/get_model_info", Reply(json=MODEL_INFO))
    RuntimeEndpoint(server.url).close()
    assert [asked.path for asked in server.asked] == ["/model_info"]
