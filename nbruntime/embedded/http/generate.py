"""``/generate`` and ``/encode``."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from aiohttp import web

from nbruntime.embedded.clock import now
from nbruntime.embedded.http.bodies import read_object
from nbruntime.embedded.http.replies import json_reply, to_json
from nbruntime.embedded.http.state import state_of
from nbruntime.embedded.service.errors import ReplyError, bad_value
from nbruntime.embedded.service.generate_input import check_body
from nbruntime.protocol.sampling import SamplingParams

_DONE = b"data: [DONE]\n\n"


async def generate(request: web.Request) -> web.StreamResponse:
    """Serve ``/generate``: one answer, a list of answers, or a stream of events."""
    state = state_of(request)
    service = state.service
    received = now()
    body, params = await read_object(request, check_body)
    submitting = state.admission.submit(service, body, params, received)
    if not body.get("stream"):
        async with submitting as submission:
            return json_reply(await submission.collect())
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    async with AsyncExitStack() as stack:
        try:
            submission = await stack.enter_async_context(submitting)
        except ReplyError as error:
            # A wrong value is reported as an event: SGLang has begun its answer by then.
            await response.prepare(request)
            await response.write(_event({"error": _stream_error(error)}) + _DONE)
            return response
        await response.prepare(request)
        incremental = state.arguments.incremental_streaming_output
        async for answer in submission.stream(incremental=incremental):
            await response.write(_event(answer))
        await response.write(_DONE)
    return response


async def encode(request: web.Request) -> web.Response:
    """Serve ``/encode``: the embedding of each prompt."""
    state = state_of(request)
    service = state.service
    received = now()

    def check(body: dict[str, Any]) -> tuple[dict[str, Any], list[SamplingParams]]:
        if not state.arguments.is_embedding:
            raise bad_value(
                "This model does not appear to be an embedding model by default. "
                "Please add `--is-embedding` when launching the server or try another model."
            )
        asked = {name: body[name] for name in ("text", "input_ids", "rid") if name in body}
        return check_body(asked | {"sampling_params": {"max_new_tokens": 0}})

    body, params = await read_object(request, check)
    async with state.admission.submit(service, body, params, received) as submission:
        return json_reply(await submission.collect())


def _stream_error(error: ReplyError) -> dict[str, Any]:
    return {
        "message": error.message,
        "type": "invalid_request_error",
        "code": error.status,
        "retryable": error.status >= 500,
    }


def _event(value: Any) -> bytes:
    return f"data: {to_json(value)}\n\n".encode()
