"""Stands between a kernel and the server that it started, and ends the server when the kernel ends.

A program of its own, standard library only, run by its file name: ``python -I -S supervisor.py``. Its owner
starts it in a new session and writes one line of JSON to its stdin, the `Order`. It starts the server in a
further session, so that the SIGINT of a kernel's interrupt, which goes to the kernel's process group, reaches
neither of them.

It watches its owner in three ways at once, because each alone has a hole:

- the end of stdin, which does not come while a fork of the owner holds the pipe open;
- a change of its parent's pid, looked at every quarter of a second;
- a pidfd of the owner, which only Linux has.

When the owner is gone, asks for it with the line ``stop``, or the server ends by itself, the whole tree of
the server goes: SIGTERM to its process group, a grace period, SIGKILL to every descendant in any session.
On Linux the supervisor is a subreaper, so no descendant can slip out of the tree, and the server dies with it
should it be killed itself.

It writes events to stdout, one JSON object a line: ``started`` (pid), ``failed`` (error: the server could not
be executed), ``line`` (text: a line of the server's output that matches `Order.watch`), ``exited`` (code,
negative for a signal, as in `subprocess`) and ``gone`` (the tree is no more). It never waits for a reader.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

try:
    import ctypes
except ImportError:  # an interpreter built without libffi
    ctypes = None  # type: ignore[assignment]

__all__ = ["CappedLog", "Order", "Supervisor", "kill_marked", "process_table"]

MARK = "NBRUNTIME_SERVER"
"""Environment variable that the whole tree of a server carries: its mark, which is the name of its folder."""

OWNER_POLL = 0.25
"""Seconds between two looks at the parent's pid."""

TREE_POLL = 0.02
"""Seconds between two looks at a tree that is ending."""

LINE_LIMIT = 1 << 16
"""Bytes after which a line without an end is written all the same."""

TEXT_LIMIT = 600
"""Characters of a text in an event: the whole event must fit into one write to a pipe, or none of it."""


@dataclass
class Order:
    """What a supervisor is to do.

    Parameters
    ----------
    owner : int
        Pid of the process whose end is the server's end.
    argv : list of str
        The server's command.
    directory : str
        Folder of this server alone; removed with all that is in it when the tree is gone.
    log : str
        File that gets the server's output.
    cwd : str or None
        Working directory of the server.
    env : dict of str to str or None
        Additions to the inherited environment; None takes a variable away.
    secrets : list of str
        Texts that are masked in the log and in events.
    pass_fds : list of int
        Inherited file descriptors that the server gets.
    watch : str or None
        Regular expression; lines that it finds something in are reported as events.
    grace : float
        Seconds between SIGTERM and SIGKILL.
    log_limit : int
        Bytes that the log may take; beyond it, its middle is left out.
    """

    owner: int
    argv: list[str]
    directory: str
    log: str
    cwd: str | None = None
    env: dict[str, str | None] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    pass_fds: list[int] = field(default_factory=list)
    watch: str | None = None
    grace: float = 0.5
    log_limit: int = 8 << 20

    def to_line(self) -> bytes:
        """Write the order as the one line that goes to the supervisor's stdin.

        Examples
        --------
        >>> line = Order(owner=1, argv=["server"], directory="/run/x", log="/run/x/log").to_line()
        >>> Order(**json.loads(line)).argv
        ['server']
        """
        return json.dumps(asdict(self)).encode() + b"\n"


