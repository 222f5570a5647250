"""The aiohttp sessions of one client: one for each event loop that uses it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import aiohttp

CLOSING_PATIENCE = 7.0
"""Seconds that closing a session waits for aborts that are under way."""

CONNECTIONS_PATIENCE = 1.0
"""Seconds that it waits for its connections; aiohttp 3.12 never sees the end of a tunnel without TLS."""


@dataclass
class LoopSession:
    """The session of one event loop, and the clean-up tasks that run in it."""

    session: aiohttp.ClientSession
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class LoopSessions(dict[asyncio.AbstractEventLoop, LoopSession]):
    """Sessions by event loop; a session can be closed from its own loop, from another, or after its loop."""

    def remove_closed_loops(self) -> None:
        """Close the sessions whose loops are closed."""
        for loop in [loop for loop in list(self) if loop.is_closed()]:
            self._close_at_once(loop)

    async def close_all(self) -> None:
        """Close every session; the running loop's after its clean-up tasks."""
        here = asyncio.get_running_loop()
        for loop in list(self):
            if loop.is_closed():
                self._close_at_once(loop)
            elif loop is not here:
                asyncio.run_coroutine_threadsafe(self._close(loop), loop)
        await self._close(here)

    def close_unused(self) -> None:
        """Close the sessions of a transport that was garbage-collected, whose clean-up tasks are done."""
        for loop in list(self):
            try:
                loop.call_soon_threadsafe(self._close_at_once, loop)
            except RuntimeError:  # the loop is closed
                self._close_at_once(loop)

    async def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop in self and self[loop].tasks:
            await asyncio.wait(self[loop].tasks, timeout=CLOSING_PATIENCE)
        if closed := self.pop(loop, None):
            with contextlib.suppress(TimeoutError):  # they are closed, and only not seen to end
                async with asyncio.timeout(CONNECTIONS_PATIENCE):
                    await closed.session.close()

    def _close_at_once(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close a session without waiting for its connections: the loop is ending or has ended."""
        if closed := self.pop(loop, None):
            closing = closed.session.close()
            with contextlib.suppress(StopIteration):
                closing.send(None)
            closing.close()
