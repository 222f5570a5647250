"""Every error of nbruntime, in one tree.

The first line of an error says what happened and where, the second what to do next::

    NbruntimeError
    ├── ArgumentError                 a bad argument; nothing was sent
    │   ├── ArgumentValueError        also a ValueError
    │   └── ArgumentTypeError         also a TypeError: wrong type, or an unknown name
    ├── MissingPackageError           also an ImportError: an optional package is not installed
    ├── TransportError                 no answer came; says whether the server may have got the request
    │   ├── ServerConnectionError     also a ConnectionError: nobody listens, or the connection broke
    │   └── ServerTimeoutError        also a TimeoutError
    ├── ServerStatusError             the server answered with an error
    │   ├── BadRequestError           400 and other 4xx
    │   │   └── NotFoundError        404, 405, 501: this server has no such route
    │   ├── AuthenticationError       401, 403
    │   └── ServerFailureError        5xx
    │       └── ServerBusyError       503 (and 429)
    ├── ProtocolError                 the answer is not SGLang's protocol
    ├── GenerationError               a generation ended too early; keeps what had come
    │   ├── StreamError               an error inside the stream, or the stream broke off
    │   └── GenerationAbortedError    the request was aborted on the server
    └── LaunchError                   a server did not start; keeps the last lines of its log
        ├── LaunchTimeoutError        also a TimeoutError
        ├── PortInUseError
        ├── EngineNotFoundError       no SGLang, or no torch, in the environment
        └── ModelNotFoundError
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from nbruntime.display.cards import Card, CardMixin, Details
from nbruntime.display.html import escape, shortened, visible

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "ArgumentValueError",
    "AuthenticationError",
    "BadRequestError",
    "EngineNotFoundError",
    "GenerationAbortedError",
    "GenerationError",
    "LaunchError",
    "LaunchTimeoutError",
    "MissingPackageError",
    "ModelNotFoundError",
    "NbruntimeError",
    "NotFoundError",
    "PortInUseError",
    "ProtocolError",
    "ServerBusyError",
    "ServerConnectionError",
    "ServerFailureError",
    "ServerStatusError",
    "ServerTimeoutError",
    "StreamError",
    "TransportError",
]

LONGEST_MESSAGE = 2000
"""Characters of a message that the text of an error shows; `NbruntimeError.message` has all of them."""

LOG_LINES_SHOWN = 20
"""Lines of the server's log that the text of a `LaunchError` shows."""


class NbruntimeError(CardMixin, Exception):
    """Root of all errors of nbruntime.

    Parameters
    ----------
    message : str
        What happened.
    where : str, optional
        The URL, file or argument that it happened at; shown in brackets after the message.
    hint : str, optional
        What to do next; shown on the second line. The default depends on the class.

    Examples
    --------
    >>> print(NbruntimeError("The file is empty", where="chat.jinja", hint="Write a template into it."))
    The file is empty (chat.jinja)
    Write a template into it.
    """

    # One positional argument, the rest by keyword and kept in __dict__: so pickle and copy work as they are.
    default_hint: ClassVar[str | None] = None

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = self.default_hint if hint is None else hint

    def __str__(self) -> str:
        # The server's words may be in it: they stay in their line, and steer no terminal.
        first = shortened(self.message, LONGEST_MESSAGE)
        if self.where:
            first += f" ({self.where})"
        return visible(f"{first}\n{self.hint}" if self.hint else first)

    def _card(self) -> Card:
        """Say what happened, then what to do; what is long is folded."""
        hint = self.hint or ""
        return Card(
            type(self).__name__,
            state=self.message,
            tone="bad",
            body=f'<div style="white-space:pre-wrap">{escape(hint)}</div>' if hint else "",
            plain=hint,
            pairs=[("where", self.where)],
        )


class ArgumentError(NbruntimeError):
    """An argument is wrong; nothing was sent to the server."""


class ArgumentValueError(ArgumentError, ValueError):
    """A value is out of range."""


class ArgumentTypeError(ArgumentError, TypeError):
    """A value has the wrong type, or there is no argument of this name."""


class MissingPackageError(NbruntimeError, ImportError):
    """Something needs a package that is not installed."""


