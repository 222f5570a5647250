"""`RuntimeEndpoint` against a scripted server: what it sends, what it makes of answers, how it lets go."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
import traceback
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import urllib3
from support.certificates import make_certificate
from support.clients import KINDS, connected
from support.scripted_server import (
    CUT,
    MODEL_INFO,
    RESET,
    Asked,
    Reply,
    ScriptedServer,
    Wait,
    answer,
    cumulative,
    dump,
    stream,
)

from nbruntime import errors
from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint
from nbruntime.generation import Generation

KEY = "sk-very-secret-1234"
WORDS = ["Once", " upon", " a", " time"]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def endpoint(server: ScriptedServer) -> Iterator[RuntimeEndpoint]:
    with RuntimeEndpoint(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def events(rid: str = "scripted", **meta: Any) -> list[dict[str, Any]]:
    return cumulative(WORDS, rid, **meta)


def endless(wait: Wait, words: int = 2) -> Callable[[Asked], Reply]:
    """A stream that stops in its middle until the test says go."""

    def reply(asked: Asked) -> Reply:
        made = events(asked.json["rid"])
        return stream(*made[:words], wait, *made[words:])

    return reply


# The documented API


def test_attributes_and_methods_of_sglang(server: ScriptedServer) -> None:
    server.api_key = KEY
    with RuntimeEndpoint(
        base_url=server.url, api_key=KEY, verify=None, chat_template_name="chatml"
    ) as endpoint:
        assert endpoint.base_url == server.url
        assert endpoint.api_key == KEY
        assert endpoint.verify is None
        assert endpoint.model_info == MODEL_INFO
        assert endpoint.chat_template.name == "chatml"
        assert endpoint.get_model_name() == "scripted-model"
        assert endpoint.get_server_info()["tp_size"] == 1
        assert endpoint.flush_cache() is None
        server.on("/generate", Reply(json=answer("", [])))
        endpoint.cache_prefix("System: be brief.")
        sent = server.to("/generate")[0].json
        assert (sent["text"], sent["sampling_params"]) == ("System: be brief.", {"max_new_tokens": 0})
        server.on("/start_profile", Reply(body=b"Start profiling.\n"))
        server.on("/stop_profile", Reply(body=b"Stop profiling.\n"))
        endpoint.start_profile()
        endpoint.start_profile(output_dir="traces", num_steps=5, activities=None)
        endpoint.stop_profile()
        assert [asked.json for asked in server.to("/start_profile")] == [
            None,
            {"output_dir": "traces", "num_steps": 5},
        ]
        assert endpoint.health()


def test_complete(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=answer(" Paris.", [7042, 30])))
    generation = endpoint.complete(
        "The capital of France is",
        temperature=0,
        sampling_params={"max_new_tokens": 8, "temperature": 1},
        rid="me",
    )
    assert isinstance(generation, Generation)
    assert generation.text == " Paris."
    assert generation.prompt == "The capital of France is"
    assert generation.timings.total is not None
    assert server.to("/generate")[0].json == {
        "text": "The capital of France is",
        "sampling_params": {"max_new_tokens": 8, "temperature": 0},
        "rid": "me",
    }


def test_batches_and_samples(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=[answer(text, [1]) for text in ("a", "b", "c", "d")]))
    many = endpoint.complete(["x", "y"], n=2)
    assert isinstance(many, list)
    assert [(g.text, g.prompt, g.index) for g in many] == [
        ("a", "x", 0), ("b", "x", 1), ("c", "y", 2), ("d", "y", 3)]  # fmt: skip
    server.on("/generate", Reply(json=[answer("a", [1])]))
    assert isinstance(endpoint.complete(["x"]), list)
    assert isinstance(endpoint.complete([[1, 2]]), list)
    server.on("/generate", Reply(json=answer("a", [1])))
    assert isinstance(endpoint.complete([1, 2]), Generation)
    with pytest.raises(errors.ProtocolError, match="not send 2 answers"):
        endpoint.complete(["x", "y"])


def test_nothing_is_sent_when_an_argument_is_wrong(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    with pytest.raises(errors.ArgumentTypeError, match="'max_new_tokens'"):
        endpoint.complete("x", max_tokens=5)
    with pytest.raises(TypeError, match="Did you mean 'temperature'"):
        endpoint.stream("x", sampling_params={"temprature": 5})
    with pytest.raises(ValueError, match=r"top_p must be in \(0, 1\], got 2\."):
        endpoint.complete("x", top_p=2)
    with pytest.raises(errors.ArgumentValueError, match="JSON"):
        endpoint.complete("half \ud800 a character")
    assert server.to("/generate") == []


def test_streams_come_as_they_are_made(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    wait = Wait()
    server.on("/generate", endless(wait))
    with endpoint.stream("Tell me a story", max_new_tokens=4) as running:
        assert next(running) == "Once"
        assert next(running) == " upon"
        assert wait.reached.wait(10)
        assert running.text == "Once upon"
        assert not running.done
        wait.go.set()
        assert list(running) == [" a", " time"]
        generation = running.result()
    assert isinstance(generation, Generation)
    assert generation.text == "Once upon a time" == running.text
    assert generation.rid == running.rid == server.to("/generate")[0].json["rid"]
    assert generation.timings.ttft is not None
    assert len(generation.timings.itl) == 3
    assert server.to("/abort_request") == []


def test_a_finished_stream_leaves_its_connection_to_the_next(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", stream(*events()))
    for _ in range(5):
        assert "".join(endpoint.stream("x")) == "Once upon a time"
    assert server.connections == 1


@pytest.mark.parametrize("chunked", [True, False])
def test_streams_of_every_transfer(server: ScriptedServer, endpoint: RuntimeEndpoint, chunked: bool) -> None:
    wait = Wait()
    server.on("/generate", stream(*events()[:1], wait, *events()[1:], chunked=chunked))
    with endpoint.stream("x") as running:
        assert next(running) == "Once"  # before the rest is sent
        wait.go.set()
        assert running.result().text == "Once upon a time"  # type: ignore[union-attr]


def test_a_batch_is_streamed_by_index(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    made = [{**event, "index": index} for event in events() for index in (1, 0)]
    server.on("/generate", stream(*made))
    with endpoint.stream(["x", "y"]) as running:
        with pytest.raises(errors.ArgumentTypeError, match="2 answers"):
            next(running)
        assert list(running.indexed())[:3] == [(1, "Once"), (0, "Once"), (1, " upon")]
        assert running.texts == ["Once upon a time"] * 2
        assert [g.text for g in running.result()] == running.texts  # type: ignore[union-attr]
    sent = server.to("/generate")[0].json
    assert sent["rid"] == list(running.rids)
    assert len(set(running.rids)) == 2


# Letting go


def leave_by_with(endpoint: RuntimeEndpoint) -> str:
    with endpoint.stream("x", rid="leaver") as running:
        next(running)
    return running.text


def leave_by_close(endpoint: RuntimeEndpoint) -> str:
    running = endpoint.stream("x", rid="leaver")
    next(running)
    running.close()
    running.close()
    return running.text


def leave_by_error(endpoint: RuntimeEndpoint) -> str:
    with contextlib.suppress(ZeroDivisionError), endpoint.stream("x", rid="leaver") as running:
        for _ in running:
            raise ZeroDivisionError
    return running.text


def leave_by_garbage_collection(endpoint: RuntimeEndpoint) -> str:
    running = endpoint.stream("x", rid="leaver")
    next(running)
    text = running.text
    alive = weakref.ref(running)
    del running
    gc.collect()
    assert alive() is None
    return text


def leave_by_break_from_a_temporary(endpoint: RuntimeEndpoint) -> str:
    for text in endpoint.stream("x", rid="leaver"):
        return text
    return ""


@pytest.mark.parametrize(
    "leave",
    [
        leave_by_with,
        leave_by_close,
        leave_by_error,
        leave_by_garbage_collection,
        leave_by_break_from_a_temporary,
    ],
)
def test_leaving_closes_and_aborts(
    server: ScriptedServer, endpoint: RuntimeEndpoint, leave: Callable[[RuntimeEndpoint], str]
) -> None:
    server.on("/generate", endless(Wait()))
    assert leave(endpoint).startswith("Once")
    assert server.gone.wait(10)
    assert [asked.json for asked in server.wait_for("/abort_request")] == [{"rid": "leaver"}]


@contextlib.contextmanager
def interrupt_when(ready: threading.Event) -> Iterator[None]:
    """Interrupt the main thread once, when it is ready.

    A signal that comes just before a system call does not end the call, so it is sent until it has arrived.
    """
    arrived = threading.Event()

    def handler(number: int, frame: object) -> None:
        if not arrived.is_set():
            arrived.set()
            raise KeyboardInterrupt

    def interrupt() -> None:
        assert ready.wait(10)
        while not arrived.wait(0.1):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_of_a_stream_stops_the_generation(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", endless(Wait()))
    ready = threading.Event()
    running = endpoint.stream("x", rid="interrupted")

    def read() -> None:
        with running:
            for text in running:
                if text == " upon":
                    ready.set()

    with interrupt_when(ready), pytest.raises(KeyboardInterrupt):
        read()
    assert running.text == "Once upon"
    assert running.result().text == "Once upon"  # type: ignore[union-attr]
    assert server.gone.wait(10)
    assert server.wait_for("/abort_request")[0].json == {"rid": "interrupted"}


def test_an_interrupt_of_complete_stops_the_generation(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    wait = Wait()
    server.on("/generate", stream(wait))  # nothing that complete() could return with
    with interrupt_when(wait.reached), pytest.raises(KeyboardInterrupt):
        endpoint.complete("x", rid="interrupted")
    assert server.gone.wait(10)
    assert server.wait_for("/abort_request")[0].json == {"rid": "interrupted"}


def test_abort_from_another_thread(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    wait = Wait()
    reason = {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}

    def reply(asked: Asked) -> Reply:
        made = events(asked.json["rid"])
        last = answer("Once upon", [100, 101], id=asked.json["rid"], finish_reason=reason)
        return stream(*made[:2], wait, last)

    server.on("/generate", reply)

    def aborted(asked: Asked) -> Reply:
        wait.go.set()
        return Reply(body=b"")

    server.on("/abort_request", aborted)
    with endpoint.stream("x") as running:
        assert next(running) == "Once"
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(list, running)
            assert wait.reached.wait(10)
            running.abort()
            assert rest.result(10) == [" upon"]
        generation = running.result()
    assert isinstance(generation, Generation)
    assert generation.finish_reason is not None
    assert generation.finish_reason.type == "abort"
    assert "aborted" in repr(running)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("ends", ["in chunks", "by length", "with its connection"])
@pytest.mark.parametrize("urllib3_is", ["new", "old"])
def test_close_from_another_thread_wakes_the_reader(
    certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch, scheme: str, ends: str, urllib3_is: str
) -> None:
    if urllib3_is == "old":
        for each in urllib3.HTTPResponse.__mro__:
            monkeypatch.delattr(each, "read1", raising=False)
    secure = scheme == "https"
    two = threading.Event()

    def read() -> list[str]:
        seen = []
        for text in running:
            seen.append(text)
            if len(seen) == 2:
                two.set()
        return seen

    with ScriptedServer(certificate=certificate if secure else None) as server:
        made = [b"data: %b\n\n" % dump(event) for event in events()[:2]]
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n"
        if ends == "by length":
            server.on("/generate", Reply(pieces=[head, *made, Wait()], raw=True))
        else:
            server.on("/generate", stream(*made, Wait(), chunked=ends == "in chunks"))
        endpoint = RuntimeEndpoint(server.url, verify=certificate[0] if secure else None)
        running = endpoint.stream("x", rid="closed")
        with endpoint, ThreadPoolExecutor(2) as pool:
            texts = pool.submit(read)
            assert two.wait(10)
            time.sleep(0.2)  # by now it waits for bytes
            pool.submit(running.close).result(10)
            assert texts.result(10) == ["Once", " upon"]
        assert server.wait_for("/abort_request")[0].json == {"rid": "closed"}


def test_a_stream_that_is_closed_at_its_end_disturbs_no_other_request(
    server: ScriptedServer, endpoint: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("/generate", stream(*events(), done=False))
    running = endpoint.stream("x")
    put = urllib3.HTTPConnectionPool._put_conn

    def put_and_close(kept: urllib3.HTTPConnectionPool, connection: Any) -> None:
        put(kept, connection)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(running.close).result(10)
        assert connection.sock is not None  # somebody else may use it by now

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "_put_conn", put_and_close)
    assert list(running) == WORDS


def test_samples_are_aborted_by_the_names_that_the_server_gave(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    made = [{**cumulative(WORDS, f"given-{index}")[0], "index": index} for index in (0, 1)]
    server.on("/generate", stream(*made, Wait()))
    with endpoint.stream("x", n=2) as running:
        pairs = running.indexed()
        assert [next(pairs), next(pairs)] == [(0, "Once"), (1, "Once")]
    assert [asked.json["rid"] for asked in server.wait_for("/abort_request", 2)] == ["given-0", "given-1"]


def test_a_stream_outlives_its_endpoint_object(server: ScriptedServer) -> None:
    server.on("/generate", stream(*events()))
    assert "".join(RuntimeEndpoint(server.url).stream("x")) == "Once upon a time"


def test_close_ends_the_thread(server: ScriptedServer) -> None:
    endpoint = RuntimeEndpoint(server.url)
    server.on("/generate", stream(*events()))
    before = {thread.name for thread in threading.enumerate()}
    assert "nbruntime-closer" not in before
    list(endpoint.stream("x"))
    endpoint.close()
    assert "nbruntime-closer" not in {thread.name for thread in threading.enumerate()}
    assert "".join(endpoint.stream("x")) == "Once upon a time"  # opens again
    endpoint.close()


def test_close_leaves_the_streams(server: ScriptedServer) -> None:
    server.on("/generate", endless(Wait()))
    endpoint = RuntimeEndpoint(server.url)
    running = endpoint.stream("x", rid="left")
    assert next(running) == "Once"
    endpoint.close()
    assert running.done
    assert server.gone.wait(10)
    assert server.wait_for("/abort_request")[0].json == {"rid": "left"}


def test_a_stream_that_is_opened_while_the_endpoint_closes_is_left_as_well(server: ScriptedServer) -> None:
    asked, go = threading.Event(), threading.Event()

    def slow(_: Asked) -> Reply:
        asked.set()
        go.wait(10)
        return stream(events()[0], Wait())

    server.on("/generate", slow)
    endpoint = RuntimeEndpoint(server.url)
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(endpoint.stream, "x", rid="late")
        assert asked.wait(10)
        endpoint.close()
        go.set()
        running = opening.result(10)
    del opening
    assert next(running) == "Once"
    del running
    gc.collect()
    assert server.wait_for("/abort_request")[0].json == {"rid": "late"}
    endpoint.close()


# Errors


def test_a_stream_that_breaks_off_keeps_its_text(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", stream(*events()[:2], CUT))
    running = endpoint.stream("x")
    texts = []
    with pytest.raises(errors.StreamError, match="broke off after 2 tokens") as caught:
        texts.extend(running)
    assert texts == ["Once", " upon"]
    assert caught.value.text == running.text == "Once upon"
    assert caught.value.generation is not None
    assert caught.value.generation.output_ids == [100, 101]
    assert isinstance(caught.value.__cause__, errors.ServerConnectionError)
    assert pickle.loads(pickle.dumps(caught.value)).text == "Once upon"
    with pytest.raises(errors.StreamError):
        running.result()


def test_a_stream_without_its_end(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", stream(*events()[:2], b'data: {"text":"On', done=False))
    with pytest.raises(errors.StreamError, match="broke off after 2 tokens: the server closed it"):
        endpoint.stream("x").result()
    server.on("/generate", stream(*events(), done=False))  # all was said, only [DONE] is missing
    assert endpoint.stream("x").result().text == "Once upon a time"  # type: ignore[union-attr]


def test_an_error_in_the_stream(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", stream(events()[0], {"error": {"message": "out of memory", "code": 500}}))
    running = endpoint.stream("x")
    assert next(running) == "Once"
    with pytest.raises(errors.StreamError, match="out of memory") as caught:
        next(running)
    assert (caught.value.status, caught.value.text) == (500, "Once")
    assert "failed" in repr(running)


def test_an_abort_by_somebody_else(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    reason = {"type": "abort", "message": "no room", "status_code": 503, "err_type": None}
    server.on("/generate", stream(events()[0], answer("Once", [100], finish_reason=reason)))
    with pytest.raises(errors.GenerationAbortedError, match="no room") as caught:
        endpoint.stream("x").result()
    assert (caught.value.status, caught.value.text) == (503, "Once")


def test_answers_that_are_no_stream(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=answer("x")))
    with pytest.raises(errors.ProtocolError, match="not a stream but application/json"):
        endpoint.stream("x")
    server.on("/generate", stream(b'data: {"choices":[]}\n\n'))
    with pytest.raises(errors.StreamError, match="not an event of /generate"):
        list(endpoint.stream("x"))
    server.on("/generate", Reply(body=b"<html>hello</html>"))
    with pytest.raises(errors.ProtocolError, match="not JSON"):
        endpoint.complete("x")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.BadRequestError),
        (401, errors.AuthenticationError),
        (403, errors.AuthenticationError),
        (413, errors.BadRequestError),
        (501, errors.NotFoundError),
        (429, errors.ServerBusyError),
        (500, errors.ServerFailureError),
        (503, errors.ServerBusyError),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_statuses(
    server: ScriptedServer, endpoint: RuntimeEndpoint, status: int, kind: type[Exception], streamed: bool
) -> None:
    server.on("/generate", Reply(json={"error": {"message": "because"}}, status=status))
    with pytest.raises(kind, match="because") as caught:
        (endpoint.stream if streamed else endpoint.complete)("x")
    assert caught.value.status == status  # type: ignore[attr-defined]
    assert f"{server.url}/generate" in str(caught.value)


def test_no_server() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(errors.ServerConnectionError, match="Connection refused") as caught:
        RuntimeEndpoint(f"http://127.0.0.1:{port}")
    assert f"http://127.0.0.1:{port}/model_info" in str(caught.value)
    assert isinstance(caught.value, ConnectionError)


def test_something_else_listens(server: ScriptedServer) -> None:
    server.on("/model_info", Reply(body=b"<html>"))
    with pytest.raises(errors.ProtocolError):
        RuntimeEndpoint(server.url)
    server.forget("/model_info")
    with pytest.raises(errors.NotFoundError, match="404"):
        RuntimeEndpoint(server.url)
    server.on("/model_info", Reply(json={"object": "list"}))
    with pytest.raises(errors.ProtocolError, match="does not describe"):
        RuntimeEndpoint(server.url)


@pytest.mark.parametrize(
    "url", ["localhost:30000", "ftp://host", "", "http://", "http://user:pw@host", 30000]
)
def test_addresses_that_are_none(url: Any) -> None:
    with pytest.raises(errors.ArgumentError) as caught:
        RuntimeEndpoint(url)
    assert "pw" not in str(caught.value)


def test_time_out(server: ScriptedServer) -> None:
    wait = Wait()
    server.on("/generate", endless(wait))
    with RuntimeEndpoint(server.url, read_timeout=0.2) as endpoint:
        running = endpoint.stream("x")
        with pytest.raises(errors.StreamError, match="in time") as caught:
            list(running)
        assert isinstance(caught.value.__cause__, errors.ServerTimeoutError)
        assert caught.value.text == "Once upon"
        assert server.wait_for("/abort_request")[0].json == {"rid": running.rid}
        server.on("/generate", stream(Wait()))
        with pytest.raises(errors.ServerTimeoutError):
            endpoint.complete("x", rid="slow")
        assert server.wait_for("/abort_request", 2)[1].json == {"rid": "slow"}


def test_old_servers(server: ScriptedServer) -> None:
    server.forget("/model_info")
    server.forget("/server_info")
    server.on(
        "/get_model_info", Reply(json={"model_path": "old", "tokenizer_path": "old", "is_generation": True})
    )
    server.on("/get_server_info", Reply(json={"version": "0.5.2"}))
    with RuntimeEndpoint(server.url) as endpoint:
        assert endpoint.get_model_name() == "old"
        assert endpoint.get_server_info() == {"version": "0.5.2"}


def test_health(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    assert endpoint.health()
    server.on("/health", Reply(body=b"", status=503))
    assert not endpoint.health()
    assert "503" in repr(endpoint)


def test_abort_of_nothing(endpoint: RuntimeEndpoint) -> None:
    with pytest.raises(errors.ArgumentValueError):
        endpoint.abort("")
    endpoint.abort("unknown")


# The key, and where it must not go


def test_a_wrong_key_fails_at_once(server: ScriptedServer) -> None:
    server.api_key = KEY
    with pytest.raises(errors.AuthenticationError, match="401 Unauthorized"):
        RuntimeEndpoint(server.url, "sk-wrong")
    with pytest.raises(errors.AuthenticationError):
        RuntimeEndpoint(server.url)


def test_the_key_never_shows(server: ScriptedServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.api_key = KEY
    endpoint = RuntimeEndpoint(server.url, KEY)
    server.on("/generate", lambda asked: Reply(json={"error": f"you sent {asked.headers}"}, status=400))
    with pytest.raises(errors.BadRequestError) as caught:
        endpoint.complete("x")
    assert "you sent" in str(caught.value)
    shown = [
        repr(endpoint),
        str(vars(endpoint)),
        str(vars(endpoint.settings)),
        str(endpoint._transport.session.headers),
        str(caught.value),
        repr(pickle.dumps(endpoint)),
        repr(pickle.dumps(caught.value)),
        str(endpoint.__getstate__()),
        caplog.text,
    ]
    assert [text for text in shown if KEY in text] == []
    loaded = pickle.loads(pickle.dumps(endpoint))
    assert loaded.api_key is None
    assert loaded.base_url == server.url
    with pytest.raises(errors.AuthenticationError):
        loaded.flush_cache()
    loaded.api_key = KEY
    loaded.flush_cache()
    copied = copy.deepcopy(endpoint)
    copied.flush_cache()
    for client in (endpoint, loaded, copied):
        client.close()


def shown_with_variables(error: BaseException) -> str:
    """Write a traceback as IPython does with %xmode Verbose; this module's own frames know the key."""
    error.__traceback__ = None if error.__traceback__ is None else error.__traceback__.tb_next
    written = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(written.format())


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_does_not_show_in_tracebacks_with_variables(server: ScriptedServer, kind: str) -> None:
    server.api_key = KEY
    with connected(kind, server.url, api_key=KEY) as client:
        server.on("/generate", Reply(raw=True, pieces=[RESET]))
        broken = client.read("x").error
        server.on("/generate", stream(*events()[:2], RESET))
        broken_off = client.read("x").error
        client.client.settings.base_url = "http://127.0.0.1:9"
        refused = client.read("x").error
    for error in (broken, broken_off, refused):
        assert isinstance(error, errors.NbruntimeError)
        assert error.__context__ is None or isinstance(error.__context__, errors.NbruntimeError)
        assert KEY not in shown_with_variables(error)