class CappedLog:
    """A log file that keeps its head and its tail and never grows beyond a limit.

    The file is shortened in place, so that a reader's open file stays good.

    Parameters
    ----------
    path : str
        The file; made if it is not there.
    limit : int
        Bytes at most. Beyond it an eighth is kept of the head, three eighths of the tail.
    """

    def __init__(self, path: str, limit: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._limit = limit

    def write(self, data: bytes) -> None:
        """Append, and shorten if need be. A full disk loses the log, not the server."""
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._fd, data) :]
            size = os.fstat(self._fd).st_size
            if size > self._limit:
                self._shorten(size)

    def _shorten(self, size: int) -> None:
        head = os.pread(self._fd, self._limit // 8, 0)
        head = head[: head.rfind(b"\n") + 1]
        tail = os.pread(self._fd, size, size - 3 * self._limit // 8)
        tail = tail[tail.find(b"\n") + 1 :]
        left_out = size - len(head) - len(tail)
        os.ftruncate(self._fd, len(head))
        os.write(self._fd, b"... %d bytes left out ...\n" % left_out + tail)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class Supervisor:
    """Starts one server and stays until its whole tree is gone.

    Parameters
    ----------
    order : Order
        What to start, and how.
    lifeline : int
        File descriptor whose end means that the owner is gone.
    events : int
        File descriptor that the events are written to.
    """

    def __init__(self, order: Order, lifeline: int, events: int) -> None:
        self._order = order
        self._lifeline = lifeline
        self._events = events
        self._watch = re.compile(order.watch) if order.watch else None
        self._secrets = [secret.encode() for secret in order.secrets if secret]
        self._selector = selectors.DefaultSelector()
        self._log = CappedLog(order.log, order.log_limit)
        self._line = b""
        self._server: int | None = None
        self._server_ended = False
        self._no_children = True
        self._deadline: float | None = None

    def run(self) -> None:
        """Start the server, watch, and return when nothing is left of it."""
        os.set_blocking(self._lifeline, False)
        os.set_blocking(self._events, False)
        self._watch_signals()
        self._selector.register(self._lifeline, selectors.EVENT_READ, self._read_lifeline)
        self._watch_owner()
        if self._deadline is None:
            self._start()
        while not self._no_children:
            self._step()
        self._drain()
        shutil.rmtree(self._order.directory, ignore_errors=True)
        self._tell("gone")

    def stop(self) -> None:
        """Begin to end the server's tree; called again it does nothing."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._order.grace
            self._signal_tree(signal.SIGTERM)

    def _start(self) -> None:
        environment = dict(os.environ)
        for name, value in self._order.env.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        environment[MARK] = self._order.directory
        become_subreaper()
        me = os.getpid()
        try:
            process = subprocess.Popen(
                self._order.argv,
                cwd=self._order.cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=self._order.pass_fds,
                start_new_session=True,
                preexec_fn=lambda: prepare_server(me),
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._tell("failed", error=str(error)[:TEXT_LIMIT])
            return
        finally:
            # The server's copy is the only one, so that its ports are free as soon as it is gone.
            for fd in self._order.pass_fds:
                os.close(fd)
        assert process.stdout is not None
        self._process = process  # kept: collected, it would reap the server behind our back
        self._server = process.pid
        self._no_children = False
        self._output: BinaryIO = process.stdout  # type: ignore[assignment]
        os.set_blocking(self._output.fileno(), False)
        self._selector.register(self._output, selectors.EVENT_READ, self._pump)
        self._tell("started", pid=process.pid)

    def _step(self) -> None:
        """Wait for the next thing to happen, at most until the next look at the owner or the tree."""
        wait = OWNER_POLL
        if self._deadline is not None:
            # While the server itself lives, its end is signalled; what it leaves behind is looked for.
            left = self._deadline - time.monotonic()
            if left > -1:  # else it was killed long ago and the operating system is not done with it
                wait = TREE_POLL if self._server_ended else min(OWNER_POLL, max(TREE_POLL, left))
        for key, _ in self._selector.select(wait):
            key.data()
        if os.getppid() != self._order.owner:
            self.stop()
        self._reap()
        if self._server_ended:
            self.stop()
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._signal_tree(signal.SIGKILL)

    def _reap(self) -> None:
        """Collect the ended children: the server, and on Linux what its ended descendants left to us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                # As a subreaper one has no descendants without a child.
                self._no_children = SUBREAPER or not self._others()
                return
            if pid == 0:
                return
            if pid == self._server:
                self._server_ended = True
                self._tell("exited", code=os.waitstatus_to_exitcode(status))
                self._signal_tree(signal.SIGTERM)  # what it has left, in other sessions, too

    def _signal_tree(self, number: signal.Signals) -> None:
        if self._server is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if not self._server_ended:  # until it is reaped, its group cannot be anybody else's
                os.killpg(self._server, number)
        if self._server_ended or number == signal.SIGKILL:
            for pid in self._others():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)

    def _others(self) -> list[int]:
        """All descendants that run, and the members of the server's session."""
        table = process_table()
        found = {os.getpid()}
        grown = True
        while grown:
            more = {pid for pid, entry in table.items() if entry.parent in found} - found
            grown = bool(more)
            found |= more
        found |= {pid for pid, entry in table.items() if entry.session == self._server}
        return [pid for pid in found - {os.getpid()} if pid in table and not table[pid].ended]

    def _watch_signals(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # The selector must wake for signals: their numbers are written to a pipe.
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        self._selector.register(read_end, selectors.EVENT_READ, lambda: os.read(read_end, 4096))

    def _watch_owner(self) -> None:
        if hasattr(os, "pidfd_open"):
            try:
                pidfd = os.pidfd_open(self._order.owner)
            except ProcessLookupError:
                return self.stop()
            except OSError:  # not in this kernel, or forbidden in this sandbox: two watches are left
                pass
            else:
                self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._owner_gone(pidfd))
        if os.getppid() != self._order.owner:  # it went before we looked
            self.stop()
        return None

    def _owner_gone(self, fd: int) -> None:
        self._selector.unregister(fd)
        self.stop()

    def _read_lifeline(self) -> None:
        try:
            words = os.read(self._lifeline, 4096)
        except BlockingIOError:
            return
        if not words:
            self._owner_gone(self._lifeline)
        elif b"stop" in words.split():
            self.stop()

    def _pump(self) -> bool:
        """Move what the server has written to the log; says whether there was anything."""
        try:
            data = os.read(self._output.fileno(), 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(self._output)
            self._write_lines(end=True)
            return False
        self._line += data
        self._write_lines()
        return True

    def _drain(self) -> None:
        if self._server is not None and self._output in self._selector.get_map():
            while self._pump():
                pass
            self._write_lines(end=True)
        self._log.close()

    def _write_lines(self, *, end: bool = False) -> None:
        # A progress bar ends its lines with a carriage return.
        cut = max(self._line.rfind(b"\n"), self._line.rfind(b"\r")) + 1
        if end or len(self._line) - cut > LINE_LIMIT:
            cut = len(self._line)
        if not cut:
            return
        whole, self._line = self._line[:cut], self._line[cut:]
        for secret in self._secrets:
            whole = whole.replace(secret, b"***")
        self._log.write(whole)
        if self._watch is not None:
            for line in re.split(r"[\r\n]+", whole.decode(errors="replace")):
                if self._watch.search(line):
                    self._tell("line", text=line[:TEXT_LIMIT])

    def _tell(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, **values}).encode() + b"\n"
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._events, line)


