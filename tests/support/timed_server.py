"""A server whose answers have known times, as a process of its own: what a load test must measure.

Each answer brings its first token after ``first`` seconds, and then one every ``step`` seconds until
``max_new_tokens``. The server may be late itself, so ``/asked`` says when each token was ``written``, in
seconds after the request had come.

    with timed_server(first=0.05, step=0.02) as url: ...

Only the standard library: ``python timed_server.py '{"first": 0.05}'`` prints the URL and serves until its
stdin is closed.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Timing:
    """How a server answers."""

    first: float = 0.02  # seconds to the first token
    step: float = 0.01  # seconds between tokens
    fail_every: int = 0  # every n-th request gets status 500
    vocabulary: int = 50  # tokens that /tokenize knows
    key: str = ""  # the only key that it accepts


class Reader(asyncio.StreamReader):
    """Notes when bytes came: where many come at once, they are read later."""

    came = 0.0

    def feed_data(self, data: bytes) -> None:
        self.came = time.perf_counter()
        super().feed_data(data)


class Served:
    """The server's state, which ``/asked`` tells."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.asked: list[dict[str, Any]] = []
        self.aborted: list[str] = []
        self.flushed = 0
        self.running = 0

    async def handle(self, reader: Reader, writer: asyncio.StreamWriter) -> None:
        try:
            while (first := await reader.readline()).strip():
                length, key = 0, ""
                while (line := await reader.readline()).strip():
                    name, _, value = line.decode().partition(":")
                    if name.lower() == "content-length":
                        length = int(value)
                    if name.lower() == "authorization":
                        key = value.strip().removeprefix("Bearer ")
                body = await reader.readexactly(length)
                path = first.split()[1].decode().partition("?")[0]
                if self.timing.key and key != self.timing.key:
                    self.reply(writer, {"error": "Unauthorized"}, 401)
                    continue
                await self.answer(path, json.loads(body or b"{}"), writer, reader.came)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()

    async def answer(
        self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter, came: float
    ) -> None:
        match path:
            case "/generate":
                await self.generate(body, writer, came)
            case "/model_info":
                self.reply(writer, {"model_path": "timed", "is_generation": True})
            case "/tokenize":
                self.reply(writer, {"tokens": list(range(100, 100 + self.timing.vocabulary))})
            case "/v1/loads":
                self.reply(writer, {"loads": [{"num_running_reqs": self.running, "num_waiting_reqs": 0}]})
            case "/abort_request":
                self.aborted.append(body["rid"])
                self.reply(writer, {})
            case "/flush_cache":
                self.flushed += 1
                self.reply(writer, {})
            case "/asked":
                seen = {"asked": self.asked, "aborted": self.aborted, "running": self.running}
                self.reply(writer, {**seen, "flushed": self.flushed})
            case _:
                self.reply(writer, {"detail": "Not Found"}, 404)

    def reply(self, writer: asyncio.StreamWriter, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} .\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    async def generate(self, body: dict[str, Any], writer: asyncio.StreamWriter, began: float) -> None:
        timing = self.timing
        written: list[float] = []
        self.asked.append({**body, "written": written})
        if timing.fail_every and len(self.asked) % timing.fail_every == 0:
            self.reply(writer, {"error": {"message": "no memory"}}, 500)
            return
        count = body["sampling_params"].get("max_new_tokens", 16)
        prompt = len(body.get("input_ids") or body.get("text", "").split())
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        self.running += 1
        try:
            for number in range(1, count + 1):
                due = began + timing.first + (number - 1) * timing.step
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                if writer.is_closing():
                    return
                reason = {"type": "length", "length": count} if number == count else None
                meta = {"id": body.get("rid"), "finish_reason": reason, "prompt_tokens": prompt}
                meta |= {"completion_tokens": number, "cached_tokens": 0}
                written.append(time.perf_counter() - began)
                event = {"text": " x" * number, "output_ids": [1] * number, "meta_info": meta}
                self.chunk(writer, b"data: " + json.dumps(event).encode() + b"\n\n")
                await writer.drain()
            self.chunk(writer, b"data: [DONE]\n\n")
            writer.write(b"0\r\n\r\n")
        finally:
            self.running -= 1

    def chunk(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def serve(timing: Timing) -> None:
    served, loop = Served(timing), asyncio.get_running_loop()

    def protocol() -> asyncio.StreamReaderProtocol:
        reader = Reader()
        return asyncio.StreamReaderProtocol(reader, lambda _, writer: served.handle(reader, writer))

    server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=1024)
    async with server:
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        os._exit(0)  # answers may be under way


@contextmanager
def timed_server(**timing: Any) -> Iterator[str]:
    """Start the server, and yield its URL."""
    process = subprocess.Popen(
        [sys.executable, "-I", __file__, json.dumps(asdict(Timing(**timing)))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(serve(Timing(**json.loads(sys.argv[1]))))
