"""A small HTTP server that sends scripted answers and records its requests.

Standard library only. Streams are sent piece by piece, with a wait for an event wherever a test needs to
look in between, so that no test sleeps.

    with ScriptedServer() as server:
        server.on("/generate", Reply(json={"text": "hi", ...}))
        endpoint = RuntimeEndpoint(server.url)
"""

from __future__ import annotations

import json
import os
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Self

WORDS = ["Once", " upon", " a", " time"]
KEY = "sk-very-secret-1234"

WAIT = 20.0
"""Seconds that a scripted wait lasts at most, so that a broken test ends."""

MODEL_INFO = {
    "model_path": "scripted-model",
    "served_model_name": "scripted-model",
    "tokenizer_path": "/nowhere/scripted-model",
    "is_generation": True,
    "preferred_sampling_params": None,
}


@dataclass
class Asked:
    """One request that the server received."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw) if self.raw else None


class Wait:
    """A place in a stream where the server waits until the test says go, or the client is gone."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()


CUT = object()
"""In a stream: close the connection here."""

RESET = object()
"""In a stream: reset the connection here."""


@dataclass
class Reply:
    """One answer.

    Parameters
    ----------
    json : object
        Body, written as JSON.
    body : bytes
        Body as it is, instead.
    pieces : iterable
        Body of a stream, instead: bytes, each sent as a chunk of its own; `Wait`; `CUT`; or `RESET`.
    status, headers
        Head of the answer.
    chunked : bool
        Whether a stream is sent in chunks; otherwise it ends with the connection.
    raw : bool
        Whether `pieces` are all that is sent, head of the answer included.
    """

    json: Any = None
    body: bytes | None = None
    pieces: Iterable[Any] | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    chunked: bool = True
    raw: bool = False


def stream(*pieces: Any, done: bool = True, **options: Any) -> Reply:
    """Make a reply that streams: dicts become events, the rest stays as it is."""
    made = [b"data: " + dump(piece) + b"\n\n" if isinstance(piece, dict) else piece for piece in pieces]
    if done:
        made.append(b"data: [DONE]\n\n")
    return Reply(pieces=made, headers={"content-type": "text/event-stream; charset=utf-8"}, **options)


def dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def answer(text: str, ids: list[int] | None = None, **meta: Any) -> dict[str, Any]:
    """Make an answer of `/generate`."""
    ids = list(range(100, 100 + len(text.split()))) if ids is None else ids
    info = {
        "id": "scripted",
        "finish_reason": {"type": "stop", "matched": 2},
        "prompt_tokens": 5,
        "completion_tokens": len(ids),
        "cached_tokens": 0,
        "e2e_latency": 0.01,
    }
    return {"text": text, "output_ids": ids, "meta_info": {**info, **meta}}


def cumulative(words: list[str], rid: str = "scripted", **meta: Any) -> list[dict[str, Any]]:
    """Make the events of a cumulative stream, one per word."""
    events = []
    for n in range(1, len(words) + 1):
        reason = {"type": "length", "length": n} if n == len(words) else None
        ids = list(range(100, 100 + n))
        events.append(answer("".join(words[:n]), ids, id=rid, finish_reason=reason, **meta))
    return events


def events(rid: str = "scripted", **meta: Any) -> list[dict[str, Any]]:
    """Make the events of a cumulative stream of `WORDS`."""
    return cumulative(WORDS, rid, **meta)


Handler = Callable[[Asked], Reply]


def endless(wait: Wait | None = None, words: int = 2) -> Handler:
    """Make a stream of `WORDS` that stops in its middle until the test says go, or the client is gone."""
    place = wait or Wait()

    def reply(asked: Asked) -> Reply:
        made = events(asked.json["rid"])
        return stream(*made[:words], place, *made[words:])

    return reply