@dataclass(frozen=True)
class ProcessEntry:
    """One process of this machine.

    Parameters
    ----------
    parent : int
        Pid of its parent.
    session : int
        Its session.
    ended : bool
        Whether it has ended and only waits to be collected.
    """

    parent: int
    session: int
    ended: bool


def process_table() -> dict[int, ProcessEntry]:
    """Every process that can be seen, by pid.

    Returns
    -------
    dict of int to ProcessEntry
        From ``/proc``, or from ``ps`` where there is none.

    Examples
    --------
    >>> process_table()[os.getpid()].parent == os.getppid()
    True
    """
    table = {}
    if os.path.isdir("/proc/self"):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                    # The name in brackets may hold anything, brackets too.
                    state, parent, _, session = file.read().rpartition(b")")[2].split()[:4]
                    table[int(name)] = ProcessEntry(int(parent), int(session), state in b"ZX")
        return table
    listed = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,sess=,stat="], capture_output=True, text=True, check=True
    )
    for row in listed.stdout.splitlines():
        pid, ppid, sid, stat = row.split()[:4]
        table[int(pid)] = ProcessEntry(int(ppid), int(sid) if sid.isdigit() else 0, stat.startswith("Z"))
    return table


def kill_marked(directory: str) -> bool:
    """Kill what is left of a server whose supervisor was killed.

    Parameters
    ----------
    directory : str
        Folder of the server, which its whole tree carries as a mark in its environment.

    Returns
    -------
    bool
        Whether anything was found.
    """
    mark = f"{MARK}={directory}".encode()
    found = False
    for pid, entry in process_table().items():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            if not entry.ended and mark in file.read().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
                found = True
    return found


PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SUBREAPER = sys.platform == "linux" and ctypes is not None
"""Whether the descendants of an ended server become ours."""


def _load_prctl() -> Callable[[int, int], int] | None:
    return ctypes.CDLL(None, use_errno=True).prctl if SUBREAPER else None


def become_subreaper() -> None:
    """Take over descendants whose parent has ended, instead of init."""
    if prctl := _load_prctl():
        prctl(PR_SET_CHILD_SUBREAPER, 1)


def prepare_server(supervisor: int) -> None:
    """Run in the server's process before its program: default signals, and death with the supervisor.

    Parameters
    ----------
    supervisor : int
        Pid of the parent, to see whether it died before the kernel was told.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if prctl := _load_prctl():
        # Tied to the thread that forks; the supervisor has only one.
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(1)


def main() -> None:
    """Read the order from stdin and carry it out."""
    line = b""
    while not line.endswith(b"\n"):
        # No buffered reader: what follows the order belongs to the lifeline.
        byte = os.read(0, 1)
        if not byte:
            return  # the owner went before it had said what to do
        line += byte
    Supervisor(Order(**json.loads(line)), lifeline=0, events=1).run()


if __name__ == "__main__":
    main()
