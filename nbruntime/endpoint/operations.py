"""What the clients send and how they read the answers, without input or output.

Each operation is a generator (`nbruntime.endpoint.http`) that the transport of either client runs.
`nbruntime.endpoint.server_operations` has those that concern the server itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from nbruntime.chat.rendering import render_chat
from nbruntime.endpoint.base_client import checked_path
from nbruntime.endpoint.http import Abort, HttpRequest, HttpResponse, Operation, RunInThread
from nbruntime.endpoint.observers import ObservedRequest
from nbruntime.endpoint.server_capabilities import ServerCapabilities
from nbruntime.endpoint.server_operations import read_model_info, read_server_info
from nbruntime.endpoint.settings import Settings
from nbruntime.endpoint.step_log import step_source
from nbruntime.errors import (
    ArgumentTypeError,
    BadRequestError,
    NotFoundError,
    ProtocolError,
    TransportError,
)
from nbruntime.generation import Generation, Generations, Timings
from nbruntime.generation.stream_state import aborted_on_server
from nbruntime.protocol.answers import first_invalid_field, scrub_reason
from nbruntime.protocol.messages import Messages, read_messages, refuse_media
from nbruntime.protocol.options import check_option
from nbruntime.protocol.requests import (
    GenerateRequest,
    Prompt,
    build_generate_request,
    read_prompt,
    read_token_ids,
    request_names,
)


def send_json(path: str, body: Any, observed: ObservedRequest) -> Operation[Any]:
    """Post any body and read the JSON of the answer; its rids are aborted when the caller stops waiting."""
    answer: HttpResponse = yield from guarded(HttpRequest("POST", checked_path(path), body), names_in(body))
    read = answer.json()
    observed.answer(read)
    return read


def names_in(body: Any) -> tuple[str, ...]:
    """Return the rids of the requests in the body of any request."""
    rid = body.get("rid") if isinstance(body, Mapping) else None
    names = rid if isinstance(rid, list) else [rid]
    return tuple(name for name in names if isinstance(name, str))


# Generating


def guarded(request: HttpRequest, rids: tuple[str, ...]) -> Operation[Any]:
    """Send a request for the model, and abort it when the caller stops waiting for the answer."""
    try:
        return (yield request)
    except (TransportError, ProtocolError) as error:
        if getattr(error, "sent", True):
            yield Abort(rids)
        raise
    except (Exception, GeneratorExit):
        raise  # the server has refused it
    except BaseException:  # an interrupt, or a cancellation
        yield Abort(rids)
        raise


def generate_request(
    prompt: Prompt | Sequence[Prompt], options: Mapping[str, Any], *, stream: bool = False
) -> GenerateRequest:
    """Check the arguments of a generation, and make its request."""
    options = dict(options)
    if options.pop("stream", stream) != stream:  # what the method does anyway may be said
        raise ArgumentTypeError(
            f"This method takes no stream={not stream}",
            hint="Call stream() or stream_chat() for a stream, complete() or chat() for the whole answer.",
        )
    return build_generate_request(prompt, stream=stream, **options)


def generate(request: GenerateRequest, observed: ObservedRequest) -> Operation[Generation | list[Generation]]:
    """Generate, and wait for the whole answer."""
    started = time.perf_counter()
    answer: HttpResponse = yield from guarded(HttpRequest("POST", "/generate", request.body), request.rids)
    timings = Timings(total=time.perf_counter() - started)
    records = _records(answer, len(request.prompts) * request.samples)
    observed.answer(records)
    source = step_source(answer.settings, request)
    generations = [
        Generation.from_dict(record, prompt=prompt, index=index, timings=timings).with_source(source)
        for index, (record, prompt) in enumerate(zip(records, request.prompt_of_answer, strict=True))
    ]
    aborted = aborted_on_server(generations, where=answer.url)
    if aborted is not None:
        raise aborted
    return Generations(generations) if request.many else generations[0]


def open_stream(request: GenerateRequest, capabilities: ServerCapabilities) -> Operation[Any]:
    """Open a stream, and return its body."""
    yield from read_model_info(capabilities)
    if capabilities.is_old and capabilities.server_info is None:
        yield from read_server_info(capabilities)  # tells whether its streams are cumulative
    return (yield from guarded(HttpRequest("POST", "/generate", request.body, streamed=True), request.rids))


def _records(answer: HttpResponse, expected: int) -> list[dict[str, Any]]:
    body = answer.json()
    records = body if isinstance(body, list) else [body]
    if len(records) != expected or not all(isinstance(record, dict) for record in records):
        raise ProtocolError(f"The server did not send {expected} answers", where=answer.url)
    for record in records:
        wrong = first_invalid_field(record)
        if wrong is not None:
            raise ProtocolError(f"The answer has a {wrong} of the wrong type", where=answer.url)
        scrub_reason(record.get("meta_info") or {}, answer.settings.scrub)
    return records


# Conversations


def chat_request(
    capabilities: ServerCapabilities,
    messages: Messages,
    options: Mapping[str, Any],
    *,
    stream: bool = False,
) -> Operation[GenerateRequest]:
    """Make the request that continues a conversation."""
    conversation = read_messages(messages)
    generate_request("", options, stream=stream)  # a wrong argument fails before anything is sent
    if not any(options.get(name) for name in ("image_data", "video_data", "audio_data")):
        refuse_media(conversation)
    prompt, stops = yield from _chat_prompt(capabilities, conversation)
    return generate_request(prompt, _with_stops(options, stops), stream=stream)


def _chat_prompt(
    capabilities: ServerCapabilities, conversation: list[dict[str, Any]]
) -> Operation[tuple[Prompt, tuple[str, ...]]]:
    """Turn a conversation into a prompt: on the server, unless a template was named or the server cannot."""
    if capabilities.given_template is None:
        try:
            return (yield from _tokenize_messages(capabilities, conversation)), ()
        except NotFoundError:
            pass
        yield from read_model_info(capabilities)
    template = yield RunInThread(capabilities.chat_template)
    prompt: str = yield RunInThread(partial(render_chat, template, conversation))
    return prompt, tuple(template.stop_str)


def _with_stops(options: Mapping[str, Any], stops: tuple[str, ...]) -> Mapping[str, Any]:
    """Add the template's stop texts to the caller's."""
    if not stops:
        return options
    given = options.get("stop")
    if given is None:
        given = (options.get("sampling_params") or {}).get("stop") or ()
    own = (given,) if isinstance(given, str) else tuple(given)
    return {**options, "stop": [*own, *(stop for stop in stops if stop not in own)]}


# Tokens


def _tokenize_messages(
    capabilities: ServerCapabilities, conversation: list[dict[str, Any]]
) -> Operation[list[int]]:
    """Let the server turn a conversation into tokens; raise a `NotFoundError` if it cannot."""
    if capabilities.tokenizes is False or capabilities.tokenizes_messages is False:
        raise NotFoundError("The server does not tokenize conversations")
    try:
        tokens: list[int] = yield from _tokens_of(capabilities, {"messages": conversation})
    except NotFoundError:
        raise
    except BadRequestError as error:
        # The first servers that have the route require a prompt.
        if "prompt" in error.server_message and "required" in error.server_message.lower():
            capabilities.tokenizes_messages = False
            raise NotFoundError("The server does not tokenize conversations", status=error.status) from error
        raise
    return tokens


def _tokens_of(capabilities: ServerCapabilities, body: dict[str, Any]) -> Operation[Any]:
    try:
        answer: HttpResponse = yield HttpRequest("POST", "/tokenize", body, safe=True)
    except NotFoundError:
        capabilities.tokenizes = False
        raise
    capabilities.tokenizes = True
    return _field(answer, "tokens", list)


def tokenize(
    settings: Settings,
    capabilities: ServerCapabilities,
    text: str | Sequence[str] | None,
    messages: Messages | None,
    add_special_tokens: bool,
) -> Operation[Any]:
    """Turn texts or a conversation into tokens: on the server, or here if it cannot."""
    if (text is None) == (messages is None):
        raise ArgumentTypeError(
            "tokenize() takes a text or messages", where="text", hint="Give exactly one of the two."
        )
    check_option("add_special_tokens", add_special_tokens)
    if messages is not None:
        written, _ = yield from _chat_prompt(capabilities, read_messages(messages))
        if not isinstance(written, str):
            return list(written)
        text = written
    prompt = text if isinstance(text, str) else _texts(text)
    if capabilities.tokenizes is not False:
        try:
            return (
                yield from _tokens_of(
                    capabilities, {"prompt": prompt, "add_special_tokens": add_special_tokens}
                )
            )
        except NotFoundError:
            pass
    yield from read_model_info(capabilities)

    def encode() -> Any:
        return capabilities.tokenizer(settings)(prompt, add_special_tokens=add_special_tokens)["input_ids"]

    return (yield RunInThread(encode))


def detokenize(
    settings: Settings, capabilities: ServerCapabilities, tokens: Any, skip_special_tokens: bool
) -> Operation[Any]:
    """Turn tokens into text: on the server, or here if it cannot."""
    tokens = read_token_ids(tokens)
    check_option("skip_special_tokens", skip_special_tokens)
    if capabilities.tokenizes is not False:
        body = {"tokens": tokens, "skip_special_tokens": skip_special_tokens}
        try:
            answer: HttpResponse = yield HttpRequest("POST", "/detokenize", body, safe=True)
        except NotFoundError:
            capabilities.tokenizes = False
        else:
            return _field(answer, "text", str | list)
    yield from read_model_info(capabilities)

    def decode() -> Any:
        tokenizer = capabilities.tokenizer(settings)
        rows = tokens if tokens and isinstance(tokens[0], list) else [tokens]
        texts = [tokenizer.decode(row, skip_special_tokens=skip_special_tokens) for row in rows]
        return texts if rows is tokens else texts[0]

    return (yield RunInThread(decode))


def _texts(given: Any) -> list[str]:
    if not isinstance(given, list | tuple) or not all(isinstance(item, str) for item in given):
        raise ArgumentTypeError(
            f"The text is a {type(given).__name__}", where="text", hint="Give a text, or a list of texts."
        )
    return list(given)


def _field(answer: HttpResponse, name: str, kind: Any) -> Any:
    body = answer.json()
    value = body.get(name) if isinstance(body, Mapping) else None
    if not isinstance(value, kind):
        raise ProtocolError(f"The answer has no {name}", where=answer.url)
    return value


# Embeddings


def embed_request(prompt: Prompt | Sequence[Prompt], options: Mapping[str, Any]) -> GenerateRequest:
    """Check the arguments of an embedding, and make its request."""
    field, value, prompts, batch = read_prompt(prompt)
    rids = request_names(None, len(prompts), batch)
    body = {field: value, "rid": list(rids) if batch else rids[0]}
    for name, given in options.items():
        if given is not None:
            check_option(name, given)
            body[name] = given
    return GenerateRequest(body, prompts, 1, batch, rids)


def embed(request: GenerateRequest, observed: ObservedRequest) -> Operation[Any]:
    """Embed one prompt or several."""
    answer: HttpResponse = yield from guarded(HttpRequest("POST", "/encode", request.body), request.rids)
    records = _records(answer, len(request.prompts))
    observed.answer(records)
    vectors = [record.get("embedding") for record in records]
    if not all(isinstance(vector, list) for vector in vectors):
        raise ProtocolError("The answer has no embedding", where=answer.url)
    return vectors if request.many else vectors[0]
