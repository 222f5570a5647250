"""Processes identified by pid and start time."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

from . import system

__all__ = [
    "ENV_TAG",
    "ProcessId",
    "descendants",
    "identify",
    "is_running",
    "kill_orphans",
    "send",
    "tagged_pids",
    "wait_for_end",
]

ENV_TAG = "NBRUNTIME_SERVER"
"""Environment variable of every process of a server; its value is the server's folder."""

POLL = 0.05  # seconds between two checks of a process where there is no pidfd


class ProcessId(NamedTuple):
    """Identity of a process: a pid is reused, a pid with its start time is not."""

    pid: int
    start: str


def identify(pid: int) -> ProcessId | None:
    """Return the identity of a process; None if there is none with that pid, or it is a zombie."""
    entry = system.read_entry(pid)
    return None if entry is None or entry.ended else ProcessId(pid, entry.start)


def is_running(process: ProcessId | None) -> bool:
    """Return True if this process runs, not another one with its pid.

    Examples
    --------
    >>> is_running(identify(os.getpid())), is_running(ProcessId(os.getpid(), "another time"))
    (True, False)
    """
    return process is not None and identify(process.pid) == process


def send(process: ProcessId, number: int) -> bool:
    """Send a signal, never to another process with the same pid; False if it has ended or is not ours."""
    # Opened before the look, so that it cannot become another process between the look and the signal.
    with contextlib.suppress(ProcessLookupError, PermissionError), _watching(process.pid) as pidfd:
        if not is_running(process):
            return False
        if pidfd is None:
            os.kill(process.pid, number)
        else:
            signal.pidfd_send_signal(pidfd, number)
        return True
    return False


def wait_for_end(process: ProcessId, timeout: float | None = None) -> bool:
    """Wait until any process has ended, at most `timeout` seconds; returns whether it has."""
    deadline = None if timeout is None else time.monotonic() + timeout
    with contextlib.suppress(ProcessLookupError), _watching(process.pid) as pidfd:
        while is_running(process):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            if pidfd is None:
                time.sleep(POLL if left is None else min(POLL, left))
            else:
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                poll.poll(None if left is None else left * 1000)
    return True


@contextlib.contextmanager
def _watching(pid: int) -> Iterator[int | None]:
    pidfd = system.pidfd_of(pid)
    try:
        yield pidfd
    finally:
        if pidfd is not None:
            os.close(pidfd)


def descendants(*pids: int, session: int | None = None) -> list[int]:
    """Return the pids of all running descendants of processes, and of a session's members with theirs."""
    table = system.read_processes()
    more = {*pids, *(one for one, entry in table.items() if session and entry.session == session)}
    found = set(more)
    while more:
        more = {one for one, entry in table.items() if entry.parent in found} - found
        found |= more
    return [one for one in found.difference(pids) if one in table and not table[one].ended]


def tagged_pids(directory: str) -> Iterator[int]:
    """Find the processes of a server by its folder in their environment, where that can be read."""
    return system.pids_with(f"{ENV_TAG}={directory}")


def kill_orphans(directory: str, server: ProcessId | None) -> bool:
    """Kill what is left of a server whose supervisor was killed; returns whether any process was found."""
    left = set(tagged_pids(directory))
    if server is not None:  # its session is searched too: a process may have lost its environment
        leader = system.read_entry(server.pid)
        # A pid is not given out again while it names a session, so another process there has one of its own.
        if leader is None or leader.start == server.start:
            left.update({server.pid}, descendants(session=server.pid))
    found = False
    for pid in left - {os.getpid()}:
        if (process := identify(pid)) is not None:
            found |= send(process, signal.SIGKILL)
    return found
