"""``/generate`` and ``/encode``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from nbruntime.embedded.clock import now
from nbruntime.embedded.engine.request import Request, Update
from nbruntime.embedded.http.answers import Answer
from nbruntime.embedded.http.bodies import read_object
from nbruntime.embedded.http.generate_call import Call, Item, check_body, read_call
from nbruntime.embedded.http.replies import ReplyError, bad_value, http_error, json_reply, to_json
from nbruntime.embedded.http.state import ServerState, Service, state_of
from nbruntime.embedded.sampling.grammar import GrammarMatcher
from nbruntime.embedded.sampling.logprobs import LogprobRequest
from nbruntime.embedded.sampling.sampler import SamplingState
from nbruntime.embedded.text.stream import TextStream
from nbruntime.protocol.sampling import SamplingParams

_LONG_TEXT = 4_000
"""Characters from which a prompt is tokenized in another thread, so that streams go on meanwhile."""

Mailbox = asyncio.Queue[tuple[int, Update]]


async def generate(request: web.Request) -> web.StreamResponse:
    """Serve ``/generate``: one answer, a list of answers, or a stream of events."""
    state = state_of(request)
    service = state.service
    received = now()
    body = await read_object(request)
    params = check_body(body)
    if not body.get("stream"):
        call, requests, mailbox = await _prepare(state, service, body, params, received)
        return json_reply(await _collect(state, call, requests, mailbox))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    try:
        call, requests, mailbox = await _prepare(state, service, body, params, received)
    except ReplyError as error:
        # What is wrong with the request's values is an event: SGLang has begun its answer by then.
        await response.prepare(request)
        await response.write(_event({"error": _stream_error(error)}) + _DONE)
        return response
    async with _submitted(state, requests):
        await response.prepare(request)
        async for event in _events(state, call, requests, mailbox):
            await response.write(event)
        await response.write(_DONE)
    return response


async def encode(request: web.Request) -> web.Response:
    """Serve ``/encode``: the embedding of each prompt."""
    state = state_of(request)
    service = state.service
    received = now()
    body = await read_object(request)
    if not state.arguments.is_embedding:
        raise bad_value(
            "This model does not appear to be an embedding model by default. "
            "Please add `--is-embedding` when launching the server or try another model."
        )
    body = {name: body[name] for name in ("text", "input_ids", "rid") if name in body}
    params = check_body(body | {"sampling_params": {"max_new_tokens": 0}})
    call, requests, mailbox = await _prepare(state, service, body, params, received)
    return json_reply(await _collect(state, call, requests, mailbox))


async def _prepare(
    state: ServerState, service: Service, body: dict[str, Any], params: list[SamplingParams], received: float
) -> tuple[Call, list[Request], Mailbox]:
    """Read a body and make its requests, which are not submitted yet."""
    call = read_call(body, params, most=service.most_sequences)
    mailbox: Mailbox = asyncio.Queue()
    long = sum(len(item.text or "") for item in call.items) > _LONG_TEXT
    if long or any(item.params.grammar for item in call.items):
        requests = await asyncio.to_thread(
            _make_requests, state, service, call, mailbox, bool(body.get("stream"))
        )
    else:
        requests = _make_requests(state, service, call, mailbox, bool(body.get("stream")))
    for request in requests:
        request.times.received = received
        request.times.dispatched = now()
    doubled = next((each.rid for each in requests if each.rid in state.active), None)
    if doubled is not None:
        raise bad_value(f"Duplicate request ID detected: {doubled}")
    return call, requests, mailbox


def _make_requests(
    state: ServerState, service: Service, call: Call, mailbox: Mailbox, streaming: bool
) -> list[Request]:
    group = object()
    known: dict[str, list[int]] = {}
    requests = []
    for number, item in enumerate(call.items):
        ids = item.input_ids
        if ids is None:
            assert item.text is not None
            ids = known.get(item.text)
            if ids is None:
                ids = known[item.text] = service.tokenizer.encode(item.text)
        _check_prompt(service, ids, item)
        matcher = _matcher(service, item.params)
        facts = service.facts
        ends = facts.eos_token_ids | frozenset(item.params.stop_token_ids)
        requests.append(
            Request(
                rid=item.rid,
                prompt_ids=ids,
                params=_filled(item.params, service.context_length - len(ids)),
                sampling=SamplingState(item.params, facts.vocab_size, ends, matcher),
                stream=_text_stream(service, ids, item.params),
                deliver=_deliverer(mailbox, number),
                streaming=streaming,
                stream_interval=item.params.stream_interval or state.arguments.stream_interval,
                logprobs=_logprob_request(item, ids, call.text_in_logprobs),
                embedding=state.arguments.is_embedding,
                group=group,
            )
        )
    return requests


def _text_stream(service: Service, ids: list[int], params: SamplingParams) -> TextStream:
    try:
        return TextStream(service.tokenizer, ids, params)
    except ValueError as error:
        raise bad_value(str(error)) from error


def _matcher(service: Service, params: SamplingParams) -> GrammarMatcher | None:
    if params.grammar is None:
        return None
    try:
        return service.grammars.matcher(*params.grammar)
    except ValueError as error:
        raise bad_value(str(error)) from error


def _deliverer(mailbox: Mailbox, number: int) -> Any:
    return lambda update: mailbox.put_nowait((number, update))


def _filled(params: SamplingParams, room: int) -> SamplingParams:
    """Put a number where "as much as fits" was asked for."""
    if params.max_new_tokens is not None:
        return params
    values = {name: getattr(params, name) for name in SamplingParams.__slots__}
    return SamplingParams(**values | {"max_new_tokens": room})


def _check_prompt(service: Service, ids: list[int], item: Item) -> None:
    """Refuse what the model cannot take, before it reaches the engine."""
    facts, limit = service.facts, service.context_length
    params = item.params
    if not ids:
        what = "text" if item.input_ids is None else "input_ids"
        raise bad_value(f"{what} cannot be empty.")
    if len(ids) >= limit:
        raise bad_value(
            f"The input ({len(ids)} tokens) is longer than the model's context length ({limit} tokens)."
        )
    for name, values in (("input_ids", ids), ("token_ids_logprob", item.token_ids_logprob)):
        foreign = next((value for value in values if not 0 <= value < facts.vocab_size), None)
        if foreign is not None:
            raise bad_value(
                f"{name} contains out-of-vocabulary token id {foreign}; "
                f"valid range is [0, {facts.vocab_size})."
            )
    foreign = next((value for value in params.stop_token_ids if not 0 <= value < facts.vocab_size), None)
    if foreign is not None:
        raise bad_value(f"stop_token_ids must be in [0, {facts.vocab_size - 1}], got {foreign}.")
    try:
        params.verify(facts.vocab_size)
    except ValueError as error:
        raise bad_value(str(error)) from error
    wanted = params.max_new_tokens or 0
    if len(ids) + wanted > limit:
        raise bad_value(
            f"Requested token count exceeds the model's maximum context length of {limit} tokens. "
            f"You requested a total of {len(ids) + wanted} tokens: {len(ids)} tokens from the input "
            f"messages and {wanted} tokens for the completion. Please reduce the number of tokens in "
            "the input messages or the completion to fit within the limit."
        )
    if not 0 <= item.top_logprobs_num <= facts.vocab_size:
        raise bad_value(f"top_logprobs_num must be in [0, {facts.vocab_size}], got {item.top_logprobs_num}.")
    if item.return_logprob and item.logprob_start_len > len(ids):
        raise bad_value(
            f"req.logprob_start_len={item.logprob_start_len} is higher than the number of input tokens "
            f"len(req.origin_input_ids)={len(ids)}. Please use a smaller logprob_start_len."
        )


def _logprob_request(item: Item, ids: list[int], with_text: bool) -> LogprobRequest | None:
    if not item.return_logprob:
        return None
    start = len(ids) if item.logprob_start_len < 0 else item.logprob_start_len
    return LogprobRequest(start, item.top_logprobs_num, item.token_ids_logprob, with_text)


@asynccontextmanager
async def _submitted(state: ServerState, requests: list[Request]) -> AsyncIterator[None]:
    """Run requests; whatever has not ended when this is left is aborted: nobody waits for it."""
    engine = state.service.engine
    for request in requests:
        state.active[request.rid] = request
    engine.submit(requests)
    try:
        yield
    finally:
        left = [request for request in requests if request.finish_reason is None]
        if left:
            engine.abort_requests(left)
        for request in requests:
            state.active.pop(request.rid, None)


def _answers(state: ServerState, call: Call, requests: list[Request]) -> list[Answer]:
    tokenizer = state.service.tokenizer if call.text_in_logprobs else None
    return [
        Answer(request, state.arguments.weight_version, tokenizer, prompt_token_ids=call.prompt_token_ids)
        for request in requests
    ]


async def _collect(state: ServerState, call: Call, requests: list[Request], mailbox: Mailbox) -> Any:
    """Run requests to their end and give the body of the answer."""
    answers = _answers(state, call, requests)
    async with _submitted(state, requests):
        for _ in requests:
            number, update = await mailbox.get()
            answers[number].add(update)
            _raise_if_failed(update.finish_reason)
    if state.arguments.is_embedding:
        bodies = [answer.embedding() for answer in answers]
    else:
        bodies = [answer.body() for answer in answers]
    return bodies[0] if call.single else bodies


async def _events(
    state: ServerState, call: Call, requests: list[Request], mailbox: Mailbox
) -> AsyncIterator[bytes]:
    """Give the events of a stream as they come; what has piled up for one sequence becomes one event."""
    answers = _answers(state, call, requests)
    incremental = state.arguments.incremental_streaming_output
    unfinished = len(requests)
    while unfinished:
        first, update = await mailbox.get()
        answers[first].add(update)
        fresh = {first: None}
        while not mailbox.empty():
            number, update = mailbox.get_nowait()
            answers[number].add(update)
            fresh[number] = None
        for number in fresh:
            answer = answers[number]
            yield _event(answer.body(incremental=incremental, index=None if call.single else number))
            unfinished -= answer.finish_reason is not None


def _raise_if_failed(reason: dict[str, Any] | None) -> None:
    """Turn an abort that is an error into the error's status."""
    if reason is None or reason["type"] != "abort" or reason["status_code"] is None:
        return
    if reason["status_code"] == 400:
        raise bad_value(reason["message"])
    raise http_error(reason["status_code"], reason["message"])


def _stream_error(error: ReplyError) -> dict[str, Any]:
    return {
        "message": error.message,
        "type": "invalid_request_error",
        "code": error.status,
        "retryable": error.status >= 500,
    }


def _event(value: Any) -> bytes:
    return f"data: {to_json(value)}\n\n".encode()


_DONE = b"data: [DONE]\n\n"
