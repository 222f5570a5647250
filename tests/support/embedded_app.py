"""The embedded server's application in a thread of the test, without a model."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from nbruntime.embedded.arguments import ServerArguments
from nbruntime.embedded.http.app import make_app
from nbruntime.embedded.http.metrics import Metrics
from nbruntime.embedded.http.state import ServerState


class Answers(dict[str, int]):
    """The last status of each path with its query."""

    async def note(self, request: web.Request, response: web.StreamResponse) -> None:
        self[request.path_qs] = response.status


@contextmanager
def serving(arguments: ServerArguments, answers: Answers | None = None) -> Iterator[int]:
    """Run the application of a server that is still starting; gives its port."""
    loop = asyncio.new_event_loop()
    listener = socket.create_server(("127.0.0.1", 0))

    async def start() -> web.AppRunner:
        app = make_app(ServerState(arguments, Metrics("none")))
        if answers is not None:
            app.on_response_prepare.append(answers.note)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        return runner

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        runner = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        yield listener.getsockname()[1]
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
