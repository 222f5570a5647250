"""Every error of nbruntime, in one tree.

The first line of an error says what happened and where, the second what to do next::

    NbruntimeError
    ├── ArgumentError                 a bad argument; nothing was sent
    │   ├── ArgumentValueError        also a ValueError
    │   └── ArgumentTypeError         also a TypeError: wrong type, or an unknown name
    ├── MissingPackageError           also an ImportError: an optional package is not installed
    ├── TransportError                no answer; .sent tells whether the server may have got the request
    │   ├── ServerConnectionError     also a ConnectionError: no server listens, or the connection broke
    │   └── ServerTimeoutError        also a TimeoutError
    ├── ServerStatusError             the server answered with an error
    │   ├── BadRequestError           400 and other 4xx
    │   │   └── NotFoundError         404, 405, 501: this server has no such route
    │   ├── AuthenticationError       401, 403, 407
    │   └── ServerFailureError        5xx
    │       └── ServerBusyError       503 (and 429)
    ├── ProtocolError                 the answer is not SGLang's protocol
    ├── GenerationError               a generation ended too early; .text is the text until then
    │   ├── StreamError               an error inside the stream, or the stream broke off
    │   │   └── StreamTimeoutError    also a TimeoutError
    │   └── GenerationAbortedError    the request was aborted on the server
    ├── TraceError                    a file is not a trace of a profiler, or holds nothing readable
    └── LaunchError                   a server did not start; .log_lines are the last of its log
        ├── LaunchTimeoutError        also a TimeoutError
        ├── PortInUseError
        ├── EngineNotFoundError       no SGLang, or no torch, in the environment
        └── ModelNotFoundError
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

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
    "StreamTimeoutError",
    "TraceError",
    "TransportError",
]

# What `str` of an error shows at most: characters of the message, and lines of a server's log.
LONGEST_MESSAGE = 2000
LOG_LINES_SHOWN = 20


class NbruntimeError(CardMixin, Exception):
    """Root of all errors of nbruntime.

    Parameters
    ----------
    message : str
        What happened.
    where : str, optional
        URL, file or argument; shown in brackets after the message.
    hint : str, optional
        What to do next, on the second line. The default depends on the class.

    Examples
    --------
    >>> print(NbruntimeError("The file is empty", where="chat.jinja", hint="Write a template into it."))
    The file is empty (chat.jinja)
    Write a template into it.
    """

    # Only the message is positional, the rest is kept in __dict__: so pickle and copy work.
    default_hint: ClassVar[str | None] = None

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = self.default_hint if hint is None else hint

    def __str__(self) -> str:
        # The message may hold the server's text: keep it in one line, without control characters.
        first = shortened(self.message, LONGEST_MESSAGE)
        if self.where:
            first += f" ({self.where})"
        return visible(f"{first}\n{self.hint}" if self.hint else first)

    def _card(self) -> Card:
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
    """A value has the wrong type, or an argument has an unknown name."""


class MissingPackageError(NbruntimeError, ImportError):
    """An optional package is not installed."""


class TransportError(NbruntimeError):
    """The server gave no answer, or only part of it.

    Parameters
    ----------
    sent : bool
        False if the server cannot have got the request, so that sending it again is safe.
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
    status, server_message : int, str
        HTTP status; the server's own message.
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
    """The server refuses the request: 400 and other 4xx."""

    default_hint = "Change the request as the message says; sending it again will not help."


class NotFoundError(BadRequestError):
    """The server has no such route: 404, 405 or 501."""

    default_hint = "This server does not offer it: check the URL, and the version of the server."


class AuthenticationError(ServerStatusError):
    """The API key is missing or wrong (401) or allows too little (403), or a proxy wants a password (407)."""

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
    """The answer does not follow SGLang's protocol."""

    default_hint = "Check that the URL is that of an SGLang server, and that no proxy rewrites its answers."


