"""The embedded server from start to stop: listen, load, answer, stop."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from nbruntime.embedded.arguments import ServerArguments
from nbruntime.embedded.http.app import make_app
from nbruntime.embedded.http.metrics import Metrics
from nbruntime.embedded.http.state import ServerState
from nbruntime.embedded.models import DEFAULT_MODEL
from nbruntime.embedded.service.loading import load_service
from nbruntime.embedded.service.service import Service
from nbruntime.errors import LaunchError, NbruntimeError, PortInUseError

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_GOODBYE_SECONDS = 1.0
"""Time to send running answers when the server stops."""


def announce(phase: str) -> None:
    """Print a phase for the launcher: ``phase: NAME [DONE/TOTAL UNIT]``."""
    print(f"phase: {phase}", flush=True)


def run(arguments: ServerArguments) -> int:
    """Run a server until a signal stops it; returns the exit code, 1 if the server could not start."""
    try:
        listener = _listen(arguments)
        return asyncio.run(_serve(arguments, listener))
    except NbruntimeError as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1


def _listen(arguments: ServerArguments) -> socket.socket:
    """Open the listening socket before loading, so that a taken port is reported early."""
    if arguments.fd is not None:
        try:
            listener = socket.socket(fileno=arguments.fd)
        except OSError as error:
            raise LaunchError(f"--fd {arguments.fd} is not an open socket: {error}") from error
    else:
        listener = _bind(arguments.host, arguments.port)
    listener.setblocking(False)
    return listener


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
            raise LaunchError(
                f"Cannot listen on {host}: {error.strerror}",
                hint="Give an address of this machine as --host.",
            ) from error
        raise PortInUseError(
            f"Cannot listen on {host}:{port}: {error.strerror}",
            hint="Give another --port; 0 takes a free one.",
        ) from error


async def _serve(arguments: ServerArguments, listener: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    state = ServerState(
        arguments, Metrics(arguments.served_model_name or arguments.model_path or DEFAULT_MODEL)
    )
    logging.getLogger("aiohttp.server").addFilter(_worth_a_traceback)
    runner = web.AppRunner(
        make_app(state), access_log=None, handler_cancellation=True, shutdown_timeout=_GOODBYE_SECONDS
    )
    await runner.setup()
    await web.SockSite(runner, listener, backlog=_BACKLOG).start()
    host, port = listener.getsockname()[:2]
    logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    def enter(phase: str) -> None:
        state.phase = phase
        announce(phase)

    loading = asyncio.create_task(
        asyncio.to_thread(
            load_service,
            arguments,
            enter,
            startup_seconds=state.startup_seconds,
            post=loop.call_soon_threadsafe,
            on_finished=state.metrics.finished,
            on_end=stop.set,
        )
    )
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            # The loading thread cannot be interrupted; the process frees everything it holds.
            os._exit(0)
        service = loading.result()
        state.open(service)
        announce("ready")
        await stopping
    finally:
        stopping.cancel()
        state.stopping = True
        if state.phase == "ready":
            await _stop_engine(loading.result())
        await runner.cleanup()
        state.admission.close()
    return 1 if service.engine.failed else 0


def _worth_a_traceback(record: logging.LogRecord) -> bool:
    """Keep malformed HTTP of clients out of the log: it is answered with 400."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError | web.RequestPayloadError):
        logger.debug("%s: %s", record.getMessage(), error)
        return False
    return True


async def _stop_engine(service: Service) -> None:
    await asyncio.to_thread(service.engine.stop)
    # One turn of the loop delivers the last updates, which were posted before the thread ended.
    await asyncio.sleep(0)
