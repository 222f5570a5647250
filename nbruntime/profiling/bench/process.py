"""Owns the client process of a load test: starts it, reads its reports, ends it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

import nbruntime.profiling.bench.client as client
from nbruntime.errors import NbruntimeError
from nbruntime.profiling.bench.plan import STOP, ClientPlan, Report

PROGRAM = str(Path(client.__file__).parent / "__main__.py")

STOP_SECONDS = 15.0
"""Seconds that the client may take to stop its requests and report them; then it is killed."""

LOOK_SECONDS = 0.2
"""Seconds between two looks at whether the client is to be killed."""

_decode = msgspec.json.Decoder(Report).decode


class ClientProcess:
    """A client process from `__enter__` to `__exit__`; it ends with this process, too.

    It has a session of its own, so an interrupt of the kernel does not reach it. The plan, with the server's
    key, goes through a pipe.
    """

    def __init__(self, plan: ClientPlan) -> None:
        self._plan = plan
        self._kill_at = float("inf")

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile()  # closed in __exit__
        path = [os.path.abspath(entry) for entry in sys.path]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", PROGRAM, json.dumps(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
                bufsize=0,
            )
        except BaseException:
            self._errors.close()
            raise
        self._tell(msgspec.json.encode(self._plan) + b"\n")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        if process.poll() is None and error is not None:
            process.kill()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        self._errors.close()

    def stop(self) -> None:
        """Stop the running requests; their reports still come."""
        if self._kill_at == float("inf"):
            self._kill_at = time.monotonic() + STOP_SECONDS
            self._tell(STOP)

    def kill(self) -> None:
        """End the process now."""
        self._process.kill()

    def reports(self) -> Iterator[Report | None]:
        """Yield the reports until the process has written its last; None at least every 0.2 s."""
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        readable = select.poll()
        readable.register(stdout, select.POLLIN)
        held = b""
        while True:
            if readable.poll(LOOK_SECONDS * 1000):
                piece = os.read(stdout, 2**18)
                if not piece:
                    return
                *lines, held = (held + piece).split(b"\n")
                yield from map(_decode, lines)
            if time.monotonic() > self._kill_at:
                self.kill()
            yield None

    def failure(self) -> NbruntimeError | None:
        """Return why the process ended, if it did not end by itself; call it after the last report."""
        code = self._process.wait(STOP_SECONDS)
        if code == 0:
            return None
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        # The last line names the error; lines before it may show the values of a request.
        reason = lines[-1] if lines else "it wrote no error"
        if self._plan.api_key:
            reason = reason.replace(self._plan.api_key, "***")
        ended = f"signal {-code}" if code < 0 else f"exit code {code}"
        return NbruntimeError(
            f"The client process of the load test ended with {ended}: {reason}",
            hint="What was measured until then is kept. Run the load test again.",
        )

    def _tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        view = memoryview(line)
        with contextlib.suppress(BrokenPipeError):  # it has ended; `failure` says why
            while view:
                view = view[self._process.stdin.write(view) :]