class _FinishReason(Protocol):
    """The part of `nbruntime.FinishReason` that type checkers see in an error."""

    @property
    def type(self) -> str: ...
    @property
    def message(self) -> str | None: ...


class _Generation(Protocol):
    """The part of `nbruntime.Generation` that type checkers see in an error."""

    @property
    def text(self) -> str: ...
    @property
    def output_ids(self) -> list[int]: ...
    @property
    def meta_info(self) -> dict[str, Any]: ...
    @property
    def prompt(self) -> str | Sequence[int] | None: ...
    @property
    def finish_reason(self) -> _FinishReason | None: ...
    @property
    def completion_tokens(self) -> int: ...
    def to_dict(self) -> dict[str, Any]: ...


class GenerationError(NbruntimeError):
    """A generation ended too early; the error keeps the part until then.

    Parameters
    ----------
    generations : sequence of Generation
        The partial generations, one for each prompt and sample.
    status, server_message : int, str, optional
        The server's status inside the stream; its own message.
    """

    default_hint = "The text up to here is in the error's .text and .generation."

    def __init__(
        self,
        message: str,
        *,
        generations: Sequence[_Generation] = (),
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
    def generation(self) -> _Generation | None:
        """The first partial generation, the only one for a single prompt."""
        return self.generations[0] if self.generations else None

    @property
    def text(self) -> str:
        """The partial text of the first generation."""
        return self.generations[0].text if self.generations else ""

    def _card(self) -> Card:
        return replace(super()._card(), details=[Details("text until then", text=self.text)])


class StreamError(GenerationError):
    """The server sent an error inside the stream, or the stream broke off."""


class StreamTimeoutError(StreamError, TimeoutError):
    """The request's `timeout` has passed, or the server sent nothing more in time."""


class GenerationAbortedError(GenerationError):
    """The request was aborted on the server, but not by this stream."""


class TraceError(NbruntimeError):
    """A file is not a trace of a profiler, or nothing in it can be read."""

    default_hint = "Give the .trace.json or .trace.json.gz files of a server's profiler, or their folder."


class LaunchError(NbruntimeError):
    """A server did not start.

    Parameters
    ----------
    cause : str, optional
        The reason found in the log or the exit status.
    log_lines : sequence of str
        The last lines of the server's log; ``str`` of the error shows fewer.
    """

    default_hint = "The end of the log is below; the error's .log_lines has more lines."

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
            hint = ""  # there is no log
        super().__init__(message, where=where, hint=hint)
        self.cause = cause
        self.log_lines = tuple(log_lines)

    def __str__(self) -> str:
        lines = [self._summary() + (f" ({self.where})" if self.where else "")]
        if self.hint:
            lines.append(self.hint)
        if shown := self.log_lines[-LOG_LINES_SHOWN:]:
            lines += [f"Last {len(shown)} lines of the log:", *(f"  {line}" for line in shown)]
        return visible("\n".join(lines))

    def _summary(self) -> str:
        return f"{self.message}: {self.cause}" if self.cause else self.message

    def _card(self) -> Card:
        log = Details("log", text="\n".join(self.log_lines))
        return replace(super()._card(), state=self._summary(), details=[log])


class LaunchTimeoutError(LaunchError, TimeoutError):
    """The server was not ready in time."""

    default_hint = "Give a longer launch_timeout; the log shows how far the server came."


class PortInUseError(LaunchError):
    """Another program uses the port."""

    default_hint = "Leave port out to get a free one, or stop the program that listens there."


class EngineNotFoundError(LaunchError):
    """The chosen environment has no SGLang, or no torch."""

    default_hint = "Install nbruntime[embedded], or name an environment that has SGLang with python=..."


class ModelNotFoundError(LaunchError):
    """The model is not a folder or in the cache, and could not be downloaded."""

    default_hint = "Give a folder with config.json, or the id of a model on the Hugging Face hub."
