"""Choose between texts by their likelihood, for ``sgl.select``.

It follows SGLang's client (``lang/backend/runtime_endpoint.py``) with two corrections. The start of a choice
is found by comparing token ids instead of texts, because a choice may merge with the end of the prompt into
other tokens (token healing). And scoring starts one token earlier, because the server returns no logprob for
the first token.

Token ids are requested first, so that each choice is scored from its first different token. Without them (an
old server, a prompt with images), prompt and choices are scored from a few tokens before the end of the
prompt, and compared afterwards.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from nbruntime.errors import ArgumentValueError, NotFoundError, ProtocolError, ServerStatusError
from nbruntime.generation import Generation

HEALED_TOKENS = 4
"""Tokens at the end of the prompt that a choice may change, if token ids are unknown."""

WORTH_CACHING = 256
"""Fewest tokens that caching the prompt must save to be worth a request."""

NO_BATCHES = 422
"""Status of SGLang's router for a batch with an id for each prompt; it takes single requests."""

_Entry = list[Any]
"""SGLang's ``[logprob, token id, text]``."""


class _Completes(Protocol):
    def complete(self, prompt: Any, **arguments: Any) -> Generation | list[Generation]: ...

    def tokenize(self, text: Any) -> Any: ...


def select(
    endpoint: _Completes,
    text: str,
    choices: Sequence[str],
    temperature: float,
    choices_method: Any,
    images: Any = None,
) -> Any:
    """Let the model choose one of several texts; return the decision of `choices_method`.

    Raises
    ------
    ArgumentValueError
        If there is no choice, one is empty, the temperature is not 0, or a choice is the very first token,
        which has no likelihood.
    """
    choices = list(choices)
    if not choices or not all(choices):
        raise ArgumentValueError(
            "There is nothing to choose from" if not choices else "A choice is empty",
            where="choices",
            hint="Pass texts of at least one character.",
        )
    if temperature > 1e-5:
        raise ArgumentValueError(
            f"select takes the likeliest choice, so the temperature must be 0, got {temperature}.",
            where="temperature",
            hint="Leave it out, or sample with gen(regex=...).",
        )

    texts = [text + choice for choice in choices]
    ids = None if images or not text else _token_ids(endpoint, [text, *texts])
    if ids is not None:
        tokens, answers = _score(endpoint, ids)
    else:
        tokens, answers = _score_unseen(endpoint, text, texts, images)

    unconditional = None
    if choices_method.requires_unconditional_logprobs:
        scored = _complete(
            endpoint, [[entry[1] for entry in of_choice] for of_choice in tokens], logprob_start_len=0
        )
        unconditional = [_fill_missing(_input_logprobs(answer), first=0.0) for answer in scored]

    return choices_method(
        choices=choices,
        normalized_prompt_logprobs=[
            math.fsum(entry[0] for entry in of_choice) / len(of_choice) for of_choice in tokens
        ],
        input_token_logprobs=tokens,
        output_token_logprobs=[answer.meta_info.get("output_token_logprobs") for answer in answers],
        unconditional_token_logprobs=unconditional,
    )


_Scored = tuple[list[list[_Entry]], list[Generation]]
"""The tokens of each choice, and the server's answers."""

_without_tokenizer: weakref.WeakSet[Any] = weakref.WeakSet()


def _token_ids(endpoint: _Completes, texts: list[str]) -> list[list[int]] | None:
    """Request the token ids of texts; None if the server cannot tokenize, which is asked only once."""
    if endpoint in _without_tokenizer:
        return None
    try:
        ids: list[list[int]] = endpoint.tokenize(texts)
    except NotFoundError:
        _without_tokenizer.add(endpoint)
        return None
    return ids


