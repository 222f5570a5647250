"""An interrupt closes the open streams, and the server stops generating."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from jupyter_client.manager import KernelManager
from support.scripted_server import Asked, Reply, ScriptedServer, Wait, cumulative, stream

from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint
from nbruntime.generation import interrupts

WORDS = ["Once", " upon", " a", " time"]
SOON = 3.0
"""Seconds within which the server gets the abort, also on a busy machine; it is printed what it took."""


def endless(asked: Asked) -> Reply:
    made = cumulative(WORDS, asked.json["rid"])
    return stream(*made[:2], Wait(), *made[2:])


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        running.on("/generate", endless)
        yield running


def left(server: ScriptedServer, since: float) -> float:
    """Wait until the server knows that the stream was left; give the seconds that it took."""
    asked = server.wait_for("/abort_request")
    assert server.gone.wait(10)
    assert asked[0].json == {"rid": "named"}
    return time.monotonic() - since


@contextlib.contextmanager
def handling(handler: Any) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_named_stream_is_closed_when_its_loop_is_interrupted(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    named = endpoint.stream("x", rid="named")

    def cell() -> None:
        for _ in named:
            interrupt()
            time.sleep(60)

    with handling(signal.default_int_handler):
        with pytest.raises(KeyboardInterrupt) as caught:
            cell()
        took = left(server, time.monotonic())
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert caught.value.__traceback__ is not None  # holds the frame, as sys.last_traceback does
    print(f"the server knew {took * 1000:.0f} ms later")
    assert took < SOON
    assert named.text.startswith("Once")
    assert named.result().text == named.text  # type: ignore[union-attr]
    assert named.error is None


def test_interrupt_closes_all_open_streams(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    streams = [endpoint.stream("x", rid=f"{n}") for n in range(3)]
    assert [next(each) for each in streams] == ["Once"] * 3
    with handling(signal.default_int_handler):
        for each in streams:
            next(each)
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert {asked.json["rid"] for asked in server.wait_for("/abort_request", 3)} == {"0", "1", "2"}


def test_previous_handler_is_restored(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    with handling(signal.default_int_handler):
        first, second = endpoint.stream("x"), endpoint.stream("y")
        ours = signal.getsignal(signal.SIGINT)
        assert isinstance(ours, interrupts._SigintHandler)
        first.close()
        assert signal.getsignal(signal.SIGINT) is ours
        del second  # collected
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        server.on("/generate", stream(*cumulative(WORDS)))
        assert list(endpoint.stream("x")) == WORDS
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handler_that_was_set_later_stays(endpoint: RuntimeEndpoint) -> None:
    def theirs(number: int, frame: FrameType | None) -> None:
        raise AssertionError

    with handling(signal.default_int_handler):
        running = endpoint.stream("x")
        signal.signal(signal.SIGINT, theirs)  # as ipykernel does between cells
        running.close()
        assert signal.getsignal(signal.SIGINT) is theirs


def test_handler_that_does_not_raise_keeps_streams_open(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    seen: list[int] = []
    with handling(lambda number, frame: seen.append(number)):
        running = endpoint.stream("x")
        assert next(running) == "Once"
        interrupt()
        assert seen == [signal.SIGINT]
        assert next(running) == " upon"
        assert server.to("/abort_request") == []
        running.close()


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_ignored_or_default_sigint_is_left_alone(endpoint: RuntimeEndpoint, handler: Any) -> None:
    with handling(handler):
        running = endpoint.stream("x")
        assert next(running) == "Once"
        assert signal.getsignal(signal.SIGINT) is handler
        running.close()


def test_streams_of_threads_are_not_interrupted(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    opened: list[Any] = []
    with handling(signal.default_int_handler):
        thread = threading.Thread(target=lambda: opened.append(endpoint.stream("x")))
        thread.start()
        thread.join()
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert next(opened[0]) == "Once"
    assert server.to("/abort_request") == []
    opened[0].close()


def test_stream_of_an_earlier_cell_survives_the_interrupt_of_a_later_one(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    with handling(signal.default_int_handler):
        running = endpoint.stream("x", rid="named")
    with handling(signal.default_int_handler), pytest.raises(KeyboardInterrupt):  # the next cell
        interrupt()
    assert next(running) == "Once"
    with handling(signal.default_int_handler):  # and one that reads it
        assert next(running) == " upon"
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    left(server, time.monotonic())


def test_within_asyncio_run(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    held: list[Any] = []

    async def main() -> None:
        held.append(endpoint.stream("x", rid="named"))
        for _ in held[0]:
            interrupt()
            await asyncio.sleep(60)

    with handling(signal.default_int_handler):
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
        assert left(server, time.monotonic()) < SOON
        held.clear()
        asyncio.run(asyncio.sleep(0))  # the next one is interrupted as ever
        with pytest.raises(KeyboardInterrupt):
            interrupt()


def test_around_asyncio_run(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    async def main() -> None:
        interrupt()
        await asyncio.sleep(60)

    with handling(signal.default_int_handler):
        running = endpoint.stream("x", rid="named")
        assert next(running) == "Once"
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
        assert left(server, time.monotonic()) < SOON
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_asynchronous_stream_within_asyncio_run(server: ScriptedServer) -> None:
    held: list[Any] = []

    async def main() -> None:
        async with AsyncRuntimeEndpoint(server.url) as client:
            held.append(await client.stream("x", rid="named"))
            async for _ in held[0]:
                interrupt()
                await asyncio.sleep(60)

    with handling(signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert left(server, time.monotonic()) < SOON


# In processes of their own

SCRIPT = """
import sys, time
from nbruntime import RuntimeEndpoint
endpoint = RuntimeEndpoint(sys.argv[1])
stream = endpoint.stream("x", rid="named")
try:
    for text in stream:
        if text == " upon":
            print("busy", flush=True)
            time.sleep(60)
