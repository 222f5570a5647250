"""The server's process tree: the server and all its descendants."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from . import system
from .processes import descendants

__all__ = ["ProcessTree"]


class ProcessTree:
    """A server in its own session, with all its descendants in any session.

    Takes and raises what `subprocess.Popen` does; `env` is the whole environment.
    """

    def __init__(
        self, argv: Sequence[str], cwd: str | None, env: Mapping[str, str], pass_fds: Sequence[int]
    ) -> None:
        # Kept: collected, it would reap the server behind our back.
        self._process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
            **system.server_session(),
        )
        self.exit_code: int | None = None  # of the server itself; None while it runs
        self.gone = False  # True when nothing is left

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    @property
    def output(self) -> BinaryIO:
        """Its stdout and stderr."""
        assert self._process.stdout is not None
        return self._process.stdout  # type: ignore[return-value]

    def collect(self) -> None:
        """Collect ended children: the server, and its orphaned descendants."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                # As a subreaper one has no descendants without a child.
                self.gone = system.subreaper() or not self._others()
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.exit_code = os.waitstatus_to_exitcode(status)

    def ask(self) -> None:
        """Send SIGTERM to the server, or to its remaining descendants once it has ended."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill every process."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.exit_code is None:  # until it is collected, its group id is not reused
                os.killpg(self.pid, number)
        if self.exit_code is not None or number == signal.SIGKILL:
            for pid in self._others():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)

    def _others(self) -> list[int]:
        return descendants(os.getpid(), session=self.pid)
