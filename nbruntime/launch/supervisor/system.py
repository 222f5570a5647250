"""What the supervisor asks of Linux: sessions, death signals, pidfds, ``/proc`` and file locks."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

try:
    import ctypes
except ImportError:  # an interpreter built without libffi
    ctypes = None  # type: ignore[assignment]

__all__ = [
    "Channel",
    "ProcessEntry",
    "become_subreaper",
    "exclusive",
    "machine",
    "pidfd_of",
    "pids_with",
    "read_entry",
    "read_processes",
    "server_session",
    "set_wakeup",
    "subreaper",
]

# Starting


_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def server_session() -> dict[str, Any]:
    """Return options of `subprocess.Popen` for the server: a session, default signals, death signal."""
    me = os.getpid()
    return {"start_new_session": True, "preexec_fn": lambda: _prepare_server(me)}


def _prepare_server(supervisor: int) -> None:
    """Set default signals and death with the supervisor, in the server's process before its program."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if prctl := _load_prctl():
        # Tied to the thread that forks; the supervisor has only one.
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:  # it died before the kernel was told
            os._exit(1)


def subreaper() -> bool:
    """Return True if the supervisor becomes the parent of the server's orphaned descendants; needs ctypes."""
    return ctypes is not None


def become_subreaper() -> None:
    """Become the parent of orphaned descendants, instead of init."""
    if prctl := _load_prctl():
        prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _load_prctl() -> Callable[[int, int], int] | None:
    return ctypes.CDLL(None, use_errno=True).prctl if subreaper() else None


# Watching


def pidfd_of(pid: int) -> int | None:
    """Open a descriptor that becomes readable when a process ends; None where pidfds are not supported.

    Raises ProcessLookupError if there is no such process.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (OSError, AttributeError):  # a sandbox, or an interpreter without it
        return None


def set_wakeup() -> tuple[int, Callable[[], object]]:
    """Let signals wake a selector; returns the descriptor to wait for, and a function that empties it."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    return read_end, lambda: os.read(read_end, 4096)


class Channel:
    """The reading end of a pipe that a selector can wait for."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)

    def fileno(self) -> int:
        """Return the descriptor for the selector."""
        return self._fd

    def read(self, size: int) -> bytes | None:
        """Read available data: None if there is none yet, ``b""`` at the end."""
        try:
            return os.read(self._fd, size)
        except BlockingIOError:
            return None


# Processes


@dataclass(frozen=True)
class ProcessEntry:
    """One process; `ended` is for zombies, and the pid with the `start` time identifies it."""

    parent: int
    session: int
    ended: bool
    start: str


def read_entry(pid: int) -> ProcessEntry | None:
    """Look up one process; None if it is not there, or not visible."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in brackets may hold anything, brackets too.
            field = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    # Ticks since the machine was booted, so the boot has to be named as well.
    return ProcessEntry(int(field[1]), int(field[3]), field[0] in b"ZX", f"{field[19].decode()}@{_boot()}")


def read_processes() -> dict[int, ProcessEntry]:
    """Return all visible processes by pid."""
    return {pid: entry for pid in _pids() if (entry := read_entry(pid)) is not None}


def _pids() -> Iterator[int]:
    return map(int, filter(str.isdigit, os.listdir("/proc")))


@functools.cache
def _boot() -> str:
    """Return an id of this boot of the machine; empty if there is none."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read(8)
    return ""


def pids_with(setting: str) -> Iterator[int]:
    """Yield the processes that have ``NAME=value`` in their environment, where that can be read."""
    wanted = setting.encode()
    for pid in _pids():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            if wanted in file.read().split(b"\0"):
                yield pid


def machine() -> str:
    """Return an id of this boot of the machine or container, in which pids are valid; hostnames change."""
    name = _boot() or socket.gethostname()
    with contextlib.suppress(OSError):
        return f"{name} {os.readlink('/proc/self/ns/pid')}"
    return name


# Files


@contextlib.contextmanager
def exclusive(path: str) -> Iterator[None]:
    """Hold a file lock that excludes other processes and threads of this user; the file is made if needed."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # By name: a fork that happened meanwhile has the file open as well.
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)
