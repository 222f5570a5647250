"""What is known to be wrong with SGLang's own Runtime and RuntimeEndpoint (0.5.23) is right here.

One short test for each known defect, in the order of the list: 3.1 the endpoint, 3.2 the runtime, 3.3 what
the protocol holds in store for any client. `NOT_OURS` has those that are not this package's to have.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
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
from support.fake_engine import alive, await_gone, installed, read_pids
from support.language_model import ScriptedModel
from support.scripted_server import (
    CUT,
    MODEL_INFO,
    Asked,
    Reply,
    ScriptedServer,
    Wait,
    answer,
    cumulative,
    stream,
)

from nbruntime import AsyncRuntimeEndpoint, Runtime, RuntimeEndpoint, errors
from nbruntime.protocol import delta_decoder
from nbruntime.protocol.requests import OPTION_NAMES
from nbruntime.protocol.sampling import PARAMETER_NAMES

NOT_OURS = {
    "3.1.17": "errors inside a program become warnings in SGLang's interpreter; what it gets of us is an "
    "exception, which the program's error() has (test_frontend.py)",
    "3.1.18": "connections are shared, see the test; but a program that waits for a stuck server keeps the "
    "interpreter from ending: SGLang runs it in a thread that is no daemon",
    "3.2.06": "SGLang chooses its internal ports by itself, after it was started",
}
"""Defects that are not this package's to have, and why."""

WORDS = ["Hel", "lo ", "wor", "ld!"]
KEY = "sk-very-secret-1234"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def endpoint(server: ScriptedServer) -> Iterator[RuntimeEndpoint]:
    with RuntimeEndpoint(server.url, chat_template_name="chatml") as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def _fake_engines() -> Iterator[None]:
    with installed():
        yield


def start(**arguments: Any) -> Runtime:
    return Runtime(**{"engine": "fake", "port": 0, **arguments})


@pytest.fixture(scope="module")
def runtime(_fake_engines: None) -> Iterator[Runtime]:
    with start() as started:
        yield started


def state(text: str, images: list[tuple[str, str]] | None = None) -> SimpleNamespace:
    """What a backend reads of a program's state."""
    return SimpleNamespace(text_=text, images_=images or [], messages_=[], sid="s")


def test_every_row_has_its_test() -> None:
    rows = {"3.1": 19, "3.2": 13, "3.3": 9}
    wanted = {f"{part}.{row:02}" for part, count in rows.items() for row in range(1, count + 1)}
    found = {".".join(name.split("_")[1:4]) for name in globals() if re.match(r"test_3_\d_\d\d_", name)}
    assert found | set(NOT_OURS) == wanted
    print(f"{len(found)} defects tested, {len(NOT_OURS)} not ours")


# 3.1 The endpoint


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
    with RuntimeEndpoint(server.url, read_timeout=0.2) as endpoint:
        server.on("/generate", Reply(json=answer("x")))
        for _ in range(5):
            endpoint.complete("x")
        assert server.connections == 1
        server.on("/generate", stream(Wait()))
        with pytest.raises(errors.ServerTimeoutError):
            endpoint.complete("x")
    with RuntimeEndpoint(server.url) as endpoint:
        assert endpoint.settings.connect_timeout is not None
        assert endpoint.settings.read_timeout is not None
    # Certificates are checked in streams, too: test_faults.py, test_certificates.


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


