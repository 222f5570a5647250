"""Requests that the engine works on, and the bodies of their answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from nbruntime.embedded.engine.request import Request, Update
from nbruntime.embedded.service.errors import bad_value, http_error
from nbruntime.embedded.service.generate_output import SequenceOutput
from nbruntime.embedded.text.tokenizer import Tokenizer

UpdateQueue = asyncio.Queue[tuple[int, Update]]
"""Updates with the index of their request."""


class Submission:
    """Requests in the engine, and their outputs; with `single` the answer is an object instead of a list."""

    def __init__(
        self,
        requests: list[Request],
        updates: UpdateQueue,
        *,
        weight_version: str,
        tokenizer: Tokenizer | None,
        single: bool,
        prompt_token_ids: bool,
    ) -> None:
        self._updates = updates
        self._single = single
        self._outputs = [
            SequenceOutput(request, weight_version, tokenizer, prompt_token_ids=prompt_token_ids)
            for request in requests
        ]

    async def collect(self) -> Any:
        """Wait for the end of all requests and give the body of the answer; ReplyError if one failed."""
        outputs = self._outputs
        for _ in outputs:
            number, update = await self._updates.get()
            outputs[number].add(update)
            _raise_if_failed(update.finish_reason)
        bodies = [output.embedding() if output.request.embedding else output.body() for output in outputs]
        return bodies[0] if self._single else bodies

    async def stream(self, *, incremental: bool) -> AsyncIterator[dict[str, Any]]:
        """Give bodies as updates come; waiting updates of a sequence are joined into one body.

        With `incremental`, a body holds only what is new since the last one of its sequence.
        """
        outputs, updates = self._outputs, self._updates
        unfinished = len(outputs)
        while unfinished:
            first, update = await updates.get()
            outputs[first].add(update)
            changed = {first: None}
            while not updates.empty():
                number, update = updates.get_nowait()
                outputs[number].add(update)
                changed[number] = None
            for number in changed:
                output = outputs[number]
                yield output.body(incremental=incremental, index=None if self._single else number)
                unfinished -= output.finish_reason is not None


def _raise_if_failed(reason: dict[str, Any] | None) -> None:
    """Raise the error of an abort that has a status."""
    if reason is None or reason["type"] != "abort" or reason["status_code"] is None:
        return
    if reason["status_code"] == 400:
        raise bad_value(reason["message"])
    raise http_error(reason["status_code"], reason["message"])