def test_the_key_does_not_show_when_an_endpoint_is_refused() -> None:
    with pytest.raises(errors.ServerConnectionError) as caught:
        RuntimeEndpoint("http://127.0.0.1:9", "sk-" + "x" * 20)
    assert "sk-" + "x" * 20 not in shown_with_variables(caught.value)


def test_the_key_does_not_show_after_an_interrupt(server: ScriptedServer) -> None:
    server.api_key = KEY
    wait = Wait()
    server.on("/generate", stream(wait))
    with RuntimeEndpoint(server.url, KEY) as endpoint:
        interrupting = threading.Thread(target=lambda: (wait.reached.wait(10), os.kill(os.getpid(), 2)))
        interrupting.start()
        with pytest.raises(KeyboardInterrupt) as caught:
            endpoint.complete("x")
        interrupting.join()
    assert KEY not in shown_with_variables(caught.value)


def failure(action: Callable[[], Any]) -> errors.NbruntimeError:
    with pytest.raises(errors.NbruntimeError) as caught:
        action()
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_an_echoed_key_is_masked(server: ScriptedServer, kind: str) -> None:
    with connected(kind, server.url, api_key=KEY) as client:
        server.on("/generate", Reply(body=b"{}", headers={"content-type": f"text/{KEY}"}))
        assert "text/***" in str(client.read("x").error)
        server.on("/generate", stream({"error": {"message": f"you sent Bearer {KEY}"}}))
        assert "you sent Bearer ***" in str(client.read("x").error)
        server.on("/generate", stream(b"data: " + KEY.encode() + b"\n\n"))
        assert "not a JSON object: ***" in str(client.read("x").error)
        reason = {"type": "abort", "message": f"you sent Bearer {KEY}", "status_code": 500}
        aborted = answer("x", [1], finish_reason=reason)
        server.on(
            "/generate", lambda asked: stream(aborted) if "stream" in asked.json else Reply(json=aborted)
        )
        for error in (client.read("x").error, failure(lambda: client.call("complete", "x"))):
            assert isinstance(error, errors.GenerationAbortedError)
            assert "you sent Bearer ***" in str(error)
            assert KEY not in repr(error.generation)


