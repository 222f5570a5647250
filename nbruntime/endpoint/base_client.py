"""The base class of both clients, and the checks of their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any, Unpack

from nbruntime.chat.chat_template import ChatTemplate
from nbruntime.chat.named_templates import read_chat_template
from nbruntime.display.cards import Card, CardMixin
from nbruntime.display.html import visible
from nbruntime.display.upper_floors import upper_class
from nbruntime.endpoint.address import check_base_url
from nbruntime.endpoint.cards import endpoint_card, model_name
from nbruntime.endpoint.observers import Observers
from nbruntime.endpoint.options import ProfileOptions, takes
from nbruntime.endpoint.profile_recording import ProfileRecording
from nbruntime.endpoint.server_capabilities import ServerCapabilities
from nbruntime.endpoint.settings import Settings
from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.secrets import Secret


class BaseClient(CardMixin):
    """The settings and the known capabilities of one server; arguments as in `RuntimeEndpoint`."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        verify: str | bool | None,
        chat_template_name: str | ChatTemplate | None,
        connect_timeout: float | None,
        read_timeout: float | None,
    ) -> None:
        self._capabilities = ServerCapabilities(read_chat_template(chat_template_name))
        self._settings = Settings(
            check_base_url(base_url),
            checked_key(api_key),
            checked_certificates(verify),
            checked_seconds("connect_timeout", connect_timeout),
            checked_seconds("read_timeout", read_timeout),
        )
        self._observers = Observers()
        self._open()

    def _open(self) -> None:
        """Make what a copy does not share: the transport and the list of streams."""
        raise NotImplementedError

    def _open_transport(self) -> None:
        """Make a transport for the settings, not connected yet."""
        raise NotImplementedError

    def _read_model_info(self) -> dict[str, Any]:
        """Return what is known of the model; a client without an event loop asks for it."""
        raise NotImplementedError

    def _change(self, **settings: Any) -> None:
        """Use other settings from now on; running streams keep theirs, and with them their server."""
        self._settings = replace(self._settings, **settings)
        self._open_transport()

    # What SGLang's programs assign

    @property
    def base_url(self) -> str:
        """URL of the server, without a slash at its end; another one is another server, asked anew."""
        return self._settings.base_url

    @base_url.setter
    def base_url(self, value: str) -> None:
        base_url = check_base_url(value)
        if base_url != self._settings.base_url:
            self._capabilities = ServerCapabilities(self._capabilities.given_template)
            self._change(base_url=base_url, diagnose=None)

    @property
    def api_key(self) -> str | None:
        """Key of the server."""
        return self._settings.secret.reveal()

    @api_key.setter
    def api_key(self, value: str | None) -> None:
        self._settings.secret = checked_key(value)

    @property
    def verify(self) -> str | bool | None:
        """Certificates to check the server by."""
        return self._settings.verify

    @verify.setter
    def verify(self, value: str | bool | None) -> None:
        self._change(verify=checked_certificates(value))

    @property
    def connect_timeout(self) -> float | None:
        """Seconds to wait for a connection."""
        return self._settings.connect_timeout

    @connect_timeout.setter
    def connect_timeout(self, value: float | None) -> None:
        self._change(connect_timeout=checked_seconds("connect_timeout", value))

    @property
    def read_timeout(self) -> float | None:
        """Seconds to wait for the next bytes of an answer."""
        return self._settings.read_timeout

    @read_timeout.setter
    def read_timeout(self, value: float | None) -> None:
        self._change(read_timeout=checked_seconds("read_timeout", value))

    @property
    def model_info(self) -> dict[str, Any]:
        """What the server says about its model, asked once; a client with an event loop connects first."""
        return self._read_model_info()

    @model_info.setter
    def model_info(self, value: Mapping[str, Any]) -> None:
        if not isinstance(value, Mapping) or "model_path" not in value:
            raise ArgumentTypeError(
                "model_info is not the description of a model",
                where="model_info",
                hint='Give a mapping with at least "model_path".',
            )
        self._capabilities.model_info = dict(value)

    @property
    def chat_template(self) -> ChatTemplate:
        """The template that was given, else the model's own, else a guess.

        It may be assigned: a name, a template (SGLang's, too), or None for the model's own. Reading it the
        first time may take seconds.
        """
        if self._capabilities.given_template is None:
            _ = self.model_info  # names the model
        return self._capabilities.chat_template()

    @chat_template.setter
    def chat_template(self, value: str | ChatTemplate | None) -> None:
        self._capabilities.given_template = read_chat_template(value)

    @property
    def chat_template_name(self) -> str | None:
        """Name of the template that was given; None for the model's own."""
        given = self._capabilities.given_template
        return None if given is None else given.name

    @chat_template_name.setter
    def chat_template_name(self, value: str | ChatTemplate | None) -> None:
        self._capabilities.given_template = read_chat_template(value)

    @property
    def settings(self) -> Settings:
        """URL, key, certificates and time-outs together, for another client of the same server."""
        return self._settings

    @property
    def observers(self) -> Observers:
        """What is told of the requests of this client, such as a profile that is being recorded."""
        return self._observers

    @takes(ProfileOptions)
    def profile(
        self,
        *,
        interval: float = 0.5,
        trace: bool = False,
        trace_seconds: float = 30.0,
        max_requests: int = 20_000,
        max_samples: int = 20_000,
        output_dir: str | None = None,
        **options: Unpack[ProfileOptions],
    ) -> ProfileRecording:
        """Record what a block of code costs: ``with endpoint.profile() as profile:``, or ``async with``.

        The profile notes every request that is sent through this client while the block runs, by any thread,
        task or program, and samples the server's load. It fills while the block runs, and is complete after
        it; an exception or an interrupt keeps what there is.

        Parameters
        ----------
        interval : float
            Seconds between two samples of the server's load.
        trace : bool
            Whether to run the server's own profiler, too. It slows the server down.
        trace_seconds : float
            Time after which the server's profiler is stopped, besides ``num_steps`` (by default 100).
        max_requests, max_samples : int
            Numbers of requests and samples to keep; ``profile.notes`` says what was left out.
        output_dir : str, optional
            Folder of the traces, on the server's disk.
        **options
            As in `RuntimeEndpoint.start_profile`. ``with_stack`` and ``record_shapes`` are off by default,
            since they make traces several times as large.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            For a wrong option; nothing was started.
        ServerFailureError
            On entering the block, if the server does not start its profiler; it may be running already.

        Examples
        --------
        >>> with endpoint.profile() as profile:  # doctest: +SKIP
        ...     answers = [endpoint.complete(prompt) for prompt in prompts]
        >>> profile.summary()  # doctest: +SKIP
        """
        recording: ProfileRecording = upper_class("recorder")(
            self,
            interval=interval,
            trace=trace,
            trace_seconds=trace_seconds,
            max_requests=max_requests,
            max_samples=max_samples,
            output_dir=output_dir,
            **options,
        )
        return recording

    def __getstate__(self) -> dict[str, Any]:
        # Threads, streams and connections are not copied; what is assigned to a copy is its own.
        return {"settings": replace(self._settings), "known": copy(self._capabilities)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._settings, self._capabilities = state["settings"], state["known"]
        self._observers = Observers()
        self._open()

    @property
    def last_model_info(self) -> dict[str, Any]:
        """The last description of the model, without asking again; empty if there is none."""
        return self._capabilities.model_info or {}

    @property
    def last_server_info(self) -> dict[str, Any]:
        """The last answer of `get_server_info`, without asking again; empty if there is none."""
        return self._capabilities.server_info or {}

    def _card(self) -> Card:
        return endpoint_card(type(self).__name__, self._settings, self._capabilities)

    def __repr__(self) -> str:
        key = ", api_key=***" if self._settings.secret else ""
        model = model_name(self.last_model_info)
        return (
            f"{type(self).__name__}({self.base_url!r}{key})\n"
            f"  {visible(model)}, {visible(self._settings.state())}"
        )


def checked_key(key: str | None) -> Secret:
    """Check that a key can stand in a header, and make it a secret."""
    if key is not None and not isinstance(key, str):
        raise ArgumentTypeError(
            f"The key is a {type(key).__name__}, not a text", where="api_key", hint="Give the server's key."
        )
    if key and not (key.isascii() and key.isprintable()):
        raise ArgumentValueError(
            "The key cannot stand in a header",
            where="api_key",
            hint="Check it for line ends and for letters that are not ASCII.",
        )
    return Secret(key)


def checked_certificates(verify: str | bool | None) -> str | bool | None:
    """Refuse a value that would switch the check of certificates off."""
    if verify is not None and not isinstance(verify, str | bool):
        raise ArgumentTypeError(f"verify is a {type(verify).__name__}", where="verify", hint=_VERIFY_HINT)
    if verify == "":
        raise ArgumentValueError("verify is an empty text", where="verify", hint=_VERIFY_HINT)
    return verify


_VERIFY_HINT = (
    "Give the path of a file or folder of certificates as a text, or leave it out for the usual ones."
)


def checked_rids(rid: str | Any) -> tuple[str, ...]:
    """Check the names of the requests to abort."""
    rids = (rid,) if isinstance(rid, str) else rid
    if not isinstance(rids, list | tuple) or not all(isinstance(each, str) for each in rids):
        raise ArgumentTypeError(f"rid is {rid!r}", where="rid", hint=_RID_HINT)
    if not rids or not all(rids):
        raise ArgumentValueError("rid is empty", where="rid", hint=_RID_HINT)
    return tuple(rids)


_RID_HINT = "Give the name of a request, as in stream.rid."


def checked_path(path: str) -> str:
    """Refuse a path without a slash: it would become a part of the host's name."""
    hint = 'Begin it with a slash, as in "/metrics".'
    if not isinstance(path, str):
        raise ArgumentTypeError(f"The path is a {type(path).__name__}, not a text", where="path", hint=hint)
    if not path.startswith("/"):
        raise ArgumentValueError(f"The path is {path!r}", where="path", hint=hint)
    return path


LONGEST_SECONDS = 2_147_483
"""24 days: the longest time-out whose milliseconds fit in 32 bits."""


def checked_seconds(name: str, seconds: float | None) -> float | None:
    """Refuse a time-out that sockets do not accept."""
    hint = "Give seconds, such as 10.0, or None for no limit."
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | None):
        raise ArgumentTypeError(f"{name} is a {type(seconds).__name__}", where=name, hint=hint)
    if seconds is not None and not 0 < seconds <= LONGEST_SECONDS:
        raise ArgumentValueError(f"{name} is {seconds}", where=name, hint=hint)
    return seconds