class ScriptedServer:
    """Listens on a free port of this machine from `__enter__` to `__exit__`.

    Attributes
    ----------
    asked : list of Asked
        The requests so far.
    gone : threading.Event
        Set when a client has closed a connection while it was being answered.
    connections : int
        Connections that were accepted.
    closed : int
        Connections that the server has closed.
    """

    def __init__(self, *, api_key: str | None = None, certificate: tuple[str, str] | None = None) -> None:
        self.api_key = api_key
        self.asked: list[Asked] = []
        self.gone = threading.Event()
        self.connections = 0
        self.closed = 0
        self._handlers: dict[str, Handler] = {}
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self.on("/model_info", Reply(json=MODEL_INFO))
        self.on("/server_info", Reply(json={"version": "0.5.23", **MODEL_INFO, "tp_size": 1}))
        self.on("/flush_cache", Reply(body=b"Cache flushed.\n"))
        self.on("/abort_request", Reply(body=b""))
        self.on("/health", Reply(body=b""))
        handler = type("BoundHandler", (_Handler,), {"script": self})
        self._server = _Listener(("127.0.0.1", 0), handler)
        self._server.script = self
        scheme = "http"
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.port = self._server.server_address[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def on(self, path: str, reply: Reply | Handler) -> None:
        """Set the answer of a route: a reply, or a function that makes one."""
        self._handlers[path] = reply if callable(reply) else lambda _: reply

    def forget(self, path: str) -> None:
        """Make a route answer 404."""
        self._handlers.pop(path, None)

    def to(self, path: str) -> list[Asked]:
        """Return the requests to one route."""
        with self._lock:
            return [asked for asked in self.asked if asked.path.partition("?")[0] == path]

    def wait_for(self, path: str, count: int = 1) -> list[Asked]:
        """Wait until a route has received `count` requests, and return them."""

        def there() -> bool:
            return sum(asked.path.partition("?")[0] == path for asked in self.asked) >= count

        with self._arrived:
            assert self._arrived.wait_for(there, WAIT), f"{path} did not receive {count} requests"
        return self.to(path)

    def wait_for_closed(self, count: int) -> None:
        """Wait until the server has closed `count` connections."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: self.closed >= count, WAIT), (
                "the server did not close its connections"
            )

    def note_closed(self) -> None:
        with self._arrived:
            self.closed += 1
            self._arrived.notify_all()

    def respond(self, asked: Asked) -> Reply:
        with self._arrived:
            self.asked.append(asked)
            self._arrived.notify_all()
        path = asked.path.partition("?")[0]
        if self.api_key and not path.startswith("/health"):
            given = {name.lower(): value for name, value in asked.headers.items()}.get("authorization", "")
            if given != f"Bearer {self.api_key}":
                return Reply(json={"error": "Unauthorized"}, status=401)
        handler = self._handlers.get(path)
        return Reply(json={"detail": "Not Found"}, status=404) if handler is None else handler(asked)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(WAIT)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 2048
    script: ScriptedServer

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.script.note_closed()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: tests disconnect clients on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    script: ClassVar[ScriptedServer]

    def setup(self) -> None:
        super().setup()
        self.script.connections += 1

    def handle_one(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        asked = Asked(self.command, self.path, dict(self.headers.items()), self.rfile.read(length))
        reply = self.script.respond(asked)
        try:
            self.send(reply)
        except (ConnectionError, ssl.SSLError):
            self.script.gone.set()
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_CONNECT = handle_one

    def send(self, reply: Reply) -> None:
        if reply.raw:
            self.send_pieces(reply.pieces or (), chunked=False)
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.pieces is not None:
            self.send_stream(reply)
            return
        body = reply.body
        if body is None:
            body = dump(reply.json)
            self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_stream(self, reply: Reply) -> None:
        self.send_header("transfer-encoding", "chunked") if reply.chunked else self.send_header(
            "connection", "close"
        )
        self.end_headers()
        self.send_pieces(reply.pieces or (), chunked=reply.chunked)
        if not reply.chunked:
            self.close_connection = True

    def send_pieces(self, pieces: Iterable[Any], *, chunked: bool) -> None:
        for piece in pieces:
            if piece is CUT or piece is RESET:
                if piece is RESET:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    os.close(self.connection.detach())
                else:
                    self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if isinstance(piece, Wait):
                self.pause(piece)
                continue
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            self.wfile.flush()
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def pause(self, wait: Wait) -> None:
        """Wait for the test; notice when the client goes away meanwhile."""
        wait.reached.set()
        for _ in range(int(WAIT / 0.01)):
            if wait.go.wait(0.01):
                return
            if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(
                1, socket.MSG_PEEK
            ):
                raise ConnectionResetError
        raise AssertionError("the test never said go")

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""