class TransportError(NbruntimeError):
    """The server gave no answer, or not the whole of it.

    Parameters
    ----------
    message : str
        What happened.
    sent : bool
        Whether the server may have got the request. If not, sending it again is safe.
    where, hint : str, optional
        As in `NbruntimeError`.
    """

    def __init__(
        self, message: str, *, sent: bool = True, where: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.sent = sent


class ServerConnectionError(TransportError, ConnectionError):
    """No server answers at the URL, or the connection broke."""

    default_hint = "Check that the server is running and that the URL is right."


class ServerTimeoutError(TransportError, TimeoutError):
    """The server did not answer in time."""

    default_hint = "The server may be busy: try again, or give a longer read_timeout."


class ServerStatusError(NbruntimeError):
    """The server answered with an error status.

    Parameters
    ----------
    message : str
        What happened, with the server's own words.
    status : int
        HTTP status.
    server_message : str
        The server's own words alone.
    where, hint : str, optional
        As in `NbruntimeError`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        server_message: str = "",
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.status = status
        self.server_message = server_message


class BadRequestError(ServerStatusError):
    """The server refuses the request as it is: 400 and other 4xx."""

    default_hint = "Change the request as the message says; sending it again will not help."


class NotFoundError(BadRequestError):
    """No such route on the server: 404, 405 or 501."""

    default_hint = "This server does not offer it: check the URL, and the version of the server."


class AuthenticationError(ServerStatusError):
    """The API key is missing or wrong (401), or is not allowed to do this (403)."""

    default_hint = (
        "Give the server's key as api_key=...; if the server has an admin key, control calls need that one."
    )


class ServerFailureError(ServerStatusError):
    """The server failed: 5xx."""

    default_hint = "The server's log has the reason."


class ServerBusyError(ServerFailureError):
    """The server cannot take the request now: 503 or 429."""

    default_hint = "The server is starting, full or shutting down: try again in a moment."


class ProtocolError(NbruntimeError):
    """The answer cannot be understood as SGLang's protocol."""

    default_hint = "Check that the URL is that of an SGLang server, and that no proxy rewrites its answers."


class GenerationError(NbruntimeError):
    """A generation ended too early; what had come until then is kept.

    Parameters
    ----------
    message : str
        What happened.
    generations : sequence of Generation
        What had come, one for each prompt and sample; see also `text`.
    status : int, optional
        The status that the server gives inside the stream.
    server_message : str
        The server's own words alone.
    where, hint : str, optional
        As in `NbruntimeError`.
    """

    default_hint = "The text up to here is in the error's .text and .generation."

    def __init__(
        self,
        message: str,
        *,
        generations: Sequence[Any] = (),
        status: int | None = None,
        server_message: str = "",
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.generations = tuple(generations)
        self.status = status
        self.server_message = server_message

    @property
    def generation(self) -> Any:
        """The first partial generation, which is the only one for a single prompt."""
        return self.generations[0] if self.generations else None

    @property
    def text(self) -> str:
        """The partial text of the first generation."""
        return self.generations[0].text if self.generations else ""

    def _card(self) -> Card:
        return replace(super()._card(), details=[Details("text until then", text=self.text)])


class StreamError(GenerationError):
    """The server sent an error inside the stream, or the stream broke off."""


class GenerationAbortedError(GenerationError):
    """The request was aborted on the server, though not by this stream."""


class LaunchError(NbruntimeError):
    """A server did not start.

    Parameters
    ----------
    message : str
        What happened.
    cause : str, optional
        The reason that was found in the log or the exit status.
    log_lines : sequence of str
        The last lines of the server's log; the text of the error shows fewer of them.
    where, hint : str, optional
        As in `NbruntimeError`.
    """

    default_hint = "The end of the log is below; what else was kept of it is in the error's .log_lines."

    def __init__(
        self,
        message: str,
        *,
        cause: str | None = None,
        log_lines: Sequence[str] = (),
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        if hint is None and not log_lines and self.default_hint == LaunchError.default_hint:
            hint = ""  # there is no log to point at
        super().__init__(message, where=where, hint=hint)
        self.cause = cause
        self.log_lines = tuple(log_lines)

    def __str__(self) -> str:
        first = f"{self.message}: {self.cause}" if self.cause else self.message
        if self.where:
            first += f" ({self.where})"
        shown = self.log_lines[-LOG_LINES_SHOWN:]
        log = [f"Last {len(shown)} lines of the log:", *(f"  {line}" for line in shown)] if shown else []
        return visible("\n".join([first, *([self.hint] if self.hint else []), *log]))

    def _card(self) -> Card:
        state = f"{self.message}: {self.cause}" if self.cause else self.message
        return replace(super()._card(), state=state, details=[Details("log", text="\n".join(self.log_lines))])


class LaunchTimeoutError(LaunchError, TimeoutError):
    """The server was not ready in time."""

    default_hint = "Give a longer launch_timeout; the log shows how far the server came."


class PortInUseError(LaunchError):
    """The port is taken by another program."""

    default_hint = "Leave port out to get a free one, or stop the program that listens there."


class EngineNotFoundError(LaunchError):
    """There is no SGLang, or no torch, in the environment that was asked for."""

    default_hint = "Install nbruntime[embedded], or name an environment that has SGLang with python=..."


class ModelNotFoundError(LaunchError):
    """The model is not a folder, not in the cache, and could not be fetched."""

    default_hint = "Give a folder with config.json, or the id of a model on the Hugging Face hub."
