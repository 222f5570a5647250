"""``/generate`` and ``/encode``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web

from nbruntime.embedded.clock import now
from nbruntime.embedded.engine.request import Request, Update
from nbruntime.embedded.http.answers import Answer
from nbruntime.embedded.http.bodies import read_object
from nbruntime.embedded.http.generate_call import Call, Item, check_body, read_call
from nbruntime.embedded.http.replies import ReplyError, bad_value, http_error, json_reply, to_json
from nbruntime.embedded.http.state import ServerState, Service, state_of
from nbruntime.embedded.sampling.grammar import Grammar
from nbruntime.embedded.sampling.logprobs import LogprobRequest
from nbruntime.embedded.sampling.sampler import SamplingState
from nbruntime.embedded.text.stream import TextStream
from nbruntime.protocol.sampling import SamplingParams

_LONG_PROMPT = 4_000
"""Characters or tokens of prompts from which requests are made in another thread."""

_MANY = 32
"""Requests from which they are made in another thread."""

Mailbox = asyncio.Queue[tuple[int, Update]]


@dataclass(frozen=True, slots=True)
class Job:
    """A call that the engine works on.

    Parameters
    ----------
    call : Call
        What was asked for.
    requests : list of Request
        One for each item of the call.
    mailbox : Queue
        Gets the number of a request with each update.
    """

    call: Call
    requests: list[Request]
    mailbox: Mailbox


async def generate(request: web.Request) -> web.StreamResponse:
    """Serve ``/generate``: one answer, a list of answers, or a stream of events."""
    state = state_of(request)
    service = state.service
    received = now()
    body, params = await read_object(request, check_body)
    if not body.get("stream"):
        async with _submitted(state, service, body, params, received) as job:
            return json_reply(await _collect(state, job))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    async with AsyncExitStack() as stack:
        try:
            job = await stack.enter_async_context(_submitted(state, service, body, params, received))
        except ReplyError as error:
            # What is wrong with the request's values is an event: SGLang has begun its answer by then.
            await response.prepare(request)
            await response.write(_event({"error": _stream_error(error)}) + _DONE)
            return response
        await response.prepare(request)
        async for event in _events(state, job):
            await response.write(event)
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
    async with _submitted(state, service, body, params, received) as job:
        return json_reply(await _collect(state, job))


@asynccontextmanager
async def _submitted(
    state: ServerState, service: Service, body: dict[str, Any], params: list[SamplingParams], received: float
) -> AsyncIterator[Job]:
    """Make requests of a body and run them; whatever has not ended when this is left is aborted.

    Their ids are known from the beginning on, so that an abort finds them while their texts are tokenized.
    """
    call = read_call(body, params, most=service.most_sequences)
    with _entered(state, [item.rid for item in call.items]):
        mailbox: Mailbox = asyncio.Queue()
        make = partial(_make_requests, state, service, call, mailbox, bool(body.get("stream")))
        requests = await state.in_worker(make) if _takes_long(call) else make()
        for request in requests:
            request.times.received = received
            request.times.dispatched = now()
            if state.active[request.rid]:
                request.abort()
        engine = state.service.engine  # asked for once more: the server may stop meanwhile
        engine.submit(requests)
        try:
            yield Job(call, requests, mailbox)
        finally:
            left = [request for request in requests if request.finish_reason is None]
            if left:
                engine.abort_requests(left)


@contextmanager
def _entered(state: ServerState, rids: list[str]) -> Iterator[None]:
    """Keep ids among the active ones."""
    doubled = next((rid for rid in rids if rid in state.active), None)
    if doubled is not None:
        raise bad_value(f"Duplicate request ID detected: {doubled}")
    state.active.update(dict.fromkeys(rids, False))
    try:
        yield
    finally:
        for rid in rids:
            del state.active[rid]


def _takes_long(call: Call) -> bool:
    """Tell whether making the requests of a call would hold up the streams of others."""
    size = sum(len(item.text or item.input_ids or ()) for item in call.items)
    grammars = any(item.params.grammar for item in call.items)
    return size > _LONG_PROMPT or len(call.items) > _MANY or grammars


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
                ids = known[item.text] = _encode(service, item.text)
        _check_prompt(service, ids, item)
        grammar = _grammar(service, item.params)
        facts = service.facts
        ends = facts.eos_token_ids | frozenset(item.params.stop_token_ids)
        requests.append(
            Request(
                rid=item.rid,
                prompt_ids=ids,
                params=_filled(item.params, service.context_length - len(ids)),
                sampling=SamplingState(item.params, facts.vocab_size, ends, grammar),
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


def _encode(service: Service, text: str) -> list[int]:
    """Tokenize a prompt, unless its length shows that it is too long: tokenizing takes much memory."""
    limit = service.context_length
    if len(text) > limit and (least := service.tokenizer.least_tokens(text)) >= limit:
        raise bad_value(
            f"The input (at least {least} tokens) is longer than the model's context length ({limit} tokens)."
        )
    return service.tokenizer.encode(text)


def _text_stream(service: Service, ids: list[int], params: SamplingParams) -> TextStream:
    try:
        return TextStream(service.tokenizer, ids, params)
    except ValueError as error:
        raise bad_value(str(error)) from error


def _grammar(service: Service, params: SamplingParams) -> Grammar | None:
    if params.grammar is None:
        return None
    try:
        return service.grammars.compile(*params.grammar)
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


def _answers(state: ServerState, job: Job) -> list[Answer]:
    call = job.call
    tokenizer = state.service.tokenizer if call.text_in_logprobs else None
    return [
        Answer(request, state.arguments.weight_version, tokenizer, prompt_token_ids=call.prompt_token_ids)
        for request in job.requests
    ]


async def _collect(state: ServerState, job: Job) -> Any:
    """Wait for the end of all requests and give the body of the answer."""
    answers = _answers(state, job)
    for _ in answers:
        number, update = await job.mailbox.get()
        answers[number].add(update)
        _raise_if_failed(update.finish_reason)
    if state.arguments.is_embedding:
        bodies = [answer.embedding() for answer in answers]
    else:
        bodies = [answer.body() for answer in answers]
    return bodies[0] if job.call.single else bodies


async def _events(state: ServerState, job: Job) -> AsyncIterator[bytes]:
    """Give the events of a stream as they come; what has piled up for one sequence becomes one event."""
    answers = _answers(state, job)
    incremental = state.arguments.incremental_streaming_output
    unfinished, mailbox = len(answers), job.mailbox
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
            yield _event(answer.body(incremental=incremental, index=None if job.call.single else number))
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
