"""Known defects of SGLang's Runtime (0.5.23), list 3.2: a test each that they are not in ours."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_engine import alive, await_gone, installed, read_pids
from support.scripted_server import CUT, KEY, Reply, ScriptedServer, Wait, cumulative, stream

from nbruntime import Runtime, errors

WORDS = ["Hel", "lo ", "wor", "ld!"]


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


def test_3_2_01_a_deleted_runtime_ends_its_server(tmp_path: Path) -> None:
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
def test_3_2_04_requests_time_out_and_are_aborted(
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
    settings.read_timeout = 600.0
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


def test_3_2_07_a_start_is_noticed_at_once_and_logged() -> None:
    phases: list[str] = []
    with start(progress=lambda phase: phases.append(phase.name)) as runtime:
        late = time.time() - float(runtime.logs(1).rpartition(" ")[2])
        print(f"Runtime() was back {late * 1000:.0f} ms after the server was ready")
        assert late < 1.0  # one probe of SGLang's Runtime takes a second, its next one two
    assert "loading weights" in phases


def test_3_2_08_a_failed_start_says_why() -> None:
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


def test_3_2_10_shutdown_waits_until_all_processes_ended(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with start(pids=str(pids), children=2) as runtime:
        port, tree = runtime.port, read_pids(pids)
    assert not any(alive(pid) for pid in tree)
    socket.create_server(("127.0.0.1", port)).close()  # the port is free


def test_3_2_11_a_killed_parent_leaves_no_process(tmp_path: Path) -> None:
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
