"""Waiting until a server is ready: its process, its output and its socket together, without fixed sleeps."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nbruntime.errors import LaunchError, LaunchTimeoutError, ModelNotFoundError, PortInUseError
from nbruntime.launch.phases import FETCHING, Phase

if TYPE_CHECKING:
    from nbruntime.launch.engines.server_kind import ServerKind
    from nbruntime.launch.process import ServerProcess

__all__ = ["await_ready", "http_status", "launch_error"]

FETCHING_STALL = 120.0
"""Seconds without news after which a download or conversion counts against the time-out after all."""

_ERROR_LINE = re.compile(
    r"^(?:error: )?(?:[\w.]*\.)?(?P<error>\w*(?:Error|Exception|Exit)): .+|^(?:\S+: )?error: .+"
)
_PORT_TAKEN = re.compile("address already in use", re.IGNORECASE)


def await_ready(
    process: ServerProcess,
    kind: ServerKind,
    url: str,
    *,
    timeout: float,
    on_phase: Callable[[Phase], None],
) -> None:
    """Return as soon as a server takes requests; calls `on_phase` with every new phase.

    Raises
    ------
    LaunchError
        If the process ends, or takes longer than `timeout` seconds without downloading and converting.
    """
    phase = Phase("starting")
    before = last_news = time.monotonic()
    deadline = before + timeout
    next_probe = before + kind.probe_interval
    while True:
        line = process.next_line(max(0.0, min(next_probe, deadline) - time.monotonic()))
        now = time.monotonic()
        if phase.name in FETCHING and now - last_news <= FETCHING_STALL:
            deadline += now - before
        before = now
        if line is not None:
            news = kind.read_phase(line)
            last_news = last_news if news is None else now
            if news is not None and news != phase:
                phase = news
                if phase.name != "ready":  # only the socket tells that
                    on_phase(phase)
            if phase.name != "ready" and now < deadline:
                continue  # read all its lines first
        if process.poll() is not None:
            raise launch_error(process, kind, phase)
        if now >= deadline:
            raise LaunchTimeoutError(
                f"The {kind.name} server was not ready within {timeout:g} s",
                cause=f"its last phase was {str(phase)!r}",
                log_lines=process.log_lines(),
            )
        if phase.name == "ready" or now >= next_probe:
            if kind.is_ready(url, deadline - now):
                on_phase(Phase("ready"))
                return
            next_probe = time.monotonic() + (0.05 if phase.name == "ready" else kind.probe_interval)


def launch_error(process: ServerProcess, kind: ServerKind, phase: Phase) -> LaunchError:
    """Make the error for a server that ended in `phase`: a subclass where its log tells the reason."""
    process.wait(1.0)  # for the last lines of its log
    log_lines = process.log_lines()
    if process.stopped:
        return LaunchError(
            f"The {kind.name} server was stopped before it was ready, in the phase {str(phase)!r}",
            log_lines=log_lines,
            hint="nbruntime.stop, or a signal, has ended it: start it again. The end of its log is below.",
        )
    cause, hint = process.exit_cause(), None
    error_class: type[LaunchError] = LaunchError
    for number, line in reversed([*enumerate(log_lines, 1)]):
        if match := _ERROR_LINE.match(line.strip()):
            cause = f"{line.strip()} ({cause})"
            if match["error"] and line.startswith("error: "):  # of the embedded server: what to do follows
                hint = "\n".join(log_lines[number : number + 1]) or None
            if match["error"] == ModelNotFoundError.__name__:
                error_class = ModelNotFoundError
            break
    if any(_PORT_TAKEN.search(line) for line in log_lines):
        error_class = PortInUseError
    return error_class(
        f"The {kind.name} server ended before it was ready, in the phase {str(phase)!r}",
        cause=cause,
        log_lines=log_lines,
        hint=hint,
    )


def http_status(url: str, timeout: float) -> int | None:
    """Return the status of a GET request, sent without a proxy; None after `timeout` seconds."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout)
    try:
        connection.request("GET", address.path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
