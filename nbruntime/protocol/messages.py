"""Conversations: the messages that callers give, and the form in which they are sent and rendered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    if isinstance(message["content"], list):
        return {**message, "content": [_read_part(part) for part in message["content"]]}
    return dict(message)


def _read_part(part: Any) -> Any:
    """Write a text in the form that SGLang's server requires."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Mapping) and part.get("type") in (None, "input_text"):
        return {**part, "type": "text"}
    return part


def refuse_media(messages: Sequence[Message]) -> None:
    """Raise an ArgumentTypeError if a message holds an image, a sound or a video."""
    for place, message in enumerate(messages):
        if isinstance(message["content"], list):
            for number, part in enumerate(message["content"]):
                kind = str(part.get("type")) if isinstance(part, Mapping) else ""
                if any(medium in kind for medium in ("image", "audio", "video")):
                    raise _more_than_text(part, place, number)


def text_of(message: Message, place: int = 0) -> str:
    """Return the text of a message; raise ArgumentTypeError if it holds more than text.

    Examples
    --------
    >>> text_of({"role": "user", "content": [{"type": "text", "text": "Hello"}]})
    'Hello'
    """
    content = message.get("content")
    return content if isinstance(content, str) else "".join(_texts(content or (), place))


def for_template(
    messages: Sequence[Message], render: Callable[[list[dict[str, Any]]], str]
) -> list[dict[str, Any]]:
    """Return messages in the form that a chat template takes, as SGLang does it.

    A content of several parts stays a list if the template, called by `render`, writes the text of lists;
    otherwise the texts are joined by spaces. Fields that are None are left out; no content is an empty text.

    Raises
    ------
    ArgumentTypeError
        If a message holds more than text.

    Examples
    --------
    >>> parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "again"}]
    >>> for_template([{"role": "user", "content": parts}], lambda messages: messages[0]["content"] + "!")
    [{'role': 'user', 'content': 'Hello again'}]
    """
    given = []
    for place, message in enumerate(messages):
        content: Any = message.get("content") or ""
        if not isinstance(content, str):
            texts = _texts(content, place)
            takes_lists = _takes_lists(render)
            content = [{"type": "text", "text": text} for text in texts] if takes_lists else " ".join(texts)
        kept = {name: value for name, value in message.items() if value is not None}
        given.append({**kept, "content": content})
    return given


def _takes_lists(render: Callable[[list[dict[str, Any]]], str]) -> bool:
    """Tell whether a template writes the text of a list of parts, not the list itself."""
    part = {"type": "text", "text": "MessageHere"}
    try:
        written = render([{"role": "user", "content": [part]}])
    except Exception as error:  # what a template raises is up to the template
        if isinstance(error, ImportError):
            raise
        return False
    return part["text"] in written and not any(f"{quote}type{quote}" in written for quote in "'\"")


def _texts(content: Sequence[Any], place: int) -> list[str]:
    texts = []
    for number, part in enumerate(content):
        is_text = isinstance(part, Mapping) and part.get("type") == "text"
        if not is_text or not isinstance(part.get("text"), str):
            raise _more_than_text(part, place, number)
        texts.append(part["text"])
    return texts


def _more_than_text(part: Any, place: int, number: int) -> ArgumentTypeError:
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    return ArgumentTypeError(
        f"A message holds more than text: {kind!r}",
        where=f"messages[{place}].content[{number}]",
        hint="Send images and sounds with a prompt: complete(prompt, image_data=...).",
    )
