"""A server that another process started and kept alive."""

from __future__ import annotations

import os
import threading

from nbruntime.launch import registry
from nbruntime.launch.server import ExitNotifier, Server
from nbruntime.launch.supervisor.processes import ProcessId, wait_for_end
from nbruntime.launch.supervisor.record import ServerRecord

__all__ = ["AttachedServer"]


class AttachedServer(Server):
    """A server that another process started; it ends when it is stopped, not with this object."""

    def __init__(self, record: ServerRecord) -> None:
        assert record.supervisor is not None
        assert record.server is not None
        super().__init__(record, _end_of(record.supervisor))
        self.pid = record.server.pid
        self.supervisor_pid = record.supervisor.pid
        self._register()

    @property
    def running(self) -> bool:
        """True until the supervisor ends, which ends with the server."""
        return not self.gone

    def exit_cause(self) -> str:
        """Return how the server ended; empty while it runs."""
        return "it ended, or another kernel has stopped it" if self.gone else ""

    def stop(self) -> None:
        """Stop the server; see `Server.stop`."""
        if self.is_owner and not self.gone:
            self._end.asked = True
            registry.end(self.record)
            self.wait_until_gone(registry.CLEAR_SECONDS)


_ends: dict[tuple[int, ProcessId], ExitNotifier] = globals().get("_ends", {})  # kept by a reload
"""Notifiers by this process's pid, since a fork has none of its threads, and by supervisor."""


def _end_of(supervisor: ProcessId) -> ExitNotifier:
    """Return the notifier of a supervisor's end; one thread waits, however many servers are attached."""
    key = os.getpid(), supervisor
    end = _ends.setdefault(key, new := ExitNotifier())
    if end is new:
        threading.Thread(target=_follow, args=(key, end), name="nbruntime-attached", daemon=True).start()
    return end


def _follow(key: tuple[int, ProcessId], end: ExitNotifier) -> None:
    wait_for_end(key[1])
    del _ends[key]
    end.notify()
