"""Reading and stopping a stream that a view shows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Self

from nbruntime.errors import ArgumentTypeError, NbruntimeError
from nbruntime.generation import AsyncGenerationStream, Generation, GenerationStream
from nbruntime.generation.answer_html import Ending
from nbruntime.notebook.views.output_context import OutputContext
from nbruntime.protocol.deltas import Delta

STOP_PATIENCE = 1.0  # seconds for the end of a stopped stream, before its connection is closed


class StreamReader:
    """Reads a stream in the caller's thread or task, or in its own, while another thread draws it.

    A base class for views: they take the deltas, draw, and show whether the stream can be stopped.
    """

    def __init__(self, stream: GenerationStream | AsyncGenerationStream, *, interval: float) -> None:
        self.stream = stream
        self._interval = interval
        self._loop = asyncio.get_running_loop() if isinstance(stream, AsyncGenerationStream) else None
        self._waiting_loop: asyncio.AbstractEventLoop | None = None
        self._output_context = OutputContext()
        self._ending: Ending | None = None
        self._lock = threading.Lock()  # guards _started, the displayed outputs and the end
        self._started = False
        self._changed = threading.Event()
        self._over = threading.Event()
        self._done = threading.Event()

    @property
    def done(self) -> bool:
        """Whether the stream has ended and the view shows its static form."""
        return self._done.is_set()

    def run(self) -> Generation | list[Generation]:
        """Read the stream to its end in the calling thread, drawing meanwhile.

        Raises
        ------
        GenerationError
            If the stream fails; the text received so far stays in the view.
        KeyboardInterrupt
            On Kernel > Interrupt; the request is aborted on the server.
        """
        stream = self.stream
        if not isinstance(stream, GenerationStream):
            raise ArgumentTypeError(
                "This stream belongs to an event loop, which must not be held up",
                hint="Await view.show_async(), or view.run_async().",
            )
        if not self._claim():
            self._done.wait()
            return stream.result()
        with self._drawing(), stream:
            for delta in stream.deltas():
                self._add(delta)
                self._changed.set()
        return stream.result()

    async def run_async(self) -> Generation | list[Generation]:
        """Do as `run` does in the calling task; Kernel > Interrupt raises asyncio.CancelledError.

        A blocking stream is read in a thread.
        """
        stream = self.stream
        self._waiting_loop = asyncio.get_running_loop()
        if isinstance(stream, GenerationStream):
            return await self._run_in_thread()
        if not self._claim():
            while not self._done.is_set():
                await asyncio.sleep(self._interval)
            return await stream.result()
        with self._drawing():
            async with stream:
                async for delta in stream.deltas():
                    self._add(delta)
                    self._changed.set()
        return await stream.result()

    def start(self) -> Self:
        """Read the stream in its own thread or task, and return the view; it has a Stop button meanwhile."""
        if self._started:
            return self
        self._on_start()
        if self._loop is None:
            self._output_context.start_thread(self._read_alone, "nbruntime-read")
        else:
            self._task = self._loop.create_task(self._read_alone_async())
        return self

    def stop(self) -> None:
        """Stop the generation on the server, without waiting; text received so far stays."""
        if self._over.is_set():
            return
        self._ending = self._ending or "stopped"
        self._on_stop()
        stream = self.stream
        if isinstance(stream, GenerationStream):
            self._output_context.start_thread(self._stop_stream, "nbruntime-stop")
        elif stream.loop.is_closed():
            stream.leave_soon()
        else:
            stream.loop.call_soon_threadsafe(self._stop_async)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of a view that was started in a thread; return True if the stream has ended.

        Parameters
        ----------
        timeout : float, optional
            Maximum time in seconds.
        """
        return self._done.wait(timeout)

    def _claim(self) -> bool:
        """Claim the right to read the stream; False if another thread or task has it."""
        with self._lock:
            claimed, self._started = not self._started, True
        return claimed

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Draw in another thread, which shows the end even if the body raises."""
        drawer = None
        try:
            drawer = self._output_context.start_thread(self._draw_to_the_end, "nbruntime-draw")
            yield
        except (KeyboardInterrupt, asyncio.CancelledError):
            self._ending = self._ending or "interrupted"
            raise
        finally:
            self._over.set()
            self._changed.set()
            if drawer is not None:
                drawer.join()

    async def _run_in_thread(self) -> Generation | list[Generation]:
        # Its own thread: slow streams would occupy the few threads of asyncio.to_thread.
        result: Future[Generation | list[Generation]] = Future()

        def read() -> None:
            try:
                result.set_result(self.run())
            except BaseException as error:  # noqa: BLE001 - it is raised where the task waits
                result.set_exception(error)

        self._output_context.start_thread(read, "nbruntime-read")
        reading = asyncio.wrap_future(result)
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            self._ending = "interrupted"
            self.stop()
            reading.add_done_callback(lambda task: task.cancelled() or task.exception())
            raise

    def _read_alone(self) -> None:
        with suppress(NbruntimeError):  # the view shows it, and stream.error keeps it
            self.run()

    async def _read_alone_async(self) -> None:
        with suppress(NbruntimeError):
            await self.run_async()

    def _stop_stream(self) -> None:
        stream = self.stream
        assert isinstance(stream, GenerationStream)
        try:
            if self._started:
                with suppress(NbruntimeError):  # the server does not answer
                    stream.abort()
                    self._over.wait(STOP_PATIENCE)
        finally:
            stream.close()

    def _stop_async(self) -> None:
        assert isinstance(self.stream, AsyncGenerationStream)
        self._stopping = asyncio.ensure_future(self.stream.close())

    def _add(self, delta: Delta) -> None:
        """Take a delta; called by the thread that reads."""
        raise NotImplementedError

    def _draw_to_the_end(self) -> None:
        """Draw until the stream has ended, then show the end and set `_done`; runs in the drawing thread."""
        raise NotImplementedError

    def _on_start(self) -> None:
        """Show that the stream can be stopped."""

    def _on_stop(self) -> None:
        """Show that the stream is being stopped."""
