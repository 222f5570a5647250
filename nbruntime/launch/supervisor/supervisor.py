"""The supervisor: watches one server and its owner until the server's process tree has ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from typing import Any

from . import system
from .capped_log import CappedLog
from .launch_spec import LaunchSpec
from .processes import ENV_TAG, identify
from .record import ServerRecord
from .tree import ProcessTree

__all__ = ["Supervisor"]

OWNER_POLL = 0.25  # seconds between two checks of the parent's pid
TREE_POLL = 0.02  # seconds between two checks of a tree that is ending
LINE_LIMIT = 1 << 16  # bytes after which a line without an end is written all the same
TEXT_LIMIT = 400  # bytes of a text in an event, which must fit into one write to a pipe of 512 bytes


class Supervisor:
    """Starts one server and runs until its whole process tree is gone.

    The file descriptor `lifeline` ends when the owner is gone; the events are written to `events`.
    """

    def __init__(self, spec: LaunchSpec, lifeline: int, events: int) -> None:
        self._spec = spec
        self._lifeline = system.Channel(lifeline)
        self._events = events
        self._watch = re.compile(spec.watch) if spec.watch else None
        self._secrets = [secret.encode() for secret in spec.secrets]
        self._selector = selectors.DefaultSelector()
        self._log = CappedLog(spec.log, spec.log_limit)
        self._record = ServerRecord.from_dict(spec.record) if spec.record else None
        self._unwritten: ServerRecord | None = None
        self._heard = b""  # the beginning of a line from the owner
        self._line = b""
        self._tree: ProcessTree | None = None
        self._exit_told = False
        self._terminated = False
        self._deadline: float | None = None

    def run(self) -> None:
        """Start the server and watch it; returns when its process tree is gone."""
        os.set_blocking(self._events, False)
        self._watch_signals()
        self._selector.register(self._lifeline, selectors.EVENT_READ, self._read_lifeline)
        self._note(supervisor=identify(os.getpid()))
        if self._spec.owner is not None:
            self._watch_owner(self._spec.owner)
        if self._deadline is None:
            self._start()
        while self._tree is not None and not self._tree.gone:
            self._step(self._tree)
        self._drain()
        shutil.rmtree(self._spec.directory, ignore_errors=True)
        self._tell("gone")

    def stop(self) -> None:
        """Begin to end the server's process tree; called again it does nothing."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._spec.grace
            self._note(state="stopping")
            if self._tree is not None:
                self._tree.ask()

    def _start(self) -> None:
        environment = dict(os.environ)
        for name, value in self._spec.env.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        environment[ENV_TAG] = self._spec.directory
        system.become_subreaper()
        try:
            tree = ProcessTree(self._spec.argv, self._spec.cwd, environment, self._spec.pass_fds)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            self._tell("failed", text=str(error).encode(errors="replace"))
            return
        finally:
            # The server's copy is the only one, so that its ports are free as soon as it is gone.
            for fd in self._spec.pass_fds:
                os.close(fd)
        self._tree = tree
        self._output = system.Channel(tree.output.fileno())
        self._selector.register(self._output, selectors.EVENT_READ, self._pump)
        self._note(server=identify(tree.pid))
        self._tell("started", pid=tree.pid)

    def _step(self, tree: ProcessTree) -> None:
        """Wait for the next event, at most until the next check of the owner or the tree."""
        wait = OWNER_POLL
        if self._deadline is not None:
            # The server's own end is signalled; its descendants must be looked for.
            left = self._deadline - time.monotonic()
            if left > -1:  # else it was killed long ago and the operating system is not done with it
                wait = TREE_POLL if self._exit_told else min(OWNER_POLL, max(TREE_POLL, left))
        for key, _ in self._selector.select(wait):
            key.data()
        if self._unwritten is not None:
            self._write_record(self._unwritten)
        if self._terminated and self._deadline is None:  # neither the owner nor the server wanted it
            self._tell("stopping")
            self.stop()
        if self._spec.owner is not None and os.getppid() != self._spec.owner:
            self.stop()
        tree.collect()
        if tree.exit_code is not None and not self._exit_told:
            self._exit_told = True
            self._tell("exited", code=tree.exit_code)
            if self._deadline is None:
                self.stop()
            else:
                tree.ask()  # its descendants, in other sessions too
        if self._deadline is not None and time.monotonic() > self._deadline:
            tree.kill()

    def _watch_signals(self) -> None:
        for ignored in (signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        # The selector must wake for signals: their numbers are written to what it waits for.
        wakeup, empty = system.set_wakeup()
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._note_sigterm)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the owner's thread may have blocked some
        self._selector.register(wakeup, selectors.EVENT_READ, empty)

    def _note_sigterm(self, *_: object) -> None:
        # Only that: a handler may come in the middle of a record that is being written.
        self._terminated = True

    def _watch_owner(self, owner: int) -> None:
        try:
            pidfd = system.pidfd_of(owner)
        except ProcessLookupError:
            return self.stop()
        if pidfd is not None:
            self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._owner_gone(pidfd))
        if os.getppid() != owner:  # it went before we looked
            self.stop()
        return None

    def _owner_gone(self, watched: int | system.Channel) -> None:
        self._selector.unregister(watched)
        if self._spec.owner is not None:
            self.stop()

    def _read_lifeline(self) -> None:
        data = self._lifeline.read(4096)
        if data is None:
            return
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            word, _, model = line.decode().partition(" ")
            if word == "ready" and self._deadline is None:
                self._note(state="ready", model=model)
                self._tell("ready")
            if word == "stop":
                self.stop()
        if not data:
            self._owner_gone(self._lifeline)

    def _note(self, **changes: Any) -> None:
        """Update the record."""
        if self._record is not None:
            self._record = replace(self._record, **changes)
            self._write_record(self._record)

    def _write_record(self, record: ServerRecord) -> None:
        """Write the record; on a full disk retry later, or other kernels take the server for lost."""
        self._unwritten = record
        with contextlib.suppress(OSError):
            record.write()
            self._unwritten = None

    def _pump(self) -> bool:
        """Move the server's output to the log; False if there was none."""
        data = self._output.read(1 << 16)
        if data:
            self._line += data
            self._write_lines()
        elif data is not None:
            self._selector.unregister(self._output)
            self._write_lines(end=True)
        return bool(data)

    def _drain(self) -> None:
        if self._tree is not None and self._output in self._selector.get_map():
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
        self._log.write(self._masked(whole))
        if self._watch is not None:
            for line in re.split(rb"[\r\n]+", whole):
                if self._watch.search(line.decode(errors="replace")):
                    self._tell("line", text=line)

    def _masked(self, text: bytes) -> bytes:
        for secret in self._secrets:
            text = text.replace(secret, b"***")
        return text

    def _tell(self, event: str, *, text: bytes | None = None, **values: Any) -> None:
        if text is not None:
            values["text"] = _shortened(self._masked(text).decode(errors="replace"))
        line = json.dumps({"event": event, **values}).encode() + b"\n"
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._events, line)


def _shortened(text: str) -> str:
    """Cut a text so that its JSON has at most `TEXT_LIMIT` bytes."""
    text = text[:TEXT_LIMIT]
    while len(json.dumps(text)) > TEXT_LIMIT:  # a character may take 12 bytes
        text = text[:-10]
    return text
