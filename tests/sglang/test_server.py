"""SGLang's real server: started, used and ended by `Runtime` and both clients.

The conformance checks say what the server answers; here it is our side that is tested.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from support.clients import KINDS, Async, Blocking, connected
from support.frontend_programs import programs
from support.server_client import wait_until
from support.sglang_server import SglangServer

import nbruntime
from nbruntime import Runtime, RuntimeEndpoint
from nbruntime.errors import (
    ArgumentTypeError,
    AuthenticationError,
    BadRequestError,
    GenerationAbortedError,
    ServerConnectionError,
    StreamError,
)
from nbruntime.notebook.views.panel import ServerPanel

pytestmark = pytest.mark.sglang

PROMPT = "The capital of France is"
ANSWER = " Paris.\n\nThe answer is:"
LONG: dict[str, Any] = {"max_new_tokens": 2000, "ignore_eos": True}


@pytest.fixture
def runtime(sglang: SglangServer) -> Runtime:
    return sglang.runtime


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, sglang: SglangServer) -> Iterator[Blocking | Async]:
    with connected(request.param, sglang.url, api_key=sglang.api_key) as driver:
        yield driver


# The launch


def test_the_launch_reports_phases(runtime: Runtime) -> None:
    names = [name for name, _ in runtime.phases.history]
    print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in runtime.phases.history))
    assert names == ["starting", "loading weights", "allocating the KV cache", "warming up", "ready"]
    assert (runtime.phase, runtime.engine) == ("ready", "sglang")
    assert "sglang server" in repr(runtime)


def test_arguments_arrive(runtime: Runtime) -> None:
    info = runtime.endpoint.get_server_info()
    given = {
        **{"device": "cpu", "dtype": "float32", "max_running_requests": 16, "max_total_tokens": 32768},
        **{"attention_backend": "torch_native", "grammar_backend": "xgrammar", "disable_cuda_graph": True},
        **{"host": "127.0.0.1", "port": runtime.port, "log_level": "info", "tp_size": 1},
    }
    assert {name: info[name] for name in given} == given


def test_logs(runtime: Runtime) -> None:
    log = runtime.logs()
    assert "The server is fired up and ready to roll" in log
    assert "server_args=" in log
    assert len(runtime.logs(3).splitlines()) == 3


def test_the_key_shows_nowhere(sglang: SglangServer) -> None:
    runtime, key = sglang.runtime, sglang.api_key
    assert key
    processes = [*sglang.tree(), psutil.Process(runtime._server.supervisor_pid)]  # type: ignore[union-attr]
    words = [
        word for process in processes for word in Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
    ]
    print(f"{len(processes)} processes: {[process.name() for process in processes]}")
    assert len(processes) >= 4
    assert not any(key in word for word in words)
    assert key not in runtime.logs()
    assert "***" in runtime.logs()
    for shown in (repr(runtime), runtime._repr_mimebundle_(), runtime.endpoint.get_server_info()):
        assert key not in str(shown)


def test_listed_by_the_name_of_its_model(runtime: Runtime) -> None:
    [listed] = [one for one in nbruntime.servers() if one.url == runtime.url]
    assert (listed.name.partition("-")[0], listed.engine) == ("SmolLM2", "sglang")
    assert listed.model == runtime._card().name == runtime.endpoint._card().name == "SmolLM2-135M-Instruct"


def test_an_interrupt_of_the_terminal_does_not_reach_it(sglang: SglangServer) -> None:
    assert os.getsid(0) not in {os.getsid(process.pid) for process in sglang.tree()}


# Runtime


def test_generate(runtime: Runtime) -> None:
    one = json.loads(runtime.generate(PROMPT, {"temperature": 0, "max_new_tokens": 8}))
    assert one["text"] == ANSWER
    several = json.loads(
        runtime.generate([PROMPT, "2+2="], {"temperature": 0, "max_new_tokens": 4}, return_logprob=True)
    )
    assert [len(each["meta_info"]["output_token_logprobs"]) for each in several] == [4, 4]


async def test_async_generate(runtime: Runtime) -> None:
    params = {"temperature": 0, "max_new_tokens": 8}
    texts = [text async for text in runtime.async_generate(PROMPT, params)]
    assert "".join(texts) == ANSWER
    assert len(texts) > 1
    assert "".join([text async for text in runtime.add_request(PROMPT, params)]) == ANSWER
    assert (await runtime.get_server_info())["tp_size"] == 1


def test_tokenizer(runtime: Runtime) -> None:
    assert runtime.get_tokenizer().encode("Hello, world!") == [19556, 28, 905, 17]


def test_prefixes_and_profiles(runtime: Runtime, tmp_path: Path) -> None:
    prefix = "You are a helpful assistant, and this has not been asked before."
    runtime.flush_cache()
    runtime.cache_prefix(prefix)
    assert runtime.endpoint.complete(f"{prefix} Hello!", max_new_tokens=1).cached_tokens >= 10
    runtime.start_profile(output_dir=str(tmp_path), activities=["CPU"])
    runtime.generate("A", {"max_new_tokens": 2})
    runtime.stop_profile()
    assert [path.name.endswith("-TP-0.trace.json.gz") for path in tmp_path.rglob("*.gz")] == [True]


def test_a_generating_model_refuses_encode(runtime: Runtime) -> None:
    with pytest.raises(BadRequestError, match="embedding"):
        runtime.encode("Hello, world!")


# Both clients


def test_server_and_model_info(client: Blocking | Async) -> None:
    assert os.path.isdir(client.call("get_model_name"))
    assert client.call("get_server_info")["version"] == "0.5.23"
    assert client.call("models")[0]["max_model_len"] == 8192
    assert client.call("health")
    (load,) = client.call("loads")
    assert (load.max_total_num_tokens, load.max_running_requests) == (32768, 16)


def test_complete(client: Blocking | Async) -> None:
    answer = client.call("complete", PROMPT, temperature=0, max_new_tokens=8)
    assert (answer.text, str(answer.finish_reason)) == (ANSWER, "length (8)")
    assert answer.timings.total > 0
    wanted = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
    scored = client.call("complete", PROMPT, max_new_tokens=3, temperature=0, **wanted)
    assert [token.text for token in scored.tokens] == [" Paris", ".", "\n"]
    assert [token.id for token in scored.input_tokens] == [504, 3575, 282, 4649, 314]
    several = client.call("complete", [PROMPT, "2+2="], n=2, max_new_tokens=2)
    assert [each.prompt for each in several] == [PROMPT, PROMPT, "2+2=", "2+2="]
    assert (
        client.call("complete", [504, 3575, 282, 4649, 314], temperature=0, max_new_tokens=8).text == ANSWER
    )


def test_stream(client: Blocking | Async) -> None:
    reading = client.read(PROMPT, temperature=0, max_new_tokens=8, return_logprob=True)
    assert reading.error is None
    assert (reading.text, len(reading.texts) > 1) == (ANSWER, True)
    assert reading.stream is not None
    (generation,) = reading.stream.generations
    assert len(generation.tokens) == generation.completion_tokens == 8
    assert 0 < generation.timings.ttft < generation.timings.total


def test_stream_of_a_batch(runtime: Runtime) -> None:
    batch: dict[str, Any] = {"prompt": [PROMPT, "2+2="], "temperature": 0, "max_new_tokens": 4}
    texts = ["", ""]
    with runtime.endpoint.stream(**batch) as stream:
        for index, text in stream.indexed():
            texts[index] += text
    assert texts == [each.text for each in runtime.endpoint.complete(**batch)]


def test_chat(client: Blocking | Async) -> None:
    question = "What is the capital of France?"
    answer = client.call("chat", question, temperature=0, max_new_tokens=16)
    assert (answer.text, str(answer.finish_reason)) == ("The capital of France is Paris.", "stop (token 2)")
    reading = client.read(question, method="stream_chat", temperature=0, max_new_tokens=16)
    assert reading.text == answer.text


def test_an_answer_is_explained(client: Blocking | Async) -> None:
    whole = client.call("complete", PROMPT, temperature=0, max_new_tokens=8)
    read = client.read(PROMPT, temperature=0, max_new_tokens=8)
    assert read.stream is not None
    for answer in (whole, read.stream.generations[0]):
        explained = answer.explain()
        print(explained)
        assert explained.source == "server times"
        assert explained.notes == (
            "The server keeps no log of its steps, so what other requests did is not known.",
        )
        assert sum(part.seconds for part in explained.parts) == pytest.approx(answer.timings.total)
        kinds = {part.kind for part in explained.parts}
        assert kinds - {"server"} == {"client", "queue", "prefill", "decode"}
        assert explained.seconds("client") == pytest.approx(
            answer.timings.total - answer.server_latency, abs=0.05
        )
        assert explained.seconds("decode") > explained.seconds("queue")


def test_a_stream_that_was_left_is_explained(runtime: Runtime) -> None:
    with runtime.endpoint.stream(PROMPT, **LONG) as stream:
        for _ in range(8):
            next(stream)
    answer = stream.result()
    assert isinstance(answer, nbruntime.Generation)
    explained = answer.explain()
    assert explained.source == "server times"
    assert sum(part.seconds for part in explained.parts) == pytest.approx(explained.total)
    assert explained.seconds("decode") == pytest.approx(answer.timings.total - answer.timings.ttft, rel=0.05)


def test_tokens(client: Blocking | Async) -> None:
    assert client.call("tokenize", PROMPT) == [504, 3575, 282, 4649, 314]
    assert client.call("tokenize", ["Hi", PROMPT])[1] == [504, 3575, 282, 4649, 314]
    conversation = client.call("tokenize", messages="Hi")
    assert client.call("detokenize", conversation, skip_special_tokens=False).endswith(
        "<|im_start|>assistant\n"
    )


def test_errors(client: Blocking | Async) -> None:
    with pytest.raises(BadRequestError, match="embedding"):
        client.call("embed", "Hello")
    with pytest.raises(BadRequestError, match="longer than the model"):
        client.call("complete", [504] * 9000, max_new_tokens=1)
    with pytest.raises(ArgumentTypeError, match="max_new_tokens"):
        client.call("complete", PROMPT, max_tokens=1)
    with pytest.raises(BadRequestError, match="LoRA"):
        client.call("complete", PROMPT, lora_path="nope")
    reading = client.read([504] * 9000, max_new_tokens=1)
    assert isinstance(reading.error, StreamError)
    assert "longer than the model" in str(reading.error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_key(sglang: SglangServer, kind: str) -> None:
    for key in ("wrong", None):
        with pytest.raises(AuthenticationError), connected(kind, sglang.url, api_key=key):
            pass


def test_abort(client: Blocking | Async, sglang: SglangServer) -> None:
    def abort() -> None:
        wait_until(lambda: sglang.load()["num_running_reqs"] == 1)
        sglang.runtime.endpoint.abort("mine")

    aborting = threading.Thread(target=abort)
    aborting.start()
    with pytest.raises(GenerationAbortedError) as caught:
        client.call("complete", PROMPT, rid="mine", **LONG)
    aborting.join()
    assert caught.value.generation.completion_tokens < 2000
    sglang.wait_idle()


def test_a_stream_that_is_left_ends_on_the_server(sglang: SglangServer) -> None:
    endpoint = sglang.runtime.endpoint
    with endpoint.stream(PROMPT, **LONG) as stream:
        next(stream)
        assert sglang.load()["num_running_reqs"] == 1
    sglang.wait_idle()

    async def cancelled() -> None:
        texts = sglang.runtime.async_generate(PROMPT, LONG)
        async for _ in texts:
            break
        await texts.aclose()  # type: ignore[attr-defined]

    asyncio.run(cancelled())
    sglang.wait_idle()


def test_an_interrupt_stops_the_work_and_not_the_server(sglang: SglangServer) -> None:
    def interrupt() -> None:
        wait_until(lambda: sglang.load()["num_running_reqs"] == 1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sglang.runtime.endpoint.complete(PROMPT, **LONG)
    thread.join()
    sglang.wait_idle()
    assert sglang.runtime.endpoint.complete(PROMPT, temperature=0, max_new_tokens=8).text == ANSWER


def test_the_panel_shows_the_server(sglang: SglangServer) -> None:
    monitor = ServerPanel(sglang.runtime.endpoint, runtime=sglang.runtime).monitor
    monitor.poll()
    load = monitor.load()
    assert load is not None, monitor.error
    assert (load.num_running_reqs, load.max_total_num_tokens) == (0, 32768)
    assert monitor.metrics
    _, latencies = monitor.latencies()
    assert latencies["time_to_first_token_seconds"].total > 0


# The documented examples, those that the above has not shown


def test_endpoint_with_existing_server(sglang: SglangServer) -> None:
    endpoint = RuntimeEndpoint(base_url=sglang.url, api_key=sglang.api_key)
    info = endpoint.get_server_info()
    assert endpoint.get_model_name() == info["model_path"]
    assert (info["tp_size"], info["max_total_tokens"]) == (1, 32768)
    assert endpoint.cache_prefix("You are a helpful AI assistant.") is None
    assert endpoint.flush_cache() is None
    endpoint.start_profile()
    endpoint.stop_profile()
    endpoint.close()


def test_frontend_language(sglang: SglangServer) -> None:
    import sglang as sgl

    gave = {}
    with RuntimeEndpoint(sglang.url, api_key=sglang.api_key) as endpoint:
        sgl.set_default_backend(endpoint)
        for name, program in programs(sgl, endpoint).items():
            began = time.monotonic()
            gave[name] = program()
            print(f"{name}: {time.monotonic() - began:.2f} s")
        sgl.set_default_backend(None)
    assert "colour" in gave["chatbot"][0]
    assert " Paris" in gave["streaming_in_a_loop"]
    assert gave["being_a_backend"] == [[], True]


# The end


def test_shutdown_leaves_no_process(sglang: SglangServer) -> None:
    tree = sglang.tree()
    address = urlsplit(sglang.url)
    sglang.runtime.shutdown()
    assert [process for process in tree if process.is_running()] == []
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind((address.hostname, address.port))
    assert sglang.runtime.phase == "stopped"
    assert "fired up" in sglang.runtime.logs()
    with pytest.raises(ServerConnectionError, match="shut down"):
        sglang.runtime.generate("Hi")


OWNER = """
import sys, time
sys.path.insert(0, {tests!r})
from support.sglang_server import SglangServer
server = SglangServer(progress=False)
print(server.url, *(process.pid for process in server.tree()), flush=True)
try:
    server.runtime.generate("Once upon a time", {{"max_new_tokens": 4000, "ignore_eos": True}})
except KeyboardInterrupt:
    print("interrupted", flush=True)
time.sleep(600)
"""


def test_an_owner_is_interrupted_and_then_killed() -> None:
    """Ctrl-C in a terminal reaches the owner alone; when the owner is killed, so is all of SGLang."""
    code = OWNER.format(tests=str(Path(__file__).parents[1]))
    owner = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert owner.stdout is not None
        url, *pids = owner.stdout.readline().split()
        tree = [psutil.Process(int(pid)) for pid in pids]
        assert len(tree) >= 3
        with RuntimeEndpoint(url) as endpoint:
            wait_until(lambda: endpoint.loads()[0].num_running_reqs == 1)
            os.killpg(owner.pid, signal.SIGINT)
            assert owner.stdout.readline() == "interrupted\n"
            wait_until(lambda: endpoint.loads()[0].num_running_reqs == 0)
            assert endpoint.complete(PROMPT, temperature=0, max_new_tokens=8).text == ANSWER
        os.kill(owner.pid, signal.SIGKILL)
        _, left = psutil.wait_procs(tree, timeout=20)
        assert left == []
    finally:
        owner.kill()
        owner.wait()
        assert owner.stdout is not None
        owner.stdout.close()
