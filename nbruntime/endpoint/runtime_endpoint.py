"""`RuntimeEndpoint`: the client of one SGLang server."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from nbruntime.endpoint.address import check_base_url
from nbruntime.endpoint.cleaner import Cleaner
from nbruntime.endpoint.secret import Secret
from nbruntime.endpoint.transport import ABORT_TIMEOUTS, INFO_TIMEOUT, Body, Transport
from nbruntime.errors import (
    ArgumentValueError,
    NbruntimeError,
    NotServedError,
    ProtocolError,
    ServerBusyError,
    ServerConnectionError,
    ServerTimeoutError,
)
from nbruntime.frontend.backend import FrontendBackend
from nbruntime.frontend.chat_template import find_chat_template
from nbruntime.frontend.named_templates import get_chat_template
from nbruntime.frontend.template import ChatTemplate
from nbruntime.generation import Generation, GenerationStream
from nbruntime.generation.record import Timings
from nbruntime.generation.stream import aborted_on_server
from nbruntime.protocol.requests import GenerateRequest, Prompt, build_generate_request

_log = logging.getLogger(__name__)


class RuntimeEndpoint(FrontendBackend):
    """A client of a running SGLang server, or of the embedded one.

    Drop-in for SGLang's class of the same name; it also serves as the backend of SGLang's frontend
    language (``sgl.set_default_backend(endpoint)``).

    Parameters
    ----------
    base_url : str
        URL of the server.
    api_key : str, optional
        Key of the server. It is sent in a header and never shown.
    verify : str, optional
        File or folder of certificates to check an https server by; the usual ones by default.
    chat_template_name : str, optional
        Name of a chat template (see `nbruntime.frontend.named_templates`); by default the model's own.
    connect_timeout, read_timeout : float or None
        Seconds to wait for a connection, and for the next bytes of an answer; None waits for ever.

    Attributes
    ----------
    base_url, api_key, verify
        As given; the key does not show in a repr, in ``vars()``, in errors or in a pickle.
    model_info : dict
        What the server says about its model, read when the endpoint was made.

    Raises
    ------
    ServerConnectionError, ServerTimeoutError
        If no server answers.
    AuthenticationError
        If the key is missing or wrong.

    Examples
    --------
    A server must be running, so these lines are not tested here:

    >>> endpoint = RuntimeEndpoint("http://127.0.0.1:30000")  # doctest: +SKIP
    >>> endpoint.complete("The capital of France is", temperature=0).text  # doctest: +SKIP
    ' Paris.'
    >>> with endpoint.stream("Once upon a time") as stream:  # doctest: +SKIP
    ...     for text in stream:
    ...         print(text, end="")
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        verify: str | bool | None = None,
        chat_template_name: str | None = None,
        *,
        connect_timeout: float | None = 10.0,
        read_timeout: float | None = 600.0,
    ) -> None:
        if chat_template_name is not None:
            get_chat_template(chat_template_name)  # a wrong name fails here, before anything is sent
        self._transport = Transport(
            check_base_url(base_url),
            Secret(api_key),
            verify,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
        )
        self._cleaner = Cleaner()
        self._streams = _LiveStreams()
        self._chat_template_name = chat_template_name
        self._chat_template: ChatTemplate | None = None
        self._server_info: dict[str, Any] | None = None
        self.model_info: dict[str, Any] = self._info("/model_info", "/get_model_info")

    @property
    def base_url(self) -> str:
        """URL of the server, without a slash at its end."""
        return self._transport.base_url

    @property
    def api_key(self) -> str | None:
        """Key of the server."""
        return self._transport.secret.reveal()

    @api_key.setter
    def api_key(self, value: str | None) -> None:
        self._transport.secret = Secret(value)

    @property
    def verify(self) -> str | bool | None:
        """Certificates to check the server by."""
        return self._transport.verify

    @property
    def settings(self) -> Transport:
        """URL, key, certificates and time-outs together, for another client of the same server."""
        return self._transport

    @property
    def chat_template(self) -> ChatTemplate:
        """How messages become a prompt: the template named, else the model's own, else a guess."""
        if self._chat_template is None:
            self._chat_template = find_chat_template(self._chat_template_name, self.model_info)
        return self._chat_template

    def get_model_name(self) -> str:
        """Name or path of the model.

        Returns
        -------
        str
            ``model_path`` as the server has it.
        """
        return str(self.model_info["model_path"])

    def get_server_info(self) -> dict[str, Any]:
        """Read the configuration and the state of the server.

        Returns
        -------
        dict
            Every argument of the server, and figures of its scheduler.
        """
        self._server_info = self._info("/server_info", "/get_server_info")
        return self._server_info

    def flush_cache(self) -> None:
        """Empty the KV cache.

        Raises
        ------
        BadRequestError
            If requests are running.
        """
        self._transport.send("POST", "/flush_cache")

    def cache_prefix(self, prefix_str: str) -> None:
        """Bring a text into the KV cache, so that prompts which begin with it start sooner.

        Parameters
        ----------
        prefix_str : str
            The common beginning of later prompts.
        """
        self.complete(prefix_str, max_new_tokens=0)

    def start_profile(self, **options: Any) -> None:
        """Start the server's profiler.

        Parameters
        ----------
        **options
            SGLang's, for example ``output_dir`` (a folder on the server's disk), ``num_steps``,
            ``activities``, ``profile_by_stage``, ``with_stack``, ``record_shapes``.
        """
        given = {name: value for name, value in options.items() if value is not None}
        self._transport.send("POST", "/start_profile", given or None)

    def stop_profile(self) -> None:
        """Stop the server's profiler; returns when the traces are written."""
        self._transport.send("POST", "/stop_profile")

    def health(self) -> bool:
        """Ask whether the server can generate; SGLang takes a second or more to find out.

        Returns
        -------
        bool
            False also when no server answers; ``repr`` then has the reason.
        """
        try:
            self._transport.get("/health", read_timeout=self._info_timeout)
        except (ServerBusyError, ServerConnectionError, ServerTimeoutError):
            return False
        return True

    def complete(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        sampling_params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        rid: str | Sequence[str] | None = None,
        return_logprob: bool | Sequence[bool] | None = None,
        logprob_start_len: int | Sequence[int] | None = None,
        top_logprobs_num: int | Sequence[int] | None = None,
        lora_path: str | Sequence[str | None] | None = None,
        **arguments: Any,
    ) -> Generation | list[Generation]:
        """Generate, and wait for the whole answer.

        Parameters
        ----------
        prompt : str, list of str, list of int, or list of lists of int
            One prompt or a batch, as text or as token ids.
        sampling_params : mapping, or list of mappings, optional
            Sampling parameters by SGLang's names; a list has one for each prompt.
        rid : str, optional
            Name of the request, for `abort`; one is made when not given.
        return_logprob : bool, optional
            Also give logprobs: ``Generation.tokens`` and ``input_tokens``.
        logprob_start_len : int, optional
            First token of the prompt with a logprob; by default the prompt has none.
        top_logprobs_num : int, optional
            Number of likeliest tokens to give at each place.
        lora_path : str, optional
            LoRA adapter.
        **arguments
            Sampling parameters (``temperature``, ``max_new_tokens``, ``stop``, …) and other fields of
            SGLang's request (``session_id``, ``image_data``, ``token_ids_logprob``, …).

        Returns
        -------
        Generation or list of Generation
            A list for a batch or ``n > 1``, prompt by prompt.

        Raises
        ------
        ArgumentError
            For an unknown or wrong argument; nothing was sent.
        GenerationAbortedError
            If the request was aborted; the error holds what had come.
        NbruntimeError
            If the server does not answer or refuses.
        """
        request = build_generate_request(
            prompt,
            sampling_params=sampling_params,
            rid=rid,
            return_logprob=return_logprob,
            logprob_start_len=logprob_start_len,
            top_logprobs_num=top_logprobs_num,
            lora_path=lora_path,
            **arguments,
        )
        answers, total = self._post_generate(request)
        generations = [
            Generation.from_dict(answer, prompt=asked, index=index, timings=Timings(total=total))
            for index, (answer, asked) in enumerate(zip(answers, request.prompt_of_answer, strict=True))
        ]
        aborted = aborted_on_server(generations, where=self._transport.url("/generate"))
        if aborted is not None:
            raise aborted
        return generations if request.many else generations[0]

    def stream(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        sampling_params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        rid: str | Sequence[str] | None = None,
        return_logprob: bool | Sequence[bool] | None = None,
        logprob_start_len: int | Sequence[int] | None = None,
        top_logprobs_num: int | Sequence[int] | None = None,
        lora_path: str | Sequence[str | None] | None = None,
        **arguments: Any,
    ) -> GenerationStream:
        """Generate, and give the text as it comes.

        Parameters
        ----------
        prompt, sampling_params, rid, return_logprob, logprob_start_len, top_logprobs_num, lora_path
            As in `complete`.
        **arguments
            As in `complete`.

        Returns
        -------
        GenerationStream
            An iterator of text, best used in a ``with`` statement: leaving it stops the generation.

        Raises
        ------
        NbruntimeError
            As `complete`; errors that come later are raised by the stream and hold the text until then.
        """
        request = build_generate_request(
            prompt,
            sampling_params=sampling_params,
            rid=rid,
            stream=True,
            return_logprob=return_logprob,
            logprob_start_len=logprob_start_len,
            top_logprobs_num=top_logprobs_num,
            lora_path=lora_path,
            **arguments,
        )
        self._cleaner.start()
        started = time.perf_counter()
        response = self._guarded(request, stream=True)
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            response.close()
            raise ProtocolError(
                f"The answer is not a stream but {kind or 'of no type'}",
                where=self._transport.url("/generate"),
            )
        body = Body(self._transport, response, "/generate")
        stream = GenerationStream(
            body,
            request,
            close=body.close,
            abort=_Abort(self._transport),
            where=self._transport.url("/generate"),
            started=started,
            cumulative_text=self._text_is_cumulative(),
            discard=self._cleaner,
        )
        self._streams.add(stream)
        return stream

    def post(self, path: str, body: Any = None) -> Any:
        """Send any request of SGLang's protocol, and read the JSON of the answer.

        Parameters
        ----------
        path : str
            Route, such as ``"/encode"``.
        body : object, optional
            Sent as JSON, without checks.

        Returns
        -------
        object
            What the server answered.

        Raises
        ------
        NbruntimeError
            If the server does not answer or refuses.
        """
        return self._transport.json(self._transport.send("POST", path, body))

    def abort(self, rid: str | Sequence[str]) -> None:
        """Stop a generation on the server.

        Parameters
        ----------
        rid : str or sequence of str
            Name of the request; a name that the server does not know is no error.
        """
        rids = (rid,) if isinstance(rid, str) else tuple(rid)
        if not all(rids):
            raise ArgumentValueError(
                "rid is empty", where="rid", hint="Give the name of a request, as in stream.rid."
            )
        _Abort(self._transport)(rids)

    def close(self) -> None:
        """Leave the streams that are running, and close the connections.

        The endpoint opens new connections if it is used again.
        """
        for stream in self._streams.take():
            stream.close()
        self._cleaner.close()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        mine = {"_cleaner", "_streams"}  # threads and connections stay behind
        return {name: value for name, value in vars(self).items() if name not in mine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._cleaner = Cleaner()
        self._streams = _LiveStreams()

    def __repr__(self) -> str:
        transport = self._transport
        model = self.model_info.get("served_model_name") or self.model_info.get("model_path", "unknown model")
        if transport.last_answer is None:
            state = "not asked yet"
        else:
            age = time.monotonic() - transport.last_answer
            state = "answered just now" if age < 1 else f"answered {age:.0f} s ago"
        if transport.last_error is not None:
            state += f", then: {transport.last_error.message}"
        key = ", api_key=***" if transport.secret else ""
        return f"RuntimeEndpoint({self.base_url!r}{key})\n  {model}, {state}"

    @property
    def _info_timeout(self) -> float:
        own = self._transport.read_timeout
        return INFO_TIMEOUT if own is None else min(own, INFO_TIMEOUT)

    def _info(self, path: str, old_path: str) -> dict[str, Any]:
        """Read one of the objects that describe the server; SGLang up to 0.5.2 has other names for them."""
        try:
            response = self._transport.get(path, read_timeout=self._info_timeout)
        except NotServedError:
            response = self._transport.get(old_path, read_timeout=self._info_timeout)
        info = self._transport.json(response)
        if not isinstance(info, dict) or (path == "/model_info" and "model_path" not in info):
            raise ProtocolError("The answer does not describe an SGLang server", where=response.url)
        return info

    def _text_is_cumulative(self) -> bool:
        info = self._server_info or {}
        return bool(info.get("stream_output")) and "incremental_streaming_output" not in info

    def _post_generate(self, request: GenerateRequest) -> tuple[list[dict[str, Any]], float]:
        """Send a request that is not streamed: the answers, and the seconds that they took."""
        started = time.perf_counter()
        response = self._guarded(request, stream=False)
        total = time.perf_counter() - started
        answer = self._transport.json(response)
        answers = answer if isinstance(answer, list) else [answer]
        expected = len(request.prompts) * request.samples
        if len(answers) != expected or not all(isinstance(item, dict) for item in answers):
            raise ProtocolError(
                f"Not {expected} answers to {expected} questions",
                where=response.url,
            )
        return answers, total

    def _guarded(self, request: GenerateRequest, *, stream: bool) -> Any:
        """Post a request; whoever stops waiting for the answer also stops the generation."""
        try:
            return self._transport.send("POST", "/generate", request.body, stream=stream)
        except (ServerTimeoutError, KeyboardInterrupt, SystemExit):
            try:
                _Abort(self._transport)(request.rids)
            except NbruntimeError as error:
                _log.debug("abort of %s: %s", request.rids, error)
            raise


class _LiveStreams:
    """The streams of an endpoint that somebody still holds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: weakref.WeakSet[GenerationStream] = weakref.WeakSet()

    def add(self, stream: GenerationStream) -> None:
        with self._lock:
            self._streams.add(stream)

    def take(self) -> list[GenerationStream]:
        with self._lock:
            streams = list(self._streams)
            self._streams.clear()
        return streams


class _Abort:
    """Aborts requests by their rids; holds the transport only, so that an endpoint can be collected."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __call__(self, rids: Sequence[str]) -> None:
        connect, read = ABORT_TIMEOUTS
        for rid in rids:
            self._transport.send(
                "POST", "/abort_request", {"rid": rid}, connect_timeout=connect, read_timeout=read
            )
