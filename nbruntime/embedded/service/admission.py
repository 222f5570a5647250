"""Turns request bodies into requests of the engine and submits them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from nbruntime.embedded.arguments import ServerArguments
from nbruntime.embedded.clock import now
from nbruntime.embedded.engine.request import Request, Update
from nbruntime.embedded.sampling.logprobs import LogprobRequest
from nbruntime.embedded.sampling.sampler import SamplingState
from nbruntime.embedded.service.errors import bad_value
from nbruntime.embedded.service.generate_input import GenerateReqInput, SequenceInput, read_generate_input
from nbruntime.embedded.service.service import Service
from nbruntime.embedded.service.submission import Submission, UpdateQueue
from nbruntime.embedded.text.stream import TextStream
from nbruntime.protocol.sampling import SamplingParams

Result = TypeVar("Result")

_WORKERS = 2
"""Threads for large bodies and texts: each takes a hundred times its size while it is worked on."""

_LONG_PROMPT = 4_000
"""Characters or tokens of prompts from which requests are made in another thread."""

_MANY = 32
"""Requests from which they are made in another thread."""


class Admission:
    """Admits requests to the engine; `service` raises a `ReplyError` while the server starts or stops."""

    def __init__(self, arguments: ServerArguments, service: Callable[[], Service]) -> None:
        # By id: whether a request was aborted that has not ended, and maybe is still being tokenized.
        self.active: dict[str, bool] = {}
        self._arguments = arguments
        self._service = service
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="worker")

    async def in_worker(self, function: Callable[[], Result]) -> Result:
        """Run a long function in a thread, so that streams continue; only a few run at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, function)

    def note_abort(self, prefix: str | None) -> None:
        """Mark the active requests whose id begins with `prefix`, or all, as aborted."""
        for rid in self.active:
            self.active[rid] |= prefix is None or rid.startswith(prefix)

    def close(self) -> None:
        """Start no more work in threads, without waiting for running work."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def submit(
        self, service: Service, body: dict[str, Any], params: list[SamplingParams], received: float
    ) -> AsyncIterator[Submission]:
        """Run the requests of a body; on leaving the context, unfinished requests are aborted.

        Their ids are active from the beginning, so that an abort finds them while their texts are tokenized.

        Parameters
        ----------
        body, params
            The result of `check_body`.
        received : float
            When the request came, by `clock.now`.

        Raises
        ------
        ReplyError
            400 for a wrong value, 503 while the server stops.
        """
        generate_input = read_generate_input(body, params, most=service.most_sequences)
        with self._activated([sequence.rid for sequence in generate_input.sequences]):
            updates: UpdateQueue = asyncio.Queue()
            make = partial(self._make_requests, service, generate_input, updates)
            requests = await self.in_worker(make) if _takes_long(generate_input) else make()
            for request in requests:
                request.times.received = received
                request.times.dispatched = now()
                if self.active[request.rid]:
                    request.abort()
            engine = self._service().engine  # asked for again: the server may have stopped meanwhile
            engine.submit(requests)
            try:
                tokenizer = service.tokenizer if generate_input.text_in_logprobs else None
                yield Submission(
                    requests,
                    updates,
                    weight_version=self._arguments.weight_version,
                    tokenizer=tokenizer,
                    single=generate_input.single,
                    prompt_token_ids=generate_input.prompt_token_ids,
                )
            finally:
                unfinished = [request for request in requests if request.finish_reason is None]
                if unfinished:
                    engine.abort_requests(unfinished)

    @contextmanager
    def _activated(self, rids: list[str]) -> Iterator[None]:
        duplicate = next((rid for rid in rids if rid in self.active), None)
        if duplicate is not None:
            raise bad_value(f"Duplicate request ID detected: {duplicate}")
        self.active.update(dict.fromkeys(rids, False))
        try:
            yield
        finally:
            for rid in rids:
                del self.active[rid]

    def _make_requests(
        self, service: Service, generate_input: GenerateReqInput, updates: UpdateQueue
    ) -> list[Request]:
        group = object()
        tokenized: dict[str, list[int]] = {}
        requests = []
        for number, sequence in enumerate(generate_input.sequences):
            ids = sequence.input_ids
            if ids is None:
                assert sequence.text is not None
                ids = tokenized.get(sequence.text)
                if ids is None:
                    ids = tokenized[sequence.text] = _encode(service, sequence.text)
            _check_prompt(service, ids, sequence)
            params, facts = sequence.params, service.facts
            try:
                grammar = None if params.grammar is None else service.grammars.compile(*params.grammar)
                stream = TextStream(service.tokenizer, ids, params)
            except ValueError as error:
                raise bad_value(str(error)) from error
            end_ids = service.end_token_ids | frozenset(params.stop_token_ids)
            requests.append(
                Request(
                    rid=sequence.rid,
                    prompt_ids=ids,
                    params=_with_length(params, service.context_length - len(ids)),
                    sampling=SamplingState(params, facts.vocab_size, end_ids, grammar),
                    stream=stream,
                    deliver=_deliver_to(updates, number),
                    streaming=generate_input.stream,
                    stream_interval=params.stream_interval or self._arguments.stream_interval,
                    logprobs=_logprob_request(sequence, ids, generate_input.text_in_logprobs),
                    embedding=self._arguments.is_embedding,
                    group=group,
                )
            )
        return requests


def _takes_long(generate_input: GenerateReqInput) -> bool:
    """Tell whether making the requests would hold up other streams."""
    sequences = generate_input.sequences
    size = sum(len(sequence.text or sequence.input_ids or ()) for sequence in sequences)
    grammars = any(sequence.params.grammar for sequence in sequences)
    return size > _LONG_PROMPT or len(sequences) > _MANY or grammars


def _encode(service: Service, text: str) -> list[int]:
    """Tokenize a prompt, unless its length alone shows that it is too long: tokenizing takes much memory."""
    limit = service.context_length
    if len(text) > limit and (least := service.tokenizer.least_tokens(text)) >= limit:
        raise bad_value(
            f"The input (at least {least} tokens) is longer than the model's context length ({limit} tokens)."
        )
    return service.tokenizer.encode(text)


def _deliver_to(updates: UpdateQueue, number: int) -> Callable[[Update], None]:
    return lambda update: updates.put_nowait((number, update))


def _with_length(params: SamplingParams, room: int) -> SamplingParams:
    """Set `max_new_tokens` to `room` if it is None."""
    if params.max_new_tokens is not None:
        return params
    return replace(params, max_new_tokens=room)


def _check_prompt(service: Service, ids: list[int], sequence: SequenceInput) -> None:
    """Refuse what the model cannot take."""
    facts, limit = service.facts, service.context_length
    params = sequence.params
    if not ids:
        what = "text" if sequence.input_ids is None else "input_ids"
        raise bad_value(f"{what} cannot be empty.")
    if len(ids) >= limit:
        raise bad_value(
            f"The input ({len(ids)} tokens) is longer than the model's context length ({limit} tokens)."
        )
    for name, values in (("input_ids", ids), ("token_ids_logprob", sequence.token_ids_logprob)):
        if (foreign := facts.foreign_token(values)) is not None:
            raise bad_value(
                f"{name} contains out-of-vocabulary token id {foreign}; "
                f"valid range is [0, {facts.vocab_size})."
            )
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
    if not 0 <= sequence.top_logprobs_num <= facts.vocab_size:
        raise bad_value(
            f"top_logprobs_num must be in [0, {facts.vocab_size}], got {sequence.top_logprobs_num}."
        )
    if sequence.return_logprob and sequence.logprob_start_len > len(ids):
        raise bad_value(
            f"req.logprob_start_len={sequence.logprob_start_len} is higher than the number of input tokens "
            f"len(req.origin_input_ids)={len(ids)}. Please use a smaller logprob_start_len."
        )


def _logprob_request(sequence: SequenceInput, ids: list[int], with_text: bool) -> LogprobRequest | None:
    if not sequence.return_logprob:
        return None
    start = len(ids) if sequence.logprob_start_len < 0 else sequence.logprob_start_len
    return LogprobRequest(start, sequence.top_logprobs_num, sequence.token_ids_logprob, with_text)
