"""`RuntimeEndpoint`: the client of one SGLang server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from nbruntime.chat.template import ChatTemplate
from nbruntime.display.views import view_class
from nbruntime.endpoint import operations
from nbruntime.endpoint.background_closer import BackgroundCloser
from nbruntime.endpoint.base_client import BaseClient, checked_rids
from nbruntime.endpoint.http import INFO_TIMEOUT, HttpRequest
from nbruntime.endpoint.live_streams import LiveStreams
from nbruntime.endpoint.transport import Transport
from nbruntime.frontend.backend import FrontendBackend
from nbruntime.generation import Generation, GenerationStream
from nbruntime.protocol.load import Load
from nbruntime.protocol.messages import Messages
from nbruntime.protocol.profile import build_profile_request
from nbruntime.protocol.requests import GenerateRequest, Prompt, build_generate_request


class RuntimeEndpoint(BaseClient, FrontendBackend):
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
        Name of a chat template (see `nbruntime.chat.named_templates`); by default the model's own.
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
        super().__init__(base_url, api_key, verify, chat_template_name, connect_timeout, read_timeout)
        del api_key  # tracebacks may show variables
        self._open()
        self._transport.run(operations.read_model_info(self._capabilities))

    def _open(self) -> None:
        self._transport = Transport(self._settings)
        self._closer = BackgroundCloser()
        self._streams = LiveStreams[GenerationStream]()

    # What the server is

    @property
    def model_info(self) -> dict[str, Any]:
        """What the server says about its model, read when the endpoint was made."""
        return self._capabilities.model_info or {}

    @property
    def chat_template(self) -> ChatTemplate:
        """How messages become a prompt: the template named, else the model's own, else a guess."""
        return self._capabilities.chat_template()

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
        return self._transport.run(operations.read_server_info(self._capabilities))

    def models(self) -> list[dict[str, Any]]:
        """Read which models are served: the model, and LoRA adapters.

        Returns
        -------
        list of dict
            Cards with ``id``, ``max_model_len`` (tokens) and, of an adapter, ``parent``.
        """
        return self._transport.run(operations.read_models())

    def loads(self) -> list[Load]:
        """Read how busy the server is.

        Returns
        -------
        list of Load
            One for each data-parallel rank; servers up to 0.5.2 say no more than a number of tokens.
        """
        return self._transport.run(operations.read_load())

    def health(self) -> bool:
        """Ask whether the server can generate; SGLang takes a second or more to find out.

        Returns
        -------
        bool
            False also when no server answers; ``repr`` then has the reason.
        """
        return self._transport.run(operations.is_healthy())

    # Generating

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
        return self._transport.run(operations.generate(request))

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
        return self._open_stream(request)

    def chat(
        self,
        messages: Messages,
        *,
        sampling_params: Mapping[str, Any] | None = None,
        rid: str | None = None,
        **arguments: Any,
    ) -> Generation | list[Generation]:
        """Generate the next message of a conversation, and wait for the whole of it.

        The conversation becomes a prompt by the chat template that was named (`chat_template_name`), whose
        stop texts are added, or by the model's own: on the server, or here where an old server cannot.

        Parameters
        ----------
        messages : str, mapping, or list of them
            Messages with ``role`` and ``content``; a text is a user message.
        sampling_params, rid
            As in `complete`.
        **arguments
            As in `complete`.

        Returns
        -------
        Generation or list of Generation
            The answer; its ``prompt`` is what the conversation became. A list for ``n > 1``.

        Raises
        ------
        ArgumentError
            For an unknown or wrong argument; nothing was sent.
        NbruntimeError
            As `complete`.

        Examples
        --------
        >>> talk = [{"role": "system", "content": "Be brief."}, "Name a colour."]
        >>> answer = endpoint.chat(talk, temperature=0)  # doctest: +SKIP
        >>> talk.append({"role": "assistant", "content": answer.text})  # doctest: +SKIP
        """
        request = self._transport.run(
            operations.chat_request(
                self._capabilities, messages, sampling_params=sampling_params, rid=rid, **arguments
            )
        )
        return self._transport.run(operations.generate(request))

    def stream_chat(
        self,
        messages: Messages,
        *,
        sampling_params: Mapping[str, Any] | None = None,
        rid: str | None = None,
        **arguments: Any,
    ) -> GenerationStream:
        """Generate the next message of a conversation, and give its text as it comes.

        Parameters
        ----------
        messages, sampling_params, rid
            As in `chat`.
        **arguments
            As in `complete`.

        Returns
        -------
        GenerationStream
            As `stream` gives.
        """
        request = self._transport.run(
            operations.chat_request(
                self._capabilities,
                messages,
                stream=True,
                sampling_params=sampling_params,
                rid=rid,
                **arguments,
            )
        )
        return self._open_stream(request)

    def _open_stream(self, request: GenerateRequest) -> GenerationStream:
        self._closer.start()
        started = time.perf_counter()
        body = self._transport.run(operations.open_stream(request, self._capabilities))
        stream = GenerationStream(
            body,
            request,
            close=body.close,
            abort=self._transport.abort,
            where=self._settings.url("/generate"),
            started=started,
            cumulative_text=self._capabilities.text_is_cumulative,
            scrub=self._settings.scrub,
            discard=self._closer,
        )
        self._streams.add(stream)
        self._closer.start()  # the endpoint may have been closed meanwhile
        return stream

    def abort(self, rid: str | Sequence[str]) -> None:
        """Stop a generation on the server.

        Parameters
        ----------
        rid : str or sequence of str
            Name of the request; a name that the server does not know is no error.
        """
        self._transport.abort(checked_rids(rid))

    # Tokens and embeddings

    def tokenize(
        self,
        text: str | Sequence[str] | None = None,
        *,
        messages: Messages | None = None,
        add_special_tokens: bool = True,
    ) -> list[int] | list[list[int]]:
        """Turn text into tokens, with the server's tokenizer.

        Parameters
        ----------
        text : str or list of str
            One text or several.
        messages : str, mapping, or list of them
            A conversation instead: what `chat` makes of it.
        add_special_tokens : bool
            Whether to add what the model wants at the beginning of a text.

        Returns
        -------
        list of int, or list of lists of int

        Raises
        ------
        ArgumentError
            If neither or both of the two are given.
        NotFoundError
            If the server cannot (SGLang up to 0.5.2), and its tokenizer cannot be loaded here.
        """
        tokens: list[int] | list[list[int]] = self._transport.run(
            operations.tokenize(self._settings, self._capabilities, text, messages, add_special_tokens)
        )
        return tokens

    def detokenize(
        self, tokens: Sequence[int] | Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> str | list[str]:
        """Turn tokens into text, with the server's tokenizer.

        Parameters
        ----------
        tokens : list of int, or list of lists of int
            The tokens of one text or of several.
        skip_special_tokens : bool
            Whether to leave out such tokens as the end of a text.

        Returns
        -------
        str or list of str

        Raises
        ------
        NotFoundError
            As `tokenize`.
        """
        text: str | list[str] = self._transport.run(
            operations.detokenize(self._settings, self._capabilities, tokens, skip_special_tokens)
        )
        return text

    def embed(
        self, text: Prompt | Sequence[Prompt], *, dimensions: int | None = None, lora_path: str | None = None
    ) -> list[float] | list[list[float]]:
        """Embed a text, on a server that was started with ``is_embedding=True``.

        Parameters
        ----------
        text : str, list of str, list of int, or list of lists of int
            One text or several, as text or as token ids.
        dimensions : int, optional
            Length of the vectors, for models that can shorten theirs.
        lora_path : str, optional
            LoRA adapter.

        Returns
        -------
        list of float, or list of lists of float
            A vector for each text.

        Raises
        ------
        BadRequestError
            If the server does not embed.
        """
        vectors: list[float] | list[list[float]] = self._transport.run(
            operations.embed(text, {"dimensions": dimensions, "lora_path": lora_path})
        )
        return vectors

    # Control

    def flush_cache(self) -> None:
        """Empty the KV cache.

        Raises
        ------
        BadRequestError
            If requests are running.
        """
        self._transport.send(HttpRequest("POST", "/flush_cache", safe=True))

    def abort_all(self) -> None:
        """Stop every request on the server, those of others too."""
        self._transport.send(HttpRequest("POST", "/abort_request", {"rid": "", "abort_all": True}, safe=True))

    def cache_prefix(self, prefix_str: str) -> None:
        """Bring a text into the KV cache, so that prompts which begin with it start sooner.

        Parameters
        ----------
        prefix_str : str
            The common beginning of later prompts.
        """
        self.complete(prefix_str, max_new_tokens=0)

    def start_profile(
        self,
        output_dir: str | None = None,
        *,
        start_step: int | None = None,
        num_steps: int | None = None,
        activities: Sequence[str] | None = None,
        profile_by_stage: bool | None = None,
        with_stack: bool | None = None,
        record_shapes: bool | None = None,
        profile_id: str | None = None,
        merge_profiles: bool | None = None,
        profile_prefix: str | None = None,
        profile_stages: Sequence[str] | None = None,
        detailed_annotations: bool | None = None,
        **unknown: Any,
    ) -> None:
        """Start the server's profiler.

        Parameters
        ----------
        output_dir : str, optional
            Folder of the traces, on the server's disk.
        start_step, num_steps : int, optional
            First step of the scheduler, and after how many to stop by itself.
        activities : list of str, optional
            Of ``"CPU"``, ``"GPU"``, ``"MEM"``, ``"RPD"`` and ``"CUDA_PROFILER"``; the first two by default.
        profile_by_stage : bool, optional
            One trace for prefill and one for decode.
        with_stack, record_shapes : bool, optional
            Record Python stacks, and shapes of tensors.
        profile_id, profile_prefix : str, optional
            Parts of the file names.
        merge_profiles : bool, optional
            Also write one trace of all ranks.
        profile_stages : list of str, optional
            Stages to record; all by default.
        detailed_annotations : bool, optional
            Record figures of the KV cache and of the requests with each step.

        Raises
        ------
        ArgumentError
            For an unknown option or a wrong value; nothing was sent.
        """
        options = locals() | unknown
        del options["self"], options["unknown"]
        self._transport.send(HttpRequest("POST", "/start_profile", build_profile_request(options)))

    def stop_profile(self) -> None:
        """Stop the server's profiler; returns when the traces are written."""
        self._transport.send(HttpRequest("POST", "/stop_profile"))

    def get(self, path: str, *, timeout: float = INFO_TIMEOUT) -> str:
        """Read any route that changes nothing, and give the answer as it is.

        Parameters
        ----------
        path : str
            Route, such as ``"/metrics"``.
        timeout : float
            Seconds to wait at most for a connection, and for the answer.

        Returns
        -------
        str
            The key masked; other secrets, as SGLang has them in ``"/server_info"``, are not.

        Raises
        ------
        ArgumentError
            For a path or a time-out that is none; nothing was sent.
        NbruntimeError
            If the server does not answer or refuses.
        """
        return self._transport.run(operations.read_text(path, timeout))

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
        return self._transport.run(operations.send_json(path, body))

    def panel(self, **options: Any) -> Any:
        """Make a live panel of the server: its load, latencies and fields.

        Parameters
        ----------
        **options
            Of `nbruntime.notebook.views.panel.ServerPanel`.

        Returns
        -------
        ServerPanel
            A widget: display it.
        """
        return view_class("panel")(self, **options)

    def close(self) -> None:
        """Leave the streams that are running, and close the connections.

        The endpoint opens new connections if it is used again.
        """
        for stream in self._streams.take():
            stream.close()
        self._closer.close()
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._settings, self._capabilities = state["settings"], state["known"]
        self._open()