except KeyboardInterrupt as error:
    sys.last_traceback = error.__traceback__
    print("interrupted", flush=True)
sys.stdin.readline()
print(repr(stream.text), flush=True)
"""


def test_in_a_script(server: ScriptedServer) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    process.send_signal(signal.SIGINT)
    since = time.monotonic()
    assert process.stdout.readline() == "interrupted\n"
    took = left(server, since)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "'Once upon'\n"
    assert process.wait(20) == 0
    print(f"the server knew {took * 1000:.0f} ms after the signal")
    assert took < SOON


# In a kernel


class Kernel:
    def __init__(self) -> None:
        self.manager = KernelManager()
        self.manager.start_kernel(env=os.environ | {"JPY_PARENT_PID": ""})
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def start(self, code: str) -> str:
        """Start a cell and wait until it has printed something."""
        self.run("pass")
        request: str = self.client.execute(textwrap.dedent(code))
        while True:
            message = self.client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != request:
                continue
            assert message["msg_type"] != "error", message["content"]["evalue"]
            if message["msg_type"] == "stream":
                return request

    def run(self, code: str) -> str:
        """Run a cell and give what it printed, or the name of its error."""
        printed: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        while True:
            reply = self.client.execute_interactive(textwrap.dedent(code), timeout=60, output_hook=hear)
            if reply["content"]["status"] != "aborted":  # what comes right after an error is refused
                break
        return "".join(printed) + str(reply["content"].get("ename", ""))

    def finish(self, request: str) -> None:
        """Wait for the end of a cell: what is sent before it would be dropped with it."""
        while self.client.get_shell_msg(timeout=60)["parent_header"].get("msg_id") != request:
            pass

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    running = Kernel()
    yield running
    running.close()


BLOCKING = """# blocking
named = endpoint.stream("x", rid="named")
for text in named:
    if text == " upon":
        print("busy", flush=True)
        time.sleep(60)
"""
MIXED = """# blocking, in an asynchronous cell
named = endpoint.stream("x", rid="named")
for text in named:
    if text == " upon":
        print("busy", flush=True)
        while True:
            await asyncio.sleep(0.01)
"""
ASYNCHRONOUS = """# asynchronous
client = AsyncRuntimeEndpoint(url)
named = await client.stream("x", rid="named")
async for text in named:
    if text == " upon":
        print("busy", flush=True)
        while True:
            await asyncio.sleep(0.01)
"""
WAITING = """# waiting for the next token
named = endpoint.stream("x", rid="named")
for text in named:
    if text == " upon":
        print("busy", flush=True)
"""


@pytest.mark.kernel
@pytest.mark.parametrize(
    "cell", [BLOCKING, MIXED, ASYNCHRONOUS, WAITING], ids=lambda cell: cell.splitlines()[0]
)
@pytest.mark.parametrize("order", ["kernel", "pid"])
def test_in_a_kernel(server: ScriptedServer, kernel: Kernel, cell: str, order: str) -> None:
    kernel.run(
        f"""
        import asyncio, signal, time
        from nbruntime import AsyncRuntimeEndpoint, RuntimeEndpoint
        url = {server.url!r}
        endpoint = RuntimeEndpoint(url)
        """
    )
    request = kernel.start(cell)
    interrupt_kernel: dict[str, Callable[[], None]] = {
        "kernel": kernel.manager.interrupt_kernel,
        "pid": lambda: os.kill(kernel.manager.provisioner.pid, signal.SIGINT),
    }
    since = time.monotonic()
    interrupt_kernel[order]()
    # A signal that comes just before a system call does not end the call, so it is sent until it has arrived.
    while not server.gone.wait(5):
        since = time.monotonic()
        interrupt_kernel[order]()
    took = left(server, since)
    kernel.finish(request)
    assert kernel.run("print(named.text)") == "Once upon\n"
    assert kernel.run("1 / 0") == "ZeroDivisionError"
    # The kernel's own handling of interrupts is as it was.
    request = kernel.start("print('busy', flush=True)\nwhile True: time.sleep(0.01)")
    kernel.manager.interrupt_kernel()
    kernel.finish(request)
    assert kernel.run("print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)") == "True\n"
    print(f"the server knew {took * 1000:.0f} ms after the interrupt")
    assert took < SOON
