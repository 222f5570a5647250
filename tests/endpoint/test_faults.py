"""Faults of a server and of the network, for both clients, streamed or not.

The client never hangs, never loses text that it had, and never shows text that it did not get. The table of
faults and outcomes is printed at the end.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from support.certificates import make_certificate
from support.clients import KINDS, Async, Blocking, connected
from support.scripted_server import (
    CUT,
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

WORDS = ["Grüße", " an", " die", " 世界"]
WHOLE = "".join(WORDS)
READ_TIMEOUT = 0.4
"""Seconds that a client waits for a server that is going to stall."""

LONGEST = 8.0
"""Seconds after which a client counts as hanging."""

EVENTS = cumulative(WORDS)
DATA = [b"data: " + dump(event) + b"\n\n" for event in EVENTS]
DONE = b"data: [DONE]\n\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = STREAM_HEAD + b"transfer-encoding: chunked\r\n\r\n"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
RECORD = dump(answer(WHOLE, [1, 2]))
CUT_OFF = len(b"".join(DATA[:2])) + 10
LESS = len(b"".join([*DATA, DONE])) - 5
HALF = DATA[2][: DATA[2].index("ü".encode()) + 1]
"""An event that breaks off within a character."""

TABLE: list[tuple[str, str, str, str]] = []


@pytest.fixture(scope="module", autouse=True)
def _table() -> Iterator[None]:
    yield
    widths = [max(len(row[column]) for row in TABLE) for column in range(4)] if TABLE else []
    for row in sorted(TABLE):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, server: ScriptedServer) -> Iterator[Blocking | Async]:
    with connected(request.param, server.url, read_timeout=LONGEST) as driver:
        yield driver


@dataclass
class Fault:
    """What the server does, and what has to come of it.

    Parameters
    ----------
    reply : callable
        Makes the answer to ``/generate``.
    error : type or None
        What the client raises; None when it gets everything.
    text : str
        What it has then.
    words : str
        What stands in the error.
    """

    reply: Callable[[Asked], Reply]
    error: type[Exception] | tuple[type[Exception], ...] | None = None
    text: str = ""
    words: str = ""


def raw(*pieces: Any) -> Callable[[Asked], Reply]:
    return lambda asked: Reply(raw=True, pieces=pieces)


def sse(*pieces: Any, done: bool = False, **options: Any) -> Callable[[Asked], Reply]:
    return lambda asked: stream(*pieces, done=done, **options)


def fixed(reply: Reply) -> Callable[[Asked], Reply]:
    return lambda asked: reply


def drip(pieces: list[bytes], size: int = 1, pause: float = 0.001) -> Iterator[bytes]:
    for piece in pieces:
        for at in range(0, len(piece), size):
            time.sleep(pause)
            yield piece[at : at + size]


def dripping(**options: Any) -> Callable[[Asked], Reply]:
    head = {"content-type": "text/event-stream"}
    return lambda asked: Reply(pieces=drip([*DATA, DONE]), headers=head, **options)


def after_a_moment(*pieces: bytes) -> Callable[[Asked], Reply]:
    """Let the first piece arrive by itself."""

    def paused() -> Iterator[bytes]:
        yield pieces[0]
        time.sleep(0.1)
        yield from pieces[1:]

    return lambda asked: Reply(raw=True, pieces=paused())


def zipped(pieces: list[bytes]) -> Iterator[bytes]:
    squeeze = zlib.compressobj(wbits=31)
    for piece in pieces:
        yield squeeze.compress(piece) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    yield squeeze.flush()


def headed(head: bytes, body: bytes, length: int) -> tuple[bytes, bytes]:
    return head + b"content-length: %d\r\nconnection: close\r\n\r\n" % length, body


BIG = "x" * 10_000_000
FULL = fixed(Reply(json={"error": {"message": "full"}}, status=503))
WHOLE_STREAM = b"".join(DATA) + DONE
BROKEN, GONE, LATE = errors.StreamError, errors.ServerConnectionError, errors.ServerTimeoutError
REASON = {"type": "abort", "message": "out of memory", "status_code": 500, "err_type": None}

STREAMED: dict[str, Fault] = {
    "all is well": Fault(sse(*DATA, done=True), None, WHOLE),
    "reset before the answer": Fault(raw(RESET), GONE),
    "reset in mid-event": Fault(sse(*DATA[:2], HALF, RESET), BROKEN, "Grüße an", "broke off after 2 tokens"),
    "closed in mid-event": Fault(sse(*DATA[:2], HALF, CUT), BROKEN, "Grüße an", "broke off after 2 tokens"),
    "closed between events": Fault(sse(*DATA[:2], CUT), BROKEN, "Grüße an", "broke off after 2 tokens"),
    "ends without [DONE]": Fault(sse(*DATA[:2]), BROKEN, "Grüße an", "the server closed it"),
    "half a character, then nothing": Fault(sse(*DATA[:2], HALF, Wait()), BROKEN, "Grüße an", "in time"),
    "half a character, then the end": Fault(sse(*DATA[:2], HALF), BROKEN, "Grüße an", "the server closed it"),
    "stall before the head": Fault(raw(Wait()), LATE, "", "No answer in time"),
    "stall before the first event": Fault(sse(Wait()), BROKEN, "", "in time"),
    "stall in the middle": Fault(sse(*DATA[:2], Wait()), BROKEN, "Grüße an", "in time"),
    "slow drip": Fault(dripping(), None, WHOLE),
    "slow drip without chunks": Fault(dripping(chunked=False), None, WHOLE),
    "all at once": Fault(sse(WHOLE_STREAM), None, WHOLE),
    "wrong content type": Fault(fixed(Reply(body=RECORD)), errors.ProtocolError, "", "not a stream"),
    "a page of a proxy": Fault(
        fixed(Reply(body=b"<html>", headers={"content-type": "text/html"})),
        errors.ProtocolError,
        "",
        "text/html",
    ),
    "200 with an error event": Fault(
        sse({"error": {"message": "out of memory", "code": 500}}, done=True), BROKEN, "", "out of memory"
    ),
    "error event after text": Fault(
        sse(*DATA[:2], {"error": {"message": "out of memory"}}, done=True),
        BROKEN,
        "Grüße an",
        "out of memory",
    ),
    "aborted by the server": Fault(
        sse(*DATA[:2], {"text": "", "output_ids": [], "meta_info": {"finish_reason": REASON}}, done=True),
        errors.GenerationAbortedError,
        "Grüße an",
        "out of memory",
    ),
    "not JSON": Fault(sse(*DATA[:2], b"data: {oops\n\n"), BROKEN, "Grüße an", "not a JSON object"),
    "JSON of somebody else": Fault(
        sse(*DATA[:2], b'data: {"choices": []}\n\n'), BROKEN, "Grüße an", "not an event of /generate"
    ),
    "bytes that are no text": Fault(
        sse(*DATA[:2], b'data: {"text":"\xff\xfe","meta_info":5}\n\n'), BROKEN, "Grüße an", "not an event"
    ),
    "gzip, in chunks": Fault(
        lambda asked: Reply(
            pieces=list(zipped([*DATA, DONE])),
            headers={"content-type": "text/event-stream", "content-encoding": "gzip"},
        ),
        None,
        WHOLE,
    ),
    "gzip, without chunks": Fault(
        lambda asked: Reply(
            pieces=[gzip.compress(WHOLE_STREAM)],
            headers={"content-type": "text/event-stream", "content-encoding": "gzip"},
            chunked=False,
        ),
        None,
        WHOLE,
    ),
    "gzip that is none": Fault(
        fixed(Reply(pieces=DATA, headers={"content-type": "text/event-stream", "content-encoding": "gzip"})),
        BROKEN,
    ),
    "redirect": Fault(
        fixed(Reply(body=b"", status=307, headers={"location": "http://elsewhere/generate"})),
        errors.ServerStatusError,
        "",
        "http://elsewhere/generate",
    ),
    "redirect to itself": Fault(
        fixed(Reply(body=b"", status=302, headers={"location": "/generate"})), errors.ServerStatusError
    ),
    "10 MB in one event": Fault(sse({**EVENTS[-1], "text": BIG}, done=True), None, BIG),
    "10 MB without an end": Fault(sse(*DATA[:2], b'data: {"text":"' + b"x" * 10_000_000), BROKEN, "Grüße an"),
    "HTTP/1.0 without a length": Fault(
        raw(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", *DATA, DONE), None, WHOLE
    ),
    "HTTP/1.0 that breaks off": Fault(
        raw(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", *DATA[:2]), BROKEN, "Grüße an"
    ),
    "garbage after [DONE]": Fault(sse(*DATA, DONE, b"data: {oops\n\n", b"\xff" * 100), None, WHOLE),
    "garbage after the last chunk": Fault(
        raw(
            CHUNKED,
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(WHOLE_STREAM), WHOLE_STREAM),
            b"HTTP/1.1 200 garbage",
        ),
        None,
        WHOLE,
    ),
    "[DONE] and an open connection": Fault(sse(*DATA, DONE, Wait()), None, WHOLE),
    "chunk of a wrong length": Fault(
        after_a_moment(CHUNKED + b"%x\r\n%b\r\n" % (len(DATA[0]), DATA[0]), b"zz\r\n"), BROKEN, WORDS[0]
    ),
    "content-length too long": Fault(
        raw(*headed(STREAM_HEAD, b"".join(DATA[:2]), 10_000)), BROKEN, "Grüße an"
    ),
    "content-length too short": Fault(
        after_a_moment(b"".join(headed(STREAM_HEAD, b"".join(DATA[:2]), CUT_OFF)), *DATA[2:], DONE),
        BROKEN,
        "Grüße an",
    ),
    "content-length without [DONE]": Fault(raw(*headed(STREAM_HEAD, WHOLE_STREAM[:-5], LESS)), None, WHOLE),
    "no HTTP at all": Fault(raw(b"SSH-2.0-OpenSSH_9.2\r\n"), GONE),
    "an endless head": Fault(raw(b"HTTP/1.1 200 OK\r\n", *[b"x-header: y\r\n"] * 5000), GONE),
    "503": Fault(
        fixed(Reply(json={"error": {"message": "full"}}, status=503)), errors.ServerBusyError, "", "full"
    ),
    "500 without words": Fault(fixed(Reply(body=b"", status=500)), errors.ServerFailureError),
    "error that breaks off": Fault(
        raw(*headed(b"HTTP/1.1 500 Oh\r\n", b"Intern", 100)), errors.NbruntimeError
    ),
}

WHOLE_ANSWERS: dict[str, Fault] = {
    "all is well": Fault(fixed(Reply(body=RECORD)), None, WHOLE),
    "reset before the answer": Fault(raw(RESET), GONE),
    "reset in mid-answer": Fault(raw(*headed(JSON_HEAD, RECORD[:20], len(RECORD)), RESET), GONE),
    "half a character, then nothing": Fault(
        raw(JSON_HEAD + b"content-length: 100\r\n\r\n", RECORD[: RECORD.index("ü".encode()) + 1], Wait()),
        LATE,
    ),
    "stall before the head": Fault(raw(Wait()), LATE, "", "No answer in time"),
    "slow drip": Fault(lambda asked: Reply(pieces=drip([RECORD])), None, WHOLE),
    "wrong content type": Fault(
        fixed(Reply(body=RECORD, headers={"content-type": "text/plain"})), None, WHOLE
    ),
    "a page of a proxy": Fault(fixed(Reply(body=b"<html>")), errors.ProtocolError, "", "not JSON"),
    "a list instead of one": Fault(fixed(Reply(json=[answer("x")] * 2)), errors.ProtocolError),
    "a text instead of an object": Fault(fixed(Reply(json="x")), errors.ProtocolError),
    "JSON nested too deeply": Fault(fixed(Reply(body=b"[" * 100_000)), errors.ProtocolError),
    "an error nested too deeply": Fault(
        fixed(Reply(body=b"[" * 100_000, status=500)), errors.ServerFailureError
    ),
    "aborted by the server": Fault(
        fixed(Reply(json=answer("Grüße", finish_reason=REASON))),
        errors.GenerationAbortedError,
        "Grüße",
        "out of memory",
    ),
    "gzip": Fault(
        fixed(Reply(body=gzip.compress(RECORD), headers={"content-encoding": "gzip"})), None, WHOLE
    ),
    "gzip that is none": Fault(fixed(Reply(body=RECORD, headers={"content-encoding": "gzip"})), GONE),
    "redirect": Fault(
        fixed(Reply(body=b"", status=307, headers={"location": "http://elsewhere/generate"})),
        errors.ServerStatusError,
        "",
        "http://elsewhere/generate",
    ),
    "10 MB": Fault(fixed(Reply(json=answer(BIG, [1]))), None, BIG),
    "HTTP/1.0 without a length": Fault(
        raw(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n", RECORD), None, WHOLE
    ),
    "HTTP/1.0 that breaks off": Fault(
        raw(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n", RECORD[:50]), errors.ProtocolError
    ),
    "content-length too long": Fault(raw(*headed(JSON_HEAD, RECORD, 10_000)), GONE),
    "content-length too short": Fault(raw(*headed(JSON_HEAD, RECORD, 20)), (errors.ProtocolError, GONE)),
    "chunk of a wrong length": Fault(
        after_a_moment(JSON_HEAD + b'transfer-encoding: chunked\r\n\r\n5\r\n{"tex\r\n', b"zz\r\n"), GONE
    ),
    "no HTTP at all": Fault(raw(b"SSH-2.0-OpenSSH_9.2\r\n"), GONE),
    "503": Fault(
        fixed(Reply(json={"error": {"message": "full"}}, status=503)), errors.ServerBusyError, "", "full"
    ),
    "error that breaks off": Fault(
        raw(*headed(b"HTTP/1.1 500 Oh\r\n", b"Intern", 100)), errors.NbruntimeError
    ),
}


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
def test_streamed(server: ScriptedServer, client: Blocking | Async, name: str) -> None:
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
def test_whole(server: ScriptedServer, client: Blocking | Async, name: str) -> None:
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
def test_what_nobody_waits_for_is_aborted(
    server: ScriptedServer, client: Blocking | Async, name: str
) -> None:
    server.on("/generate", STREAMED[name].reply)
    with impatient(client, name):
        client.read("x", rid="faulty")
    # The server has ended only what it said that it had.
    assert [asked.json for asked in server.to("/abort_request")] == [{"rid": "faulty"}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("streamed", [True, False])
def test_refused(server: ScriptedServer, kind: str, streamed: bool) -> None:
    with connected(kind, server.url) as client:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            client.client.settings.base_url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
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
def test_nobody_takes_the_connection(server: ScriptedServer, kind: str) -> None:
    with connected(kind, server.url, connect_timeout=0.3) as client, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        filling = [socket.socket() for _ in range(4)]
        for each in filling:  # fill the queue of connections that nobody accepts
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
def test_a_host_that_there_is_not(server: ScriptedServer, kind: str) -> None:
    with connected(kind, server.url) as client:
        client.client.settings.base_url = "http://no-such-host.invalid:30000"
        error = client.read("x").error
        assert isinstance(error, errors.ServerConnectionError)
        assert not error.sent
        note("unknown host", "streamed", client, error, "")


def test_the_clock_jumps(
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
def test_what_came_before_the_end_is_not_dropped(
    server: ScriptedServer, client: Blocking | Async, end: Any
) -> None:
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
def test_what_the_owner_knows_is_not_waited_for_in_the_loop(server: ScriptedServer, kind: str) -> None:
    with connected(kind, server.url) as client:
        threads = []
        client.client.settings.diagnose = lambda: threads.append(threading.current_thread())
        server.on("/generate", raw(RESET))
        assert isinstance(client.read("x").error, GONE)
        server.on("/generate", sse(*DATA[:2], RESET))
        assert isinstance(client.read("x").error, BROKEN)
    main = threading.main_thread()
    assert [thread is main for thread in threads] == [kind == "blocking"] * 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


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
