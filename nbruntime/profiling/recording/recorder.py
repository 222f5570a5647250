"""`Recorder`: records a profile of what a client does, from its start to its stop."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import Any

from nbruntime.endpoint import server_operations
from nbruntime.endpoint.base_client import BaseClient
from nbruntime.endpoint.cards import model_name
from nbruntime.endpoint.transport import Transport
from nbruntime.errors import ArgumentError, ArgumentTypeError, ArgumentValueError
from nbruntime.generation.outcome import error_line
from nbruntime.profiling.profile import Profile
from nbruntime.profiling.recording.request_notes import RequestNotes
from nbruntime.profiling.recording.server_samples import ServerSamples
from nbruntime.profiling.recording.server_trace import (
    SILENT_STOP_SECONDS,
    STOP_SECONDS,
    TRACE_SECONDS,
    ServerTrace,
)
from nbruntime.protocol.nearest_names import nearest_name
from nbruntime.protocol.profile import PROFILE_OPTIONS

SAMPLE_SECONDS = 5.0
"""Seconds to wait for the answer to a sample."""

AT_EXIT_SECONDS = 5.0
"""Seconds that the end of the program waits for the server's profiler to stop."""

OWN_OPTIONS = ("interval", "trace", "trace_seconds", "max_requests", "max_samples")
"""Options besides those of SGLang's profiler."""