@pytest.mark.parametrize(
    "url",
    [
        "user:s3cret@localhost:30000",
        "http://user:s3cret@localhost",
        "http://user:s3/cret@localhost",
        "http://user:s3cret@ho\u2100st",
        "ftp://user:s3cret@localhost",
    ],
)
def test_a_password_in_a_url_does_not_show(url: str) -> None:
    with pytest.raises(errors.ArgumentValueError, match="api_key") as caught:
        RuntimeEndpoint(url)
    assert "s3" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("kind", [RuntimeEndpoint, AsyncRuntimeEndpoint])
@pytest.mark.parametrize("verify", ["", 0, 5, b"ca.pem", Path("ca.pem")])
def test_certificates_that_are_none(kind: type[Any], verify: Any) -> None:
    with pytest.raises(errors.ArgumentError, match="Give the path"):
        kind("https://127.0.0.1:9", KEY, verify=verify)


@pytest.mark.parametrize("kind", [RuntimeEndpoint, AsyncRuntimeEndpoint])
@pytest.mark.parametrize("name", ["connect_timeout", "read_timeout"])
@pytest.mark.parametrize("seconds", [0, -1, "5", True, float("nan"), float("inf"), 2**32 / 1000, 1e300])
def test_time_outs_that_are_none(kind: type[Any], name: str, seconds: Any) -> None:
    with pytest.raises(errors.ArgumentError, match=f"{name} is .*\n.*None to wait for ever"):
        kind("http://127.0.0.1:9", **{name: seconds})


