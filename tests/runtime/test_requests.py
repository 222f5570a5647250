"""The requests of a Runtime, on a server that needs no model."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support.fake_engine import start

from nbruntime.errors import ArgumentTypeError, ArgumentValueError, BadRequestError, ServerTimeoutError
from nbruntime.runtime import Runtime

WHOLE = "Hello world, grüße!"


def test_generate_returns_json(runtime: Runtime) -> None:
    answer = json.loads(runtime.generate("Hi", {"temperature": 0, "max_new_tokens": 6}))
    assert answer["text"] == WHOLE
    assert answer["asked"]["text"] == "Hi"
    assert answer["asked"]["sampling_params"] == {"temperature": 0, "max_new_tokens": 6}


def test_generate_a_batch(runtime: Runtime) -> None:
    answers = json.loads(runtime.generate(["a", "b"], [{"n": 1}, {"n": 1}]))
    assert [answer["text"] for answer in answers] == [WHOLE, WHOLE]


def test_generate_passes_every_argument(runtime: Runtime) -> None:
    answer = runtime.generate(
        "Hi",
        return_logprob=True,
        logprob_start_len=1,
        top_logprobs_num=2,
        lora_path="adapter",
        session_id="s",
    )
    asked = json.loads(answer)["asked"]
    asked.pop("rid")
    assert asked == {
        "text": "Hi",
        "sampling_params": {},
        "return_logprob": True,
        "logprob_start_len": 1,
        "top_logprobs_num": 2,
        "return_text_in_logprobs": False,
        "lora_path": "adapter",
        "session_id": "s",
    }


def test_lora_path_has_one_entry_per_prompt(runtime: Runtime) -> None:
    assert json.loads(runtime.generate("Hello", lora_path=["a"]))["asked"]["lora_path"] == "a"
    answers = json.loads(runtime.generate(["a", "b"], lora_path=["x", None]))
    assert answers[0]["asked"]["lora_path"] == ["x", None]
    # SGLang's own check compares with the characters of a single prompt.
    with pytest.raises(ArgumentValueError, match="lora_path has 5 entries, and there are 1 prompts"):
        runtime.generate("Hello", lora_path=["a", "b", "c", "d", "e"])
    with pytest.raises(ArgumentValueError, match="lora_path has 1 entries, and there are 2 prompts"):
        runtime.generate(["a", "b"], lora_path=["x"])


def test_refused_request_is_an_error(runtime: Runtime) -> None:
    with pytest.raises(BadRequestError, match="The text is empty"):
        runtime.generate("")
    with pytest.raises(ArgumentTypeError, match="Did you mean 'max_new_tokens'"):
        runtime.generate("Hi", {"max_tokens": 3})


def test_encode_returns_json(runtime: Runtime) -> None:
    answer = json.loads(runtime.encode("Hello"))
    assert answer["embedding"] == [0.25, -0.5]
    assert answer["asked"] == {"text": "Hello", "rid": answer["asked"]["rid"]}


async def test_async_generate_yields_deltas(runtime: Runtime) -> None:
    deltas = [delta async for delta in runtime.async_generate("Hi", {"max_new_tokens": 6})]
    assert "".join(deltas) == WHOLE
    assert len(deltas) == 6
    assert [delta async for delta in runtime.add_request("Hi")] == deltas


async def test_every_request_has_a_timeout(runtime: Runtime) -> None:
    for ask in (runtime.generate, runtime.encode):
        assert json.loads(ask("Hi", timeout=60))
        with pytest.raises(ServerTimeoutError, match=r"longer than its timeout of 0\.2 s"):
            ask("take your time", timeout=0.2)
    assert [delta async for delta in runtime.async_generate("Hi", timeout=60)]
    with pytest.raises(ServerTimeoutError, match=r"longer than its timeout of 0\.2 s"):
        _ = [delta async for delta in runtime.async_generate("take your time", timeout=0.2)]


async def test_async_get_server_info(runtime: Runtime) -> None:
    assert (await runtime.get_server_info())["tp_size"] == 1


def test_other_calls_reach_the_server(runtime: Runtime) -> None:
    runtime.cache_prefix("System: You are helpful.")
    runtime.start_profile(num_steps=3)
    runtime.stop_profile()
    runtime.flush_cache()


def test_key_is_used_and_never_shown() -> None:
    with start(api_key="hunter2", say=["the key is {key}"]) as runtime:
        assert json.loads(runtime.generate("Hi"))["text"] == WHOLE
        command = Path(f"/proc/{runtime.pid}/cmdline").read_text()
        for process in subprocess.run(
            ["ps", "-eo", "args"], capture_output=True, text=True
        ).stdout.splitlines():
            assert "hunter2" not in process
        shown = [repr(runtime), str(runtime.endpoint), runtime.logs(), command, repr(vars(runtime))]
        assert all("hunter2" not in text for text in shown)
        assert "the key is ***" in runtime.logs()