class Recorder:
    """Records a `Profile`: a context manager, also for ``async with``, or `start` and `stop`.

    One thread of its own asks the server; it ends with the recording.

    Parameters
    ----------
    client : RuntimeEndpoint or AsyncRuntimeEndpoint
        Its requests are noted, and those of the clients beside it.
    interval, trace, trace_seconds, max_requests, max_samples, **options
        As in `RuntimeEndpoint.profile`.

    Attributes
    ----------
    profile : Profile
        Fills while it is recorded.
    """

    def __init__(
        self,
        client: BaseClient,
        *,
        interval: float = 0.5,
        trace: bool = False,
        trace_seconds: float = TRACE_SECONDS,
        max_requests: int = 20_000,
        max_samples: int = 20_000,
        **options: Any,
    ) -> None:
        _check_number("interval", interval, 0.01)
        _check_number("trace_seconds", trace_seconds, 0.1)
        _check_number("max_requests", max_requests, 1)
        _check_number("max_samples", max_samples, 2)
        _check_names(options)
        given = [name for name, value in options.items() if value is not None]
        if given and not trace:
            raise ArgumentValueError(
                f"{given[0]} is an option of a trace, and no trace was asked for",
                where=given[0],
                hint="Add trace=True, or leave it out.",
            )
        settings = client.settings
        self.profile = Profile(server=settings.base_url, model=_known_model(client.last_model_info))
        self._client = client
        self._max_requests = max_requests
        # A transport of its own: the user's requests do not wait for a connection, and it is closed here.
        self._transport = Transport(replace(settings, connect_timeout=SAMPLE_SECONDS))
        self._trace = ServerTrace(self._transport, self.profile, options, trace_seconds) if trace else None
        self._notes = RequestNotes(self.profile.requests, max_requests)
        self._samples = ServerSamples(
            self.profile, self._ask, interval=interval, most=max_samples, local=settings.local
        )
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._stopping = threading.Event()
        self._ready: Future[None] = Future()
        self._done: Future[None] = Future()

    @property
    def running(self) -> bool:
        """True from `start` until `stop` is called."""
        return self._thread is not None and not self._stopping.is_set()

    def start(self) -> Profile:
        """Start recording, and return the profile.

        Raises
        ------
        ServerFailureError
            If the server does not start its profiler, most often because it is running already.
        NbruntimeError
            If the server cannot be asked for a trace; without one, its silence is only noted.
        """
        thread = self._new_thread()
        try:
            thread.start()
            self._ready.result()
            return self.profile
        except BaseException:
            self._stopping.set()  # the thread stops the server's profiler
            raise

    def stop(self, error: BaseException | None = None) -> Profile:
        """Stop recording, and return the profile when it is complete; again, only return it.

        When it is interrupted, the server's profiler is stopped nevertheless, and the profile completed.

        Parameters
        ----------
        error : BaseException, optional
            What ended the profile.
        """
        try:
            if self._is_ours():
                self._begin_to_stop(error)
                self._done.result()
        except BaseException as interrupt:
            self._note_interrupt(interrupt)
            raise
        return self.profile

    def __enter__(self) -> Profile:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(error)

    async def __aenter__(self) -> Profile:
        thread = self._new_thread()
        try:
            thread.start()
            await asyncio.shield(asyncio.wrap_future(self._ready))
        except BaseException:
            self._stopping.set()
            raise
        return self.profile

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._is_ours():
                self._begin_to_stop(error)
                await asyncio.shield(asyncio.wrap_future(self._done))
        except BaseException as interrupt:
            self._note_interrupt(interrupt)
            raise

    def _new_thread(self) -> threading.Thread:
        if self._thread is not None:
            raise ArgumentError(
                "This profile was recorded already", hint="Call profile() again for a new one."
            )
        self._thread = threading.Thread(target=self._run, name="nbruntime-profile", daemon=True)
        return self._thread

    def _is_ours(self) -> bool:
        """Return False in a forked process, which has no thread that records."""
        if self._thread is None:
            raise ArgumentError("This profile was not started", hint="Call start() first.")
        return self._process == os.getpid()

    def _begin_to_stop(self, error: BaseException | None) -> None:
        """End the profile's time; the thread does the rest."""
        if not self._stopping.is_set():
            if error is not None:
                self.profile.error = self._error_line(error)
            self._end_notes()
            self._stopping.set()

    def _end_notes(self) -> None:
        """Note no further request; once more changes nothing."""
        self.profile.ended = self.profile.ended or time.time()
        self._client.observers.remove(self._notes)
        self._notes.close()

    def _note_interrupt(self, interrupt: BaseException) -> None:
        if self._thread is None:
            return
        self._stopping.set()
        self.profile.error = self.profile.error or self._error_line(interrupt)
        if not self._done.done():
            self.profile.notes.append(
                "The end of the profile was interrupted: its last steps and traces may be missing."
            )

    def _error_line(self, error: BaseException) -> str:
        return self._transport.settings.scrub(error_line(error))  # it is shown and saved

    def _at_exit(self) -> None:
        if self._thread is not None and self._process == os.getpid():
            self._stopping.set()
            self._thread.join(AT_EXIT_SECONDS)

    # In the recorder's own thread

    def _run(self) -> None:
        atexit.register(self._at_exit)
        try:
            self._record()
        except BaseException as error:  # noqa: BLE001 (start and stop raise it)
            (self._done if self._ready.done() else self._ready).set_exception(error)
        finally:
            self._client.observers.remove(self._notes)
            self._transport.close()
            atexit.unregister(self._at_exit)
            if not self._done.done():
                self._done.set_result(None)

    def _record(self) -> None:
        samples, trace = self._samples, self._trace
        if trace is not None:
            trace.start()
        try:
            samples.begin()
            self._client.observers.add(self._notes)
            self._ready.set_result(None)
            self._sample_until_stopped()
            self._end_notes()
            samples.end()
        finally:
            if trace is not None:
                trace.stop(patience=STOP_SECONDS if samples.answered else SILENT_STOP_SECONDS)
        if trace is not None:
            trace.find_files(samples.server_info)
        self._note_limits()

    def _sample_until_stopped(self) -> None:
        samples, trace = self._samples, self._trace
        due = time.monotonic() + samples.interval
        while not self._stopping.is_set():
            if time.monotonic() >= due:
                samples.sample()
                due = max(due + samples.interval, time.monotonic())
            wait = due - time.monotonic()
            if trace is not None:
                trace.stop_if_due()
                wait = min(wait, trace.due)
            self._stopping.wait(min(max(wait, 0.0), threading.TIMEOUT_MAX))

    def _note_limits(self) -> None:
        left_out = self._notes.left_out
        if left_out:
            self.profile.notes.append(
                f"More than {self._max_requests:,} requests were made, and {left_out:,} of them left out; "
                "max_requests=... keeps more."
            )

    def _ask(self, path: str) -> str:
        return self._transport.run(server_operations.read_text(path, SAMPLE_SECONDS))


def _known_model(info: Mapping[str, Any]) -> str:
    return model_name(info) if info else ""


def _check_names(options: Mapping[str, Any]) -> None:
    known = (*OWN_OPTIONS, *PROFILE_OPTIONS)
    for name in options:
        if name not in PROFILE_OPTIONS:
            meant = nearest_name(name, known)
            raise ArgumentTypeError(
                f"A profile has no option {name!r}",
                hint=f"Did you mean {meant!r}?" if meant else f"There are: {', '.join(known)}.",
            )


def _check_number(name: str, value: Any, least: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentTypeError(f"{name} is a {type(value).__name__}", where=name, hint="Give a number.")
    if not value >= least:
        raise ArgumentValueError(f"{name} is {value}", where=name, hint=f"Give {least:g} or more.")