def test_3_1_12_no_promise_of_a_route_that_is_gone(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
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


def test_3_1_13_as_many_images_as_there_are(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
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


def test_3_1_18_many_threads_share_connections_and_ours_hold_nobody(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", lambda asked: Reply(json=answer(asked.json["text"], [1])))
    with ThreadPoolExecutor(96) as pool:
        texts = list(pool.map(lambda n: endpoint.complete(f"{n}").text, range(300)))  # type: ignore[union-attr]
    assert texts == [f"{n}" for n in range(300)]
    assert server.connections <= 97
    server.on("/generate", stream(*cumulative(WORDS)))
    list(endpoint.stream("x"))
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("nbruntime")]
    assert ours
    assert all(thread.daemon for thread in ours)


def test_3_1_19_the_routes_new_name_first(server: ScriptedServer) -> None:
    server.on("/get_model_info", Reply(json=MODEL_INFO))
    RuntimeEndpoint(server.url).close()
    assert [asked.path for asked in server.asked] == ["/model_info"]


# 3.2 The runtime


def test_3_2_01_a_deleted_runtime_takes_its_server_along(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    started = start(pids=str(pids))
    tree = read_pids(pids)
    del started
    gc.collect()
    assert await_gone(tree, 5) < 5


def test_3_2_02_the_key_is_used_by_every_call() -> None:
    with start(api_key=KEY) as runtime:
        assert json.loads(runtime.generate("Hello"))["text"]
        assert json.loads(runtime.encode("Hello"))["embedding"]
        runtime.flush_cache()
        runtime.start_profile()
        runtime.stop_profile()
        runtime.cache_prefix("Hello")
        assert asyncio.run(runtime.get_server_info())["version"]
        assert "".join(asyncio.run(texts_of(runtime))) == "Hello world, grüße!"


async def texts_of(runtime: Runtime) -> list[str]:
    return [text async for text in runtime.async_generate("x")]


def test_3_2_03_events_that_arrive_in_pieces(runtime: Runtime) -> None:
    # The stand-in server cuts its stream every 37 bytes, within events and within characters.
    assert "".join(asyncio.run(texts_of(runtime))) == "Hello world, grüße!"


@pytest.fixture
def redirected(runtime: Runtime, server: ScriptedServer) -> Iterator[Runtime]:
    """A runtime whose requests go to a scripted server."""
    settings = runtime.endpoint.settings
    own, settings.base_url = settings.base_url, server.url
    yield runtime
    settings.base_url, settings.read_timeout = own, 600.0


async def test_3_2_03_one_session_for_all_calls(redirected: Runtime, server: ScriptedServer) -> None:
    server.on("/generate", stream(*cumulative(WORDS)))
    for _ in range(5):
        assert [text async for text in redirected.async_generate("x")] == WORDS
        await redirected.get_server_info()
    assert server.connections == 1


async def test_3_2_03_a_refusal_is_not_an_empty_answer(runtime: Runtime) -> None:
    with pytest.raises(errors.BadRequestError, match="empty"):
        async for _ in runtime.async_generate(""):
            pass


def test_3_2_04_answers_are_checked(runtime: Runtime) -> None:
    with pytest.raises(errors.BadRequestError, match=r"The text is empty"):
        runtime.generate("")
    with pytest.raises(errors.ArgumentValueError, match="lora_path"):
        runtime.generate("hello", lora_path=["a"] * 5)  # five letters are not five prompts
    assert runtime.endpoint.complete([1, 2, 3]).text  # type: ignore[union-attr]


@pytest.mark.parametrize("call", [Runtime.generate, Runtime.encode])
@pytest.mark.parametrize("prompt", ["x", ["x", "y"]])
def test_3_2_04_nobody_waits_for_ever_and_what_nobody_waits_for_is_stopped(
    redirected: Runtime, server: ScriptedServer, call: Callable[..., str], prompt: str | list[str]
) -> None:
    settings = redirected.endpoint.settings
    assert settings.connect_timeout is not None
    assert settings.read_timeout is not None
    settings.read_timeout = 0.2
    route = f"/{call.__name__}"
    server.on(route, stream(Wait()))
    with pytest.raises(errors.ServerTimeoutError):
        call(redirected, prompt)
    cut = Reply(raw=True, pieces=[b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc", CUT])
    server.on(route, cut)
    with pytest.raises(errors.ServerConnectionError):
        call(redirected, prompt)
    sent = [asked.json["rid"] for asked in server.to(route)]
    names = [name for rid in sent for name in (rid if isinstance(prompt, list) else [rid])]
    assert [asked.json["rid"] for asked in server.to("/abort_request")] == names


def test_3_2_05_high_ports_and_taken_ones() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        high = probe.getsockname()[1]
    while high < 40_000:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            high = probe.getsockname()[1]
    with start(port=high) as runtime:
        assert runtime.url == f"http://127.0.0.1:{high}"
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(errors.PortInUseError, match=f"{port}"):
            start(port=port)


def test_3_2_07_ready_at_once_with_a_log() -> None:
    phases: list[str] = []
    with start(progress=lambda phase: phases.append(phase.name)) as runtime:
        late = time.time() - float(runtime.logs(1).rpartition(" ")[2])
        print(f"Runtime() was back {late * 1000:.0f} ms after the server was ready")
        assert late < 1.0  # one probe of SGLang's Runtime takes a second, its next one two
    assert "loading weights" in phases


def test_3_2_08_a_failure_says_why() -> None:
    with pytest.raises(errors.LaunchError, match="RuntimeError: out of luck") as caught:
        start(fail="RuntimeError: out of luck")
    assert "phase: loading weights" in str(caught.value)  # the log's last lines


def test_3_2_09_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    tests = Path(__file__).parents[1]
    script.write_text(
        f"import sys\nsys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}]\n"
        "from support import fake_engine; fake_engine.install()\n"
        "from nbruntime import Runtime\n"
        "runtime = Runtime(engine='fake', port=0)\n"
        "print('once', runtime.endpoint.get_model_name())\n"
        "runtime.shutdown()\n"
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "once fake/model\n", ran.stderr


def test_3_2_10_shutdown_waits_until_all_is_gone(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with start(pids=str(pids), children=2) as runtime:
        port, tree = runtime.port, read_pids(pids)
    assert not any(alive(pid) for pid in tree)
    socket.create_server(("127.0.0.1", port)).close()  # the port is free


def test_3_2_11_no_orphan_of_a_killed_parent(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    tests = Path(__file__).parents[1]
    code = (
        f"import sys; sys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}]\n"
        "import os, signal; from support import fake_engine; fake_engine.install()\n"
        "from nbruntime import Runtime\n"
        f"runtime = Runtime(engine='fake', port=0, pids={str(pids)!r})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert ran.returncode == -9
    assert await_gone(read_pids(pids), 5) < 5


async def test_3_2_12_a_wrong_key_in_an_asynchronous_call() -> None:
    with start(api_key=KEY) as runtime:
        runtime.endpoint.api_key = "sk-wrong"
        with pytest.raises(errors.AuthenticationError, match="Unauthorized"):
            await runtime.get_server_info()


def test_3_2_13_a_context_manager_with_a_repr_and_a_tokenizer_without_sglang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "word": 1}, "<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "sglang", None)  # importing it fails
    with start() as runtime:
        assert "fake/model" in repr(runtime)
        assert runtime.url in repr(runtime)
        runtime.endpoint.model_info["tokenizer_path"] = str(tmp_path)
        assert runtime.get_tokenizer()("word")["input_ids"] == [1]
    assert "stopped" in repr(runtime)


# 3.3 What the protocol holds in store


def test_3_3_01_no_health_check_that_generates(server: ScriptedServer) -> None:
    with RuntimeEndpoint(server.url) as endpoint:
        endpoint.get_server_info()
        repr(endpoint)
    assert [asked.path for asked in server.asked if "health" in asked.path] == []


def test_3_3_02_a_cumulative_stream_is_not_parsed_again_and_again(
    server: ScriptedServer, endpoint: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = 0
    read = delta_decoder._from_json

    def counting(text: str) -> Any:
        nonlocal parsed
        parsed += len(text)
        return read(text)

    monkeypatch.setattr(delta_decoder, "_from_json", counting)
    sizes = []
    for count in (200, 400):
        parsed = 0
        server.on("/generate", stream(*cumulative([f" word{n}" for n in range(count)])))
        assert len(list(endpoint.stream("x"))) == count
        sizes.append(parsed)
    print(f"{sizes[0]:,} and {sizes[1]:,} characters parsed for 200 and 400 tokens")
    assert sizes[1] < 3 * sizes[0]  # four times would be O(n^2)


def test_3_3_03_samples_go_by_the_names_that_the_server_gave(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    made = [{**cumulative(WORDS, f"given-{index}")[0], "index": index} for index in (0, 1)]
    server.on("/generate", stream(*made, Wait()))
    with endpoint.stream("x", n=2, rid="mine") as running:
        pairs = running.indexed()
        next(pairs), next(pairs)
    assert [asked.json["rid"] for asked in server.wait_for("/abort_request", 2)] == ["given-0", "given-1"]


def test_3_3_04_an_unknown_rid_is_no_error(endpoint: RuntimeEndpoint) -> None:
    assert endpoint.abort("unknown") is None  # type: ignore[func-returns-value]


def test_3_3_05_a_bare_text_is_a_readable_error(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/stop_profile", Reply(body=b"Internal Server Error", status=500))
    with pytest.raises(errors.ServerFailureError, match="500 Internal Server Error") as caught:
        endpoint.stop_profile()
    assert caught.value.hint == "The server's log has the reason."


def test_3_3_06_a_busy_cache_is_not_flushed_silently(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/flush_cache", Reply(body=b"Flush cache failed.\n", status=400))
    with pytest.raises(errors.BadRequestError, match="Flush cache failed"):
        endpoint.flush_cache()


def test_3_3_07_a_schema_may_be_an_object(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=answer("{}")))
    endpoint.complete("x", json_schema={"type": "object"})
    assert server.to("/generate")[0].json["sampling_params"]["json_schema"] == '{"type": "object"}'


def test_3_3_08_an_abort_with_status_200_is_an_error(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    reason = {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}
    server.on("/generate", Reply(json=answer("Hel", [1], finish_reason=reason)))
    with pytest.raises(errors.GenerationAbortedError) as caught:
        endpoint.complete("x")
    assert caught.value.text == "Hel"


def left_by_with(endpoint: RuntimeEndpoint) -> None:
    with endpoint.stream("x", rid="leaver") as running:
        next(running)


def left_by_collection(endpoint: RuntimeEndpoint) -> None:
    next(endpoint.stream("x", rid="leaver"))


def left_with_the_connection(endpoint: RuntimeEndpoint) -> None:
    with contextlib.suppress(errors.ServerConnectionError):
        endpoint.complete("x", rid="leaver")


@pytest.mark.parametrize("leave", [left_by_with, left_by_collection, left_with_the_connection])
def test_3_3_09_the_server_is_told_at_once(
    server: ScriptedServer, endpoint: RuntimeEndpoint, leave: Callable[[RuntimeEndpoint], None]
) -> None:
    def reply(asked: Asked) -> Reply:
        if asked.json.get("stream"):
            return stream(*cumulative(WORDS)[:2], Wait())
        return Reply(raw=True, pieces=[CUT])

    server.on("/generate", reply)
    leave(endpoint)
    before = time.monotonic()
    assert server.wait_for("/abort_request")[0].json == {"rid": "leaver"}
    took = time.monotonic() - before
    print(f"{leave.__name__}: aborted {took * 1000:.0f} ms later")
    assert took < 0.5  # SGLang waits for two seconds after the connection is gone
