"""Conversations: the messages that callers give, and the form in which they are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbruntime.errors import ArgumentTypeError, ArgumentValueError

Message = Mapping[str, Any]
"""A message with ``role`` and ``content``."""

Messages = str | Message | Sequence[str | Message]
"""A conversation as callers give it."""

_HINT = 'Give for example [{"role": "user", "content": "Hello"}], or a text as the user message.'


def read_messages(messages: Messages) -> list[dict[str, Any]]:
    """Check a conversation and copy it into a list of messages; a text is a user message.

    Raises an ArgumentTypeError or ArgumentValueError if it is empty, or a message has no role or content.

    Examples
    --------
    >>> read_messages("Hello")
    [{'role': 'user', 'content': 'Hello'}]
    """
    if isinstance(messages, str | Mapping):
        messages = [messages]
    if not isinstance(messages, list | tuple):
        raise ArgumentTypeError(
            f"Messages must be a list or a text, not {type(messages).__name__}", where="messages", hint=_HINT
        )
    if not messages:
        raise ArgumentValueError("The list of messages is empty", where="messages", hint=_HINT)
    return [_read_message(message, place) for place, message in enumerate(messages)]


def _read_message(message: Any, place: int) -> dict[str, Any]:
    where = f"messages[{place}]"
    if isinstance(message, str):
        return {"role": "user", "content": message}
    if not isinstance(message, Mapping):
        raise ArgumentTypeError(
            f"A message must be a mapping or a text, not {type(message).__name__}", where=where, hint=_HINT
        )
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise ArgumentTypeError("A message has no role", where=where, hint=_HINT)
    if not isinstance(message.get("content"), str | list | None) or "content" not in message:
        raise ArgumentTypeError("A message has no content", where=where, hint=_HINT)
    return dict(message)


def text_of(message: Message, place: int = 0) -> str:
    """Return the text of a message; raise ArgumentTypeError if it holds more than text.

    Examples
    --------
    >>> text_of({"role": "user", "content": [{"type": "text", "text": "Hello"}]})
    'Hello'
    """
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for part in content:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise ArgumentTypeError(
                "A message holds more than text",
                where=f"messages[{place}]",
                hint="Send images and sounds with a prompt: complete(prompt, image_data=...).",
            )
        texts.append(part["text"])
    return "".join(texts)
