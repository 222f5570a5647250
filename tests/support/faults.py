"""Faults of a server and of the network, each with the error and the text that a client must end with."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from nbruntime import errors
from support.scripted_server import CUT, RESET, Asked, Reply, Wait, answer, cumulative, dump, stream

WORDS = ["Grüße", " an", " die", " 世界"]
WHOLE = "".join(WORDS)
READ_TIMEOUT = 1.5
"""Read time-out in seconds of a client whose server stalls; what comes before that has to come in time."""

LONGEST = 15.0
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


@dataclass
class Fault:
    """What the server does, and what the client must raise and keep.

    Parameters
    ----------
    reply : callable
        Makes the answer to ``/generate``.
    error : type or None
        What the client raises; None when it gets everything.
    text : str
        Text that it has then.
    words : str
        Part of the error's message.
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
    """Let the client read the first piece before the others come."""

    def paused() -> Iterator[bytes]:
        yield pieces[0]
        time.sleep(1)
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
    "JSON of another service": Fault(
        sse(*DATA[:2], b'data: {"choices": []}\n\n'), BROKEN, "Grüße an", "not an event of /generate"
    ),
    "bytes that are not UTF-8": Fault(
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