def _score(endpoint: _Completes, ids: list[list[int]]) -> _Scored:
    """Score each text but the first, the prompt, from the last token that it shares with the prompt."""
    prompt, *of_texts = ids
    starts = [max(_common_length(prompt, tokens) - 1, 0) for tokens in of_texts]
    if len(prompt) * (len(of_texts) - 1) > WORTH_CACHING:
        endpoint.complete(prompt[: max(starts) + 1], max_new_tokens=0)
    answers = _complete(endpoint, of_texts, logprob_start_len=starts)
    entries = [_input_logprobs(answer) for answer in answers]
    return [
        _tokens_of_choice(prompt[start:], of_text) for start, of_text in zip(starts, entries, strict=True)
    ], answers


def _score_unseen(endpoint: _Completes, text: str, texts: list[str], images: Any) -> _Scored:
    """Score the prompt and the texts from a few tokens before the end of the prompt."""
    start = 0
    if text:
        # This also caches the prompt for all choices.
        prefix = endpoint.complete(text, max_new_tokens=0, image_data=images)
        assert isinstance(prefix, Generation)
        start = max(prefix.prompt_tokens - 1 - HEALED_TOKENS, 0)
    asked = [*([text] if text else []), *texts]
    image_data = None if images is None else [images] * len(asked)
    answers = _complete(endpoint, asked, logprob_start_len=start, image_data=image_data)
    entries = [_input_logprobs(answer) for answer in answers]
    prompt = [entry[1] for entry in entries.pop(0)] if text else []
    return [_tokens_of_choice(prompt, of_choice) for of_choice in entries], answers[-len(texts) :]


def _complete(endpoint: _Completes, prompts: list[Any], **arguments: Any) -> list[Generation]:
    score: Callable[..., Any] = partial(
        endpoint.complete,
        max_new_tokens=0,
        temperature=0,
        return_logprob=True,
        return_text_in_logprobs=True,
    )
    try:
        answers = score(prompts, **arguments)
    except ServerStatusError as error:
        if error.status != NO_BATCHES:
            raise
        answers = [
            score(
                prompt,
                **{name: each[place] if isinstance(each, list) else each for name, each in arguments.items()},
            )
            for place, prompt in enumerate(prompts)
        ]
    assert isinstance(answers, list)
    return answers


def _common_length(prompt: Sequence[int], tokens: Sequence[int]) -> int:
    """Count the common tokens at the beginning; the second text has at least one more."""
    shared = 0
    while shared < min(len(prompt), len(tokens) - 1) and prompt[shared] == tokens[shared]:
        shared += 1
    return shared


def _tokens_of_choice(prompt: Sequence[int], entries: list[_Entry]) -> list[_Entry]:
    """Drop the tokens that a choice shares with the prompt.

    Examples
    --------
    The prompt ends in tokens 7 8; the choice has changed 8 into 9:

    >>> _tokens_of_choice([7, 8], [[None, 7, "the"], [-1.5, 9, " yes"], [-0.5, 3, "!"]])
    [[-1.5, 9, ' yes'], [-0.5, 3, '!']]
    """
    shared = _common_length(prompt, [entry[1] for entry in entries])
    scored = entries[max(shared, 1) :]  # the first token has no logprob
    if not scored:
        raise ArgumentValueError(
            f"A choice has no likelihood: with its prompt it is one token, {entries[0][2]!r}, the very first",
            where="choices",
            hint="Begin the prompt with more text.",
        )
    return _fill_missing(scored, first=-math.inf)


def _fill_missing(entries: Sequence[_Entry], *, first: float) -> list[_Entry]:
    """Replace missing logprobs: minus infinity is null in JSON."""
    return [
        [(first if place == 0 else -math.inf) if entry[0] is None else entry[0], *entry[1:]]
        for place, entry in enumerate(entries)
    ]


def _input_logprobs(answer: Generation) -> list[_Entry]:
    entries = answer.meta_info.get("input_token_logprobs")
    if not entries:
        raise ProtocolError(
            "The server sent no logprobs of the prompt",
            hint="sgl.select needs a server that gives input_token_logprobs.",
        )
    return list(entries)