@pytest.mark.parametrize("kind", KINDS)
def test_paths_and_time_outs_that_are_none_are_not_sent(server: ScriptedServer, kind: str) -> None:
    with connected(kind, server.url) as client:
        count = len(server.asked)
        for path in ("metrics", "@elsewhere.example/", "", 5):
            for method in ("get", "post"):
                with pytest.raises(errors.ArgumentError, match=r"(?s)path.*Begin it with a slash"):
                    client.call(method, path)
        for seconds in (0, -1, "5", True, 1e300):
            with pytest.raises(errors.ArgumentError, match=r"timeout is .*\n.*None to wait for ever"):
                client.call("get", "/health", timeout=seconds)
        assert len(server.asked) == count


def test_what_is_ill_typed_is_not_sent(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    count = len(server.asked)
    calls: list[Callable[[], Any]] = [
        lambda: endpoint.embed("x", dimensions="big"),  # type: ignore[arg-type]
        lambda: endpoint.tokenize("x", add_special_tokens="no"),  # type: ignore[arg-type]
        lambda: endpoint.detokenize([1], skip_special_tokens=0),  # type: ignore[arg-type]
        *(lambda rid=rid: endpoint.abort(rid) for rid in (5, None, [5], b"x", [], "")),
    ]
    for call in calls:
        assert isinstance(failure(call), errors.ArgumentError)
    assert len(server.asked) == count


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_left_together(server: ScriptedServer, kind: str) -> None:
    together = threading.Barrier(4)

    def slow(asked: Asked) -> Reply:
        if asked.json["rid"] != "r_0":
            together.wait(10)  # comes only while others are on their way
        return Reply(body=b"")

    server.on("/generate", stream({**events()[0], "index": 0}, Wait()))
    server.on("/abort_request", slow)
    with connected(kind, server.url) as client:
        client.call("abort", [f"r_{number}" for number in range(9)])
    assert sorted(asked.json["rid"] for asked in server.to("/abort_request")) == [f"r_{n}" for n in range(9)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_left_wholly_though_one_abort_is_refused(server: ScriptedServer, kind: str) -> None:
    names = [f"r_{number}" for number in range(60)]

    def refuse_one(asked: Asked) -> Reply:
        return Reply(status=503 if asked.json["rid"] == "r_1" else 200, body=b"")

    server.on("/abort_request", refuse_one)
    with connected(kind, server.url) as client:
        with pytest.raises(errors.ServerBusyError):
            client.call("abort", names)
        if kind == "async":
            client.run(asyncio.to_thread(server.wait_for, "/abort_request", len(names)))
    assert sorted(asked.json["rid"] for asked in server.to("/abort_request")) == sorted(names)


@pytest.mark.parametrize("kind", KINDS)
def test_where_only_the_admins_key_aborts_the_connection_is_closed(server: ScriptedServer, kind: str) -> None:
    server.on("/generate", lambda asked: stream(*events()[:2], Wait()))
    server.on("/abort_request", Reply(json={"error": "Unauthorized"}, status=401))

    with connected(kind, server.url) as client:
        running = client.call("stream", "x")
        abort = running.abort()
        if kind == "async":
            client.run(abort)
        assert running.done
        assert server.gone.wait(10)


def test_words_of_a_server_steer_no_terminal(server: ScriptedServer) -> None:
    server.on("/model_info", Reply(json={**MODEL_INFO, "served_model_name": "evil\x1b[2J"}))
    with RuntimeEndpoint(server.url) as endpoint:
        long = "bad\x1b[31m\nsecond line " + "x" * 5000
        server.on("/generate", Reply(json={"error": {"message": long}}, status=400))
        whole = failure(lambda: endpoint.complete("x"))
        server.on("/generate", stream({"error": {"message": long}}))
        streamed = failure(lambda: endpoint.stream("x").result())
        assert "\x1b" not in repr(endpoint)
    for error in (whole, streamed):
        assert "\x1b" not in str(error)
        first, *rest = str(error).splitlines()
        assert "bad␛[31m second line" in first
        assert len(first) < 2200
        assert rest == [error.hint]


def test_redirects_are_not_followed(server: ScriptedServer) -> None:
    with ScriptedServer() as other:
        server.on("/model_info", Reply(body=b"", status=307, headers={"location": f"{other.url}/model_info"}))
        with pytest.raises(errors.ServerStatusError, match="give the final address") as caught:
            RuntimeEndpoint(server.url, KEY)
        assert other.url in str(caught.value)
        assert other.asked == []


def test_proxies_of_the_environment_are_not_for_this_machine(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.api_key = KEY
    with RuntimeEndpoint(server.url, KEY) as endpoint:
        server.on("/generate", stream(*events()))
        assert "".join(endpoint.stream("x")) == "Once upon a time"
        assert asyncio.run(collect(endpoint)) == WORDS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [KEY, None])
def test_passwords_of_netrc_are_for_nobody(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, key: str | None
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.api_key = key
    elsewhere = server.url.replace("127.0.0.1", "0.0.0.0")
    monkeypatch.setenv("no_proxy", "0.0.0.0")
    with connected(kind, elsewhere, api_key=key) as client:
        server.on("/generate", Reply(json=answer("hi", [1])))
        assert client.call("complete", "x").text == "hi"
    expected = f"Bearer {key}" if key else None
    assert {asked.headers.get("Authorization") for asked in server.asked} == {expected}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_proxies_of_the_environment_are_for_servers_elsewhere(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, kind: str, scheme: str
) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url.replace("http://", scheme))
    server.on("http://sglang.example/model_info", Reply(json=MODEL_INFO))
    with connected(kind, "http://sglang.example") as client:
        assert client.client.model_info == MODEL_INFO
    assert [asked.path for asked in server.asked] == ["http://sglang.example/model_info"]


def test_verify_is_honoured_everywhere(certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(certificate=certificate) as server:
        server.on("/generate", stream(*events()))
        with pytest.raises(errors.ServerConnectionError, match=r"(?s)certificate is not accepted.*verify="):
            RuntimeEndpoint(server.url)
        with RuntimeEndpoint(server.url, verify=certificate[0]) as endpoint:
            # The environment's own certificates do not go before those that were given.
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
            assert "".join(endpoint.stream("x")) == "Once upon a time"
            assert asyncio.run(collect(endpoint)) == WORDS
        unreadable = r"^The certificates .* cannot be read \(verify='/nowhere.pem'\)\n.* existing file"
        for kind in KINDS:
            with (
                pytest.raises(errors.ServerConnectionError, match=unreadable),
                connected(kind, server.url, verify="/nowhere.pem"),
            ):
                pass


@pytest.mark.parametrize("kind", KINDS)
def test_certificates_of_the_environment_are_for_servers_elsewhere(
    certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate[0])
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ScriptedServer(certificate=certificate) as server:
        with (
            pytest.raises(errors.ServerConnectionError, match="certificate is not accepted"),
            connected(kind, server.url),
        ):
            pass
        monkeypatch.setattr("nbruntime.endpoint.settings.is_loopback", lambda url: False)
        with connected(kind, server.url) as client:
            assert client.client.model_info == MODEL_INFO


# Threads and processes


def test_ninety_six_threads_share_one_pool(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", lambda asked: Reply(json=answer(asked.json["text"], [1])))
    barrier = threading.Barrier(96)

    def ask(number: int) -> str:
        barrier.wait(30)
        texts = [endpoint.complete(f"{number}.{n}").text for n in range(3)]  # type: ignore[union-attr]
        return " ".join(texts)

    with ThreadPoolExecutor(96) as pool:
        assert list(pool.map(ask, range(96))) == [f"{n}.0 {n}.1 {n}.2" for n in range(96)]
    print(f"{server.connections} connections for {len(server.asked)} requests")
    assert server.connections <= 97


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_opens_connections_of_its_own(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", stream(*events()))
    list(endpoint.stream("x"))
    connections = server.connections

    def child(queue: Any) -> None:
        queue.put("".join(endpoint.stream("x")))

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    assert queue.get(timeout=20) == "Once upon a time"
    process.join(20)
    assert "".join(endpoint.stream("x")) == "Once upon a time"
    assert server.connections == connections + 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_leaves_its_parents_streams_alone(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    wait = Wait()
    server.on("/generate", endless(wait))
    running = endpoint.stream("x")
    assert next(running) == "Once"

    def child() -> None:
        running.abort()
        running.close()
        endpoint.close()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    wait.go.set()
    assert list(running) == WORDS[1:]
    assert server.to("/abort_request") == []


def test_a_kept_connection_that_the_server_has_closed(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    dropped = []

    def drop_first(asked: Asked) -> Reply:
        if not dropped:
            dropped.append(asked)
            return Reply(pieces=[CUT])
        return Reply(json={"version": "x"})

    server.on("/server_info", drop_first)
    assert endpoint.get_server_info() == {"version": "x"}  # read once more
    generated = []

    def drop_all(asked: Asked) -> Reply:
        generated.append(asked)
        return Reply(pieces=[CUT])

    server.on("/generate", drop_all)
    with pytest.raises(errors.NbruntimeError):
        endpoint.complete("x")
    assert len(generated) == 1  # a generation is never sent twice


# What is seen of it


def test_an_error_does_not_keep_its_callers_streams(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    def cell() -> None:
        running = endpoint.stream("x", rid="left")
        next(running)
        endpoint.detokenize([1])

    server.on("/generate", lambda asked: stream(*cumulative(WORDS)[:2], Wait()))
    server.on("/detokenize", Reply(json={"error": "no"}, status=500))
    try:
        cell()
    except errors.ServerFailureError:
        shown = repr(endpoint)  # the traceback still holds the stream, so nothing was aborted yet
    gc.collect()
    assert server.wait_for("/abort_request")[0].json == {"rid": "left"}
    assert "then: The server answered 500" in shown


def test_repr_asks_nobody(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    count = len(server.asked)
    text = repr(endpoint)
    assert len(text.splitlines()) <= 3
    assert server.url in text
    assert "scripted-model" in text
    assert "answered" in text
    assert len(server.asked) == count


def test_the_backend_has_no_endpoint_of_its_own(endpoint: RuntimeEndpoint) -> None:
    # SGLang's frontend language would take `backend.endpoint` for the backend.
    assert not hasattr(endpoint, "endpoint")


# With an event loop


async def stream_text(endpoint: RuntimeEndpoint, prompt: str, **arguments: Any) -> AsyncGenerator[str, None]:
    async with (
        AsyncRuntimeEndpoint.beside(endpoint) as client,
        await client.stream(prompt, **arguments) as running,
    ):
        async for text in running:
            yield text


async def collect(endpoint: RuntimeEndpoint) -> list[str]:
    return [text async for text in stream_text(endpoint, "x", max_new_tokens=4)]


async def test_stream_text(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", stream(*events()))
    assert await collect(endpoint) == WORDS
    async with AsyncRuntimeEndpoint.beside(endpoint) as client:
        assert await client.get_server_info() == endpoint.get_server_info()
    assert server.to("/abort_request") == []


async def test_leaving_a_text_stream_stops_the_generation(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", endless(Wait()))
    texts = stream_text(endpoint, "x", rid="async")
    async with contextlib.aclosing(texts):
        async for text in texts:
            assert text == "Once"
            break
    assert server.wait_for("/abort_request")[0].json == {"rid": "async"}
    assert server.gone.wait(10)


async def test_cancelling_a_task_stops_the_generation(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", endless(Wait()))
    seen: list[str] = []
    two = asyncio.Event()

    async def read() -> None:
        async for text in stream_text(endpoint, "x", rid="cancelled"):
            seen.append(text)
            if len(seen) == 2:
                two.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(two.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["Once", " upon"]
    assert server.wait_for("/abort_request")[0].json == {"rid": "cancelled"}


async def test_cancelling_before_the_answer_begins(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    arrived, go = threading.Event(), threading.Event()

    def late(asked: Asked) -> Reply:
        arrived.set()
        go.wait(10)
        return stream(*events())

    server.on("/generate", late)
    task = asyncio.create_task(collect(endpoint))
    await asyncio.to_thread(arrived.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert server.wait_for("/abort_request")[0].json == {"rid": server.to("/generate")[0].json["rid"]}


async def test_async_errors(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json={"error": {"message": "because"}}, status=400))
    with pytest.raises(errors.BadRequestError, match="because"):
        await collect(endpoint)
    server.on("/generate", stream(*events()[:2], CUT))
    with pytest.raises(errors.StreamError, match="broke off after 2 tokens") as caught:
        await collect(endpoint)
    assert caught.value.text == "Once upon"
    server.on("/generate", Reply(json={}))
    with pytest.raises(errors.ProtocolError):
        await collect(endpoint)
    server.on("/generate", Reply(body=b"", status=307, headers={"location": "http://elsewhere"}))
    with pytest.raises(errors.ServerStatusError, match="elsewhere"):
        await collect(endpoint)
    endpoint.settings.read_timeout = 0.2
    server.on("/generate", endless(Wait()))
    with pytest.raises(errors.StreamError, match="in time"):
        await collect(endpoint)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint.settings.base_url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(errors.ServerConnectionError):
            await collect(endpoint)


async def test_async_batches_and_results(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    made = [{**event, "index": index} for event in events() for index in (1, 0)]
    server.on("/generate", stream(*made))
    async with AsyncRuntimeEndpoint.beside(endpoint) as client:
        for _ in range(3):
            async with await client.stream(["x", "y"]) as running:
                assert (await anext(running.indexed())) == (1, "Once")
                result = await running.result()
            assert isinstance(result, list)
            assert [generation.text for generation in result] == ["Once upon a time"] * 2
    assert server.connections == 2  # one of the blocking client, one of this one
