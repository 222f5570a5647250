"""Faults of a server and of the network, for both clients, streamed or not.

The client never hangs, never loses text that it had, and never shows text that it did not get. The table of
faults and outcomes is printed at the end.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.clients import KINDS, Async, Blocking, connected
from support.faults import (
    BROKEN,
    CHUNKED,
    DATA,
    DONE,
    GONE,
    LATE,
    LONGEST,
    READ_TIMEOUT,
    RECORD,
    STREAMED,
    WHOLE,
    WHOLE_ANSWERS,
    WHOLE_STREAM,
    WORDS,
    Fault,
    fixed,
    raw,
    sse,
)
from support.scripted_server import CUT, RESET, Reply, ScriptedServer, Wait, cumulative, dump, stream

from nbruntime import errors

TABLE: list[tuple[str, str, str, str]] = []


@pytest.fixture(scope="module", autouse=True)
def _table() -> Iterator[None]:
    yield
    widths = [max(len(row[column]) for row in TABLE) for column in range(4)] if TABLE else []
    for row in sorted(TABLE):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, server: ScriptedServer) -> Iterator[Blocking | Async]:
    with connected(request.param, server.url, read_timeout=LONGEST) as driver:
        yield driver


@contextlib.contextmanager
def impatient(client: Blocking | Async, name: str) -> Iterator[None]:
    """Have the client wait shortly for what will never come."""
    settings = client.client.settings
    if "stall" in name or "nothing" in name:
        settings.read_timeout = READ_TIMEOUT
    try:
        yield
    finally:
        settings.read_timeout = LONGEST


def note(name: str, mode: str, client: Blocking | Async, error: Exception | None, text: str) -> None:
    shown = text if len(text) < 20 else f"{len(text):,} characters"
    outcome = (
        "whole"
        if error is None
        else f"{type(error).__name__}, {'keeps ' + repr(shown) if text else 'no text'}"
    )
    TABLE.append((name, mode, client.kind, outcome))


def check(fault: Fault, error: Exception | None, text: str) -> None:
    if fault.error is None:
        assert error is None, error
    else:
        assert isinstance(error, fault.error), repr(error)
        assert isinstance(error, errors.NbruntimeError)
        assert fault.words in str(error)
        first, *rest = str(error).splitlines()
        assert "http" in first or "(" in first, "it says where"
        assert rest, "it says what to do"
    assert text == fault.text


@pytest.mark.parametrize("name", STREAMED)
def test_a_faulty_stream(server: ScriptedServer, client: Blocking | Async, name: str) -> None:
    fault = STREAMED[name]
    replies: list[Reply] = []
    server.on("/generate", lambda asked: replies.append(fault.reply(asked)) or replies[-1])
    before = time.monotonic()
    with impatient(client, name):
        reading = client.read("x", rid="faulty")
    took = time.monotonic() - before
    check(fault, reading.error, reading.text)
    if reading.stream is not None:
        assert reading.stream.text == reading.text, "what is shown is what the stream keeps"
    if isinstance(reading.error, errors.GenerationError):
        assert reading.error.text == reading.text, "the error keeps it as well"
    note(name, "streamed", client, reading.error, reading.text)
    assert took < LONGEST
    # Whatever happened, the next request is answered.
    if replies[0].raw:
        server.wait_for_closed(1)
    server.on("/generate", sse(*DATA, done=True))
    assert client.read("x").texts == WORDS


@pytest.mark.parametrize("name", WHOLE_ANSWERS)
def test_a_faulty_answer(server: ScriptedServer, client: Blocking | Async, name: str) -> None:
    fault = WHOLE_ANSWERS[name]
    server.on("/generate", fault.reply)
    before = time.monotonic()
    error: Exception | None = None
    text = ""
    with impatient(client, name):
        try:
            text = client.call("complete", "x").text
        except errors.NbruntimeError as raised:
            error = raised
            text = getattr(raised, "text", "")
    took = time.monotonic() - before
    check(fault, error, text)
    note(name, "whole", client, error, text)
    assert took < LONGEST
    server.on("/generate", fixed(Reply(body=RECORD)))
    assert client.call("complete", "x").text == WHOLE


@pytest.mark.parametrize(
    "name",
    [name for name, fault in STREAMED.items() if fault.error in (BROKEN, LATE) and "error" not in name],
)
def test_a_broken_stream_is_aborted(server: ScriptedServer, client: Blocking | Async, name: str) -> None:
    server.on("/generate", STREAMED[name].reply)
    with impatient(client, name):
        client.read("x", rid="faulty")
    # The server has ended only what it said that it had.
    assert [asked.json for asked in server.to("/abort_request")] == [{"rid": "faulty"}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("streamed", [True, False])
def test_a_refused_connection(server: ScriptedServer, kind: str, streamed: bool) -> None:
    with connected(kind, server.url) as client:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            client.client.settings.base_url = f"http://127.0.0.1:{unused.getsockname()[1]}"
            error = (client.read("x") if streamed else ask(client)).error
        assert isinstance(error, errors.ServerConnectionError)
        assert not error.sent
        assert "Connect call failed" in str(error) or "Connection refused" in str(error)
        assert str(error).endswith("Check that the server is running and that the URL is right.")
        note("connection refused", "streamed" if streamed else "whole", client, error, "")
        client.client.settings.diagnose = lambda: "The server died: out of memory"
        client.client.settings.base_url = "http://127.0.0.1:9"
        assert str((client.read("x")).error).endswith("The server died: out of memory")


def ask(client: Blocking | Async) -> Any:
    class Outcome:
        error: Exception | None = None

    outcome = Outcome()
    try:
        client.call("complete", "x")
    except errors.NbruntimeError as error:
        outcome.error = error
    return outcome


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_that_is_not_accepted_times_out(server: ScriptedServer, kind: str) -> None:
    with connected(kind, server.url) as client, socket.socket() as deaf:
        client.client.settings.connect_timeout = 0.3
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        filling = [socket.socket() for _ in range(4)]
        for each in filling:  # fill the queue of connections that are not accepted
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        client.client.settings.base_url = f"http://127.0.0.1:{port}"
        before = time.monotonic()
        error = client.read("x").error
        took = time.monotonic() - before
        assert isinstance(error, errors.ServerTimeoutError), repr(error)
        assert not error.sent
        note("connection not taken", "streamed", client, error, "")
        assert took < LONGEST
        for each in filling:
            each.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_host(server: ScriptedServer, kind: str) -> None:
    with connected(kind, server.url) as client:
        client.client.settings.base_url = "http://no-such-host.invalid:30000"
        error = client.read("x").error
        assert isinstance(error, errors.ServerConnectionError)
        assert not error.sent
        note("unknown host", "streamed", client, error, "")


def test_times_are_right_when_the_clock_jumps(
    server: ScriptedServer, client: Blocking | Async, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, jumps = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 86_400)
    server.on("/generate", sse(*DATA, done=True))
    reading = client.read("x")
    assert reading.texts == WORDS
    timings = reading.stream.generations[0].timings
    assert 0 <= timings.ttft <= timings.total < LONGEST
    assert all(0 <= each < LONGEST for each in timings.itl)
    assert "answered just now" in repr(client.client)
    wait = Wait()
    server.on("/generate", sse(*DATA[:2], wait))
    before = time.monotonic()
    with impatient(client, "stall"):
        assert "in time" in str(client.read("x").error)
    assert READ_TIMEOUT * 0.5 < time.monotonic() - before < LONGEST
    note("the clock jumps", "streamed", client, None, WHOLE)


@pytest.mark.parametrize("end", [CUT, RESET], ids=["closed", "reset"])
def test_text_before_a_broken_end_is_kept(server: ScriptedServer, client: Blocking | Async, end: Any) -> None:
    """The reader is busy with the first text while the rest comes and the connection ends."""
    sent = threading.Event()
    first = Wait()

    def pieces() -> Iterator[Any]:
        yield DATA[0]
        yield first
        yield from DATA[1:3]
        if end is RESET:
            time.sleep(0.2)  # what has not arrived before a reset never does
        yield end

    server.on(
        "/generate", lambda asked: Reply(pieces=pieces(), headers={"content-type": "text/event-stream"})
    )

    def busy() -> None:
        first.go.set()
        threading.Timer(0.4, sent.set).start()
        assert sent.wait(10)

    reading = client.read("x", between=busy)
    assert isinstance(reading.error, BROKEN)
    if end is CUT:
        assert reading.text == "".join(WORDS[:3])
    assert reading.error.text == reading.text


def test_a_connection_that_the_server_has_closed_is_not_used_again(
    server: ScriptedServer, client: Blocking | Async
) -> None:
    server.on("/generate", raw(CHUNKED, b"%x\r\n%b\r\n0\r\n\r\n" % (len(WHOLE_STREAM), WHOLE_STREAM)))
    for count in range(1, 11):
        assert client.read("x").text == WHOLE
        server.wait_for_closed(count)


def test_a_connection_that_holds_more_than_the_answer_is_not_used_again(server: ScriptedServer) -> None:
    end = b"%x\r\n%b\r\n0\r\n\r\n" % (len(WHOLE_STREAM), WHOLE_STREAM)
    server.on("/generate", raw(CHUNKED + end + b"HTTP/1.1 200 garbage", Wait()))
    with connected("blocking", server.url, read_timeout=LONGEST) as client:
        for _ in range(3):
            assert client.read("x").text == WHOLE


@pytest.mark.parametrize("kind", KINDS)
def test_diagnose_does_not_block_the_event_loop(server: ScriptedServer, kind: str) -> None:
    with connected(kind, server.url) as client:
        threads = []
        client.client.settings.diagnose = lambda: threads.append(threading.current_thread())
        server.on("/generate", raw(RESET))
        assert isinstance(client.read("x").error, GONE)
        server.on("/generate", sse(*DATA[:2], RESET))
        assert isinstance(client.read("x").error, BROKEN)
    main = threading.main_thread()
    assert [thread is main for thread in threads] == [kind == "blocking"] * 2


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("kind", KINDS)
def test_certificates(certificate: tuple[str, str], kind: str) -> None:
    with ScriptedServer(certificate=certificate) as server:
        server.on(
            "/generate", lambda asked: stream(*DATA) if asked.json.get("stream") else Reply(body=RECORD)
        )

        def connect(verify: Any) -> None:
            with connected(kind, server.url, verify=verify):
                pass

        for verify in (None, True):
            with pytest.raises(
                errors.ServerConnectionError, match=r"(?s)certificate is not accepted.*verify="
            ) as caught:
                connect(verify)
            assert not caught.value.sent
        with pytest.raises(errors.ServerConnectionError, match="cannot be read"):
            connect("/nowhere.pem")
        for verify in (certificate[0], False):
            with connected(kind, server.url, verify=verify) as client:
                assert client.read("x").texts == WORDS
                assert client.call("complete", "x").text == WHOLE
                name = f"own certificate, verify={'its file' if verify else verify}"
                note(name, "streamed", client, None, WHOLE)


def test_text_with_every_kind_of_character(server: ScriptedServer, client: Blocking | Async) -> None:
    """Cut at every byte, nothing is lost and nothing is made up."""
    words = ["é", "世", "🎉", "\u2028", "\\", '"', "\x00", "a\nb"]
    data = b"".join(b"data: " + dump(event) + b"\n\n" for event in cumulative(words)) + DONE
    for size in (1, 2, 3, 5, 7):
        server.on("/generate", sse(*[data[at : at + size] for at in range(0, len(data), size)]))
        reading = client.read("x")
        assert reading.error is None
        assert reading.texts == words
    escaped = json.dumps(cumulative(words)[-1])
    server.on("/generate", sse(f"data: {escaped}\n\n".encode(), done=True))
    assert client.read("x").text == "".join(words)
