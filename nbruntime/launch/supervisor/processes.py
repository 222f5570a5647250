"""Processes that are told apart for good: by pid and start time."""

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
"""Environment variable that the whole tree of a server carries: its mark, which is the name of its folder."""

POLL = 0.05
"""Seconds between two looks at a process where nothing tells when it ends."""


class ProcessId(NamedTuple):
    """One process for good: a pid is given out again, a pid with its start time is not.

    Parameters
    ----------
    pid : int
        The process.
    start : str
        When it started; only good for comparing.
    """

    pid: int
    start: str


def identify(pid: int) -> ProcessId | None:
    """Tell a process apart from every later one with its pid.

    Parameters
    ----------
    pid : int
        Any process.

    Returns
    -------
    ProcessId or None
        None if there is no such process, or it only waits to be collected.

    Examples
    --------
    >>> identify(os.getpid()) == identify(os.getpid())
    True
    """
    entry = system.read_entry(pid)
    return None if entry is None or entry.ended else ProcessId(pid, entry.start)


def is_running(process: ProcessId | None) -> bool:
    """Whether this very process runs, and not just one with its pid.

    Examples
    --------
    >>> is_running(identify(os.getpid())), is_running(ProcessId(os.getpid(), "another time"))
    (True, False)
    """
    return process is not None and identify(process.pid) == process


def send(process: ProcessId, number: int) -> bool:
    """Send a signal to this very process.

    Parameters
    ----------
    process : ProcessId
        Who gets it; never another process that has its pid by now.
    number : int
        The signal.

    Returns
    -------
    bool
        Whether it ran, and was ours to signal.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        # Opened before the look, so that it cannot become another process between the look and the signal.
        with _watching(process.pid) as pidfd:
            if not is_running(process):
                return False
            if pidfd is None:
                os.kill(process.pid, number)
            else:
                signal.pidfd_send_signal(pidfd, number)
        return True
    return False


def wait_for_end(process: ProcessId, timeout: float | None = None) -> bool:
    """Wait until a process, of whosever, has ended.

    Parameters
    ----------
    process : ProcessId
        The process.
    timeout : float, optional
        Seconds to wait at most.

    Returns
    -------
    bool
        Whether it has ended.
    """
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
    """All descendants of processes that run, and the members of a session with theirs.

    Parameters
    ----------
    *pids : int
        The processes; they are not among them.
    session : int, optional
        A session whose members count as well.

    Returns
    -------
    list of int
        Pids.
    """
    table = system.read_processes()
    found = {*pids, *(one for one, entry in table.items() if session and entry.session == session)}
    grown = True
    while grown:
        more = {one for one, entry in table.items() if entry.parent in found} - found
        grown = bool(more)
        found |= more
    return [one for one in found.difference(pids) if one in table and not table[one].ended]


def tagged_pids(directory: str) -> Iterator[int]:
    """Find the processes of a server by their environment.

    Parameters
    ----------
    directory : str
        Folder of the server.

    Returns
    -------
    iterator of int
        Pids; none where an environment cannot be seen.
    """
    return system.pids_with(f"{ENV_TAG}={directory}")


def kill_orphans(directory: str, server: ProcessId | None) -> bool:
    """Kill what is left of a server whose supervisor was killed.

    Parameters
    ----------
    directory : str
        Folder of the server, which its tree carries as a mark in its environment.
    server : ProcessId or None
        The server, if it was started. Its session is looked through as well: a process may have cleared its
        environment, or written its title over it.

    Returns
    -------
    bool
        Whether anything was found.
    """
    left = set(tagged_pids(directory))
    if server is not None:
        leader = system.read_entry(server.pid)
        # A pid is not given out again while it names a session, so another process there has one of its own.
        if leader is None or leader.start == server.start:
            left.update({server.pid}, descendants(session=server.pid))
    found = False
    for pid in left:
        process = identify(pid)
        if process is not None and pid != os.getpid():
            found |= send(process, system.SIGKILL)
    return found
