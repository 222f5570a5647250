"""Cards of all objects: well-formed, escaped, without secrets or requests, in every state."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_engine import await_true, installed
from support.html_checks import HOSTILE, checked, parsed
from support.scripted_server import CUT, MODEL_INFO, Reply, ScriptedServer

from nbruntime import errors
from nbruntime.display.cards import Card, Details
from nbruntime.display.numbers import time_of_day
from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint
from nbruntime.endpoint.cards import server_pairs
from nbruntime.errors import LaunchError, NbruntimeError, ServerStatusError, StreamError
from nbruntime.generation import Generation
from nbruntime.launch.phases import Phase
from nbruntime.launch.servers import ServerInfo, ServerList, servers
from nbruntime.runtime import Runtime

KEY = "sk-hidden-1234"


@pytest.fixture(autouse=True)
def _engines() -> Iterator[None]:
    with installed():
        yield


def start(**arguments: Any) -> Runtime:
    return Runtime(engine="fake", port=0, progress=False, **arguments)


# Cards by themselves


@given(st.text(), st.text(), st.lists(st.tuples(st.text(), st.text())), st.text())
def test_any_card_is_well_formed(name: str, state: str, pairs: list[tuple[str, str]], log: str) -> None:
    card = Card(name, name, state, "bad", pairs=pairs, details=[Details(name, text=log, rows=pairs)])
    checked(card.mimebundle())


def test_mime_types_can_be_chosen() -> None:
    card = Card("Runtime")
    assert set(card.mimebundle()) == {"text/plain", "text/html"}
    assert set(card.mimebundle(include=["text/plain"])) == {"text/plain"}
    assert set(card.mimebundle(exclude=["text/plain"])) == {"text/html"}
    assert set(card.mimebundle(include=["text/html", "image/png"], exclude=["text/html"])) == set()


def test_the_state_is_a_word_with_a_dot() -> None:
    for tone in ("good", "busy", "bad", "idle"):
        text = "".join(parsed(Card("Runtime", state="so and so", tone=tone).html()).itertext())  # type: ignore[arg-type]
        assert "so and so" in text
    without_styles = Card("Runtime", "m", "ready", "good", pairs=[("url", "http://x")]).inner_html()
    assert "style" not in without_styles


def test_empty_pairs_are_left_out() -> None:
    assert Card("Runtime", pairs=[("pid", None), ("url", ""), ("n", 0)]).text() == "Runtime\n  n 0"


# Runtime


def test_a_runtime_before_it_is_launched() -> None:
    shown: list[str] = []
    made: list[Runtime] = []

    class Watched(Runtime):
        def _begin(self, url: str, server: Any) -> None:
            made.append(self)
            super()._begin(url, server)
            shown.append(checked(self._repr_mimebundle_()))

    Watched("models/<b>", engine="fake", port=0, progress=False).shutdown()
    assert "starting" in shown[0]
    assert "<b>" in shown[0]
    assert "127.0.0.1" in shown[0]


def test_a_runtime_while_it_loads() -> None:
    shown: list[str] = []
    runtimes: list[Runtime] = []

    class Watched(Runtime):
        def _begin(self, url: str, server: Any) -> None:
            runtimes.append(self)
            super()._begin(url, server)

    def look(phase: Phase) -> None:
        shown.append(checked(runtimes[-1]._repr_mimebundle_()))

    Watched(engine="fake", port=0, progress=look, say=["phase: downloading 1/9 MB"]).shutdown()
    assert any("downloading 1/9 MB" in each and "pid" in each for each in shown)


def test_a_runtime_from_ready_to_shut_down() -> None:
    runtime = start(api_key=KEY, say=["the key is {key}", HOSTILE[:50]], env={"HF_TOKEN": "hf-hidden"})
    runtime.endpoint.get_server_info()
    asked = runtime.endpoint.settings.last_answer
    said = checked(runtime._repr_mimebundle_())
    assert asked == runtime.endpoint.settings.last_answer, "no request was sent"
    for part in ("ready", runtime.url, f"{runtime.pid}", "one rank", "ready after", "<script>"):
        assert part in said, said
    assert KEY not in said
    assert "hf-hidden" not in said
    runtime.shutdown()
    said = checked(runtime._repr_mimebundle_())
    assert "stopped" in said
    assert "pid" not in runtime._card().text()


def test_a_runtime_whose_server_was_killed() -> None:
    with start() as runtime:
        assert runtime.pid is not None
        os.kill(runtime.pid, signal.SIGKILL)
        await_true(lambda: runtime.phase == "died")
        said = checked(runtime._repr_mimebundle_())
    assert "died" in said
    assert "killed by SIGKILL" in said


def test_a_runtime_that_has_failed() -> None:
    made: list[Runtime] = []

    class Watched(Runtime):
        def _begin(self, url: str, server: Any) -> None:
            made.append(self)
            super()._begin(url, server)

    with pytest.raises(LaunchError):
        Watched(engine="fake", port=0, progress=False, fail="RuntimeError: no <memory>")
    said = checked(made[0]._repr_mimebundle_())
    assert "RuntimeError: no <memory>" in said, "the log, folded"
    assert "died" in said or "failed" in said


def test_arguments_without_passwords() -> None:
    with start(say=["x"]) as runtime:
        runtime._arguments = {"ssl_keyfile_password": "pw-hidden", "tp_size": 2}
        said = checked(runtime._repr_mimebundle_())
    assert "pw-hidden" not in said
    assert "tp_size" in said


# Endpoints


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(api_key=KEY) as started:
        yield started


def test_an_endpoint_shows_the_time_of_its_last_answer(server: ScriptedServer) -> None:
    name = HOSTILE.replace("\ud800", "")  # which JSON cannot carry as UTF-8
    hostile = MODEL_INFO | {"served_model_name": name, "model_path": name}
    server.on("/model_info", Reply(json=hostile))
    server.on("/server_info", Reply(json={"version": "<b>", "device": "<i>", "context_length": "<u>"}))
    endpoint = RuntimeEndpoint(server.url, api_key=KEY)
    began = time.time()
    endpoint.get_server_info()
    ended = time.time()
    asked = len(server.asked)
    said = checked(endpoint._repr_mimebundle_())
    assert len(server.asked) == asked, "a repr sends no request"
    assert re.search(r"answered at (\S+ )?\d\d:\d\d:\d\d", said)
    assert "<script>" in said
    assert "***" in said
    assert KEY not in said
    endpoint.settings.last_answer -= 3600  # type: ignore[operator]
    before = checked(endpoint._repr_mimebundle_())
    assert any(f"answered at {time_of_day(at - 3600)[:-5]}" in before for at in (began, ended))


def test_an_endpoint_whose_server_is_gone() -> None:
    with ScriptedServer() as server:
        endpoint = RuntimeEndpoint(server.url)
        server.on("/server_info", Reply(pieces=[CUT]))
        with pytest.raises(NbruntimeError):
            endpoint.get_server_info()
    said = checked(endpoint._repr_mimebundle_())
    assert "then an error" in said
    assert "No answer" in said


def test_an_asynchronous_endpoint_before_its_first_request() -> None:
    said = checked(AsyncRuntimeEndpoint("http://127.0.0.1:9", api_key=KEY)._repr_mimebundle_())
    assert "AsyncRuntimeEndpoint" in said
    assert "not asked yet" in said
    assert KEY not in said


def test_the_pairs_of_a_server_info() -> None:
    info = {
        "version": "0.5.23",
        "device": "cuda",
        "dtype": "auto",
        "quantization": "fp8",
        "tp_size": 4,
        "dp_size": 2,
        "context_length": None,
        "max_req_input_len": 8186,
        "max_total_num_tokens": 32768,
    }
    assert dict(server_pairs(info)) == {
        "server": "SGLang 0.5.23",
        "device": "cuda, fp8",
        "parallelism": "tensor 4, data 2",
        "context": "prompts of up to 8,186 tokens",
        "KV cache": "32,768 tokens",
    }
    assert server_pairs({}) == []


# Lists of servers, phases


def test_a_list_of_servers() -> None:
    rows = [
        ServerInfo("chat", "/models/SmolLM2<b>", "embedded", "http://x", "ready", "kept", 75.0, 42),
        ServerInfo(HOSTILE, "", "sglang", "http://y", "left over", "orphan", 1e6, None),
    ]
    said = checked(ServerList(rows)._repr_mimebundle_())
    for part in ("2 servers", "chat", "SmolLM2<b>", "1 min 15 s", "42", "orphan", "<script>"):
        assert part in said
    assert "No servers" in checked(ServerList()._repr_mimebundle_())
    with start() as runtime:
        assert runtime.url in checked(servers()._repr_mimebundle_())


@pytest.mark.parametrize(
    ("phase", "share"),
    [
        (Phase("downloading", 12.1, 92.9, "MB"), "13"),
        (Phase("downloading", 99, 92.9, "MB"), "100"),
        (Phase("downloading", 12.1), None),
        (Phase("downloading", 5, 0, "<b>"), None),
        (Phase("ready"), None),
    ],
)
def test_a_phase_with_a_size_has_a_progress_bar(phase: Phase, share: str | None) -> None:
    assert str(phase) in checked(phase._repr_mimebundle_())
    bars = [
        each.get("aria-valuenow")
        for each in parsed(phase._repr_mimebundle_()["text/html"]).iter("div")
        if each.get("role") == "progressbar"
    ]
    assert bars == ([share] if share else [])


# Errors


def _kinds() -> list[type[NbruntimeError]]:
    return [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", _kinds(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_message_and_a_hint(kind: type[NbruntimeError]) -> None:
    error = kind(f"The thing {HOSTILE} is broken", where="http://x/<b>", hint="Mend <it>.")
    bundle = error._repr_mimebundle_()
    said = checked(bundle)
    first, second, *_ = bundle["text/plain"].splitlines()
    assert first.startswith(f"{kind.__name__} · The thing <script>")
    assert second == "Mend <it>."
    assert "http://x/<b>" in said
    assert set(error._repr_mimebundle_(include=["text/plain"])) == {"text/plain"}
    checked(kind("without anything else")._repr_mimebundle_())


@pytest.mark.parametrize(
    ("error", "folded"),
    [
        (LaunchError("It did not start", cause="no <memory>", log_lines=["one <b>", "two"]), "one <b>\ntwo"),
        (StreamError("It broke", generations=[Generation(text="Once <upon>")]), "Once <upon>"),
    ],
    ids=["log", "text"],
)
def test_long_parts_of_an_error_are_folded(error: NbruntimeError, folded: str) -> None:
    bundle = error._repr_mimebundle_()
    assert folded not in bundle["text/plain"]
    (details,) = parsed(bundle["text/html"]).iter("details")
    assert folded in "".join(details.itertext())


def test_an_error_does_not_show_the_key(server: ScriptedServer) -> None:
    server.on("/server_info", Reply(body=f"no good key: {KEY}".encode(), status=400))
    endpoint = RuntimeEndpoint(server.url, api_key=KEY)
    with pytest.raises(ServerStatusError) as caught:
        endpoint.get_server_info()
    assert KEY not in checked(caught.value._repr_mimebundle_())
    assert KEY not in checked(endpoint._repr_mimebundle_())


@pytest.mark.parametrize(
    "make",
    [lambda: Phase("ready"), lambda: NbruntimeError("x"), lambda: ServerList()],
    ids=["Phase", "NbruntimeError", "ServerList"],
)
def test_the_plain_repr_is_unchanged(make: Callable[[], object]) -> None:
    assert "<" not in repr(make())
