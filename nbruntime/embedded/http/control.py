"""Routes for cache, aborts, profiling, and the tokenizer."""

from __future__ import annotations

import asyncio
import time
from itertools import chain
from typing import Any

from aiohttp import web

from nbruntime.embedded.engine.profiler import ProfileOptions, ProfilerBusy, profile_options
from nbruntime.embedded.http.bodies import checker, read_object
from nbruntime.embedded.http.replies import json_reply, text_reply
from nbruntime.embedded.http.state import state_of
from nbruntime.embedded.service.errors import bad_value, http_error, invalid_body
from nbruntime.embedded.service.field_types import (
    is_bool,
    is_int,
    is_object,
    is_str,
    list_of,
    shortened,
)

_FLUSH_REPLY = (
    "{}\nPlease check backend logs for more details. "
    "(When there are running or waiting requests, the operation will not be performed.)\n"
)

_MOST_CHARACTERS = 2**20
"""Limit of ``/tokenize``, which needs about a hundred bytes of memory per character."""

_check_abort = checker(
    {"rid": (("string_type", "str", is_str),), "abort_all": (("bool_type", "bool", is_bool),)}
)
_check_tokenize = checker(
    {
        "prompt": (("string_type", "str", is_str), ("list_type", "list[str]", list_of(is_str))),
        "messages": (("list_type", "list[dict]", list_of(is_object)),),
        "add_special_tokens": (("bool_type", "bool", is_bool),),
        "add_generation_prompt": (("bool_type", "bool", is_bool),),
    }
)
_check_detokenize = checker(
    {
        "tokens": (
            ("list_type", "list[int]", list_of(is_int)),
            ("list_type", "list[list[int]]", list_of(list_of(is_int))),
        ),
        "skip_special_tokens": (("bool_type", "bool", is_bool),),
    }
)


async def flush_cache(request: web.Request) -> web.Response:
    """Serve ``/flush_cache``, waiting up to ``timeout`` seconds for running requests."""
    engine = state_of(request).service.engine
    deadline = time.monotonic() + _timeout(request)
    while True:
        if await asyncio.wrap_future(engine.call(engine.flush_cache)):
            return text_reply(_FLUSH_REPLY.format("Cache flushed."))
        if time.monotonic() >= deadline:
            return text_reply(_FLUSH_REPLY.format("Flush cache failed."), status=400)
        await asyncio.sleep(0.02)


def _timeout(request: web.Request) -> float:
    given = request.query.get("timeout", "0")
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise invalid_body(
            {
                "type": "greater_than_equal",
                "loc": ("query", "timeout"),
                "msg": "Input should be greater than or equal to 0",
                "input": given,
                "ctx": {"ge": 0.0},
            }
        )
    return seconds


async def abort_request(request: web.Request) -> web.Response:
    """Serve ``/abort_request``: abort an active request and those whose ids begin with its id, or all."""
    state = state_of(request)
    engine = state.service.engine
    body = await read_object(request, _check_abort)
    if body.get("abort_all") or body.get("rid") in state.admission.active:
        prefix = None if body.get("abort_all") else body["rid"]
        state.admission.note_abort(prefix)
        engine.abort(prefix)
    return web.Response()


async def start_profile(request: web.Request) -> web.Response:
    """Serve ``/start_profile``."""
    engine = state_of(request).service.engine
    options = await read_object(request, _profile_options, required=False)
    return await _profile(engine.call(lambda: engine.profiler.start(options)), "Start profiling.\n")


def _profile_options(body: dict[str, Any]) -> ProfileOptions:
    try:
        return profile_options(body)
    except (TypeError, ValueError, OverflowError) as error:
        raise bad_value(f"The profile cannot be started: {error}") from error


async def stop_profile(request: web.Request) -> web.Response:
    """Serve ``/stop_profile``."""
    engine = state_of(request).service.engine
    return await _profile(engine.call(engine.profiler.stop), "Stop profiling. This will take some time.\n")


async def _profile(future: Any, reply: str) -> web.Response:
    try:
        await asyncio.wrap_future(future)
    except (ProfilerBusy, OSError) as error:
        # SGLang answers 500 and a bare text here; the text says why.
        return text_reply(f"Internal Server Error: {error}\n", status=500)
    return text_reply(reply)


async def tokenize(request: web.Request) -> web.Response:
    """Serve ``/tokenize``: the tokens of a text, of several texts, or of a conversation."""
    _require_json(request)
    state = state_of(request)
    service = state.service
    body = await read_object(request, _check_tokenize)
    prompt, messages = body.get("prompt"), body.get("messages")
    if (prompt is None) == (messages is None):
        message = "Value error, Exactly one of 'prompt' or 'messages' must be provided."
        raise invalid_body(
            {"type": "value_error", "loc": ("body",), "msg": message, "input": shortened(body)}
        )
    special = messages is None and body.get("add_special_tokens", True)

    def tokens() -> list[Any]:
        texts = prompt if isinstance(prompt, list) else [prompt or ""]
        if messages is not None:
            generation_prompt = body.get("add_generation_prompt", True)
            texts = [service.tokenizer.render_chat(messages, add_generation_prompt=generation_prompt)]
        _check_length(texts)
        lists = [service.tokenizer.encode(text, add_special_tokens=special) for text in texts]
        return lists if isinstance(prompt, list) else lists[0]

    try:
        found = await state.admission.in_worker(tokens)
    except ValueError as error:
        raise bad_value(str(error)) from error
    count = [len(each) for each in found] if isinstance(prompt, list) else len(found)
    return json_reply({"tokens": found, "count": count, "max_model_len": service.context_length})


def _check_length(texts: list[str]) -> None:
    characters = sum(map(len, texts))
    if characters > _MOST_CHARACTERS:
        raise http_error(
            413, f"{characters} characters are too many to tokenize at once; send {_MOST_CHARACTERS} at most."
        )


async def detokenize(request: web.Request) -> web.Response:
    """Serve ``/detokenize``: the text of tokens, or of several lists of them."""
    _require_json(request)
    state = state_of(request)
    service = state.service
    body = await read_object(request, _check_detokenize)
    given = body.get("tokens")
    if given is None:
        raise invalid_body(
            {"type": "missing", "loc": ("body", "tokens"), "msg": "Field required", "input": shortened(body)}
        )
    skip = body.get("skip_special_tokens", True)
    nested = bool(given) and isinstance(given[0], list)
    lists = given if nested else [given]

    def texts() -> list[str]:
        foreign = service.facts.foreign_token(chain.from_iterable(lists))
        if foreign is not None:
            valid = f"valid range is [0, {service.facts.vocab_size})"
            raise bad_value(f"tokens contains out-of-vocabulary token id {foreign}; {valid}.")
        return [service.tokenizer.decode(each, skip_special_tokens=skip) for each in lists]

    found = await state.admission.in_worker(texts)
    return json_reply({"text": found if nested else found[0]})


def _require_json(request: web.Request) -> None:
    if request.content_type != "application/json":
        message = "Unsupported Media Type: Only 'application/json' is allowed"
        raise http_error(400, message, "Bad Request")
