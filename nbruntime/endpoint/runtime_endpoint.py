"""`RuntimeEndpoint`: the client of one SGLang server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Self, Unpack

from nbruntime.chat.chat_template import ChatTemplate
from nbruntime.display.number_list import as_numbers
from nbruntime.endpoint import operations, server_operations
from nbruntime.endpoint.base_client import checked_rids
from nbruntime.endpoint.live_streams import LiveStreams
from nbruntime.endpoint.options import GenerateOptions, takes
from nbruntime.endpoint.server_control import ServerControl
from nbruntime.endpoint.step_log import step_source
from nbruntime.endpoint.time_limit import TimeLimit, time_limit
from nbruntime.endpoint.transport import Transport
from nbruntime.frontend.backend import FrontendBackend
from nbruntime.generation import Generation, GenerationStream
from nbruntime.protocol.messages import Messages
from nbruntime.protocol.requests import GenerateRequest, Prompt


class RuntimeEndpoint(ServerControl, FrontendBackend):
    """A client of a running SGLang server, or of the embedded one.

    Replaces SGLang's class of the same name, also as a backend (``sgl.set_default_backend(endpoint)``).

    Parameters
    ----------
    base_url : str
        URL of the server.
    api_key : str, optional
        Key of the server. It is never shown: not in a repr, ``vars()``, an error or a pickle.
    verify : str, optional
        File or folder of certificates to check an https server by; the usual ones by default.
    chat_template_name : str or ChatTemplate, optional
        A chat template, SGLang's too, or the name of one (see `nbruntime.chat.named_templates`); by default
        the model's own.
    connect_timeout, read_timeout : float or None
        Seconds to wait for a connection, and for the next bytes of an answer; None waits for ever.

    Raises
    ------
    ServerConnectionError, ServerTimeoutError
        If no server answers.
    AuthenticationError
        If the key is missing or wrong.

    Examples
    --------
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
        chat_template_name: str | ChatTemplate | None = None,
        *,
        connect_timeout: float | None = 10.0,
        read_timeout: float | None = 600.0,
    ) -> None:
        super().__init__(base_url, api_key, verify, chat_template_name, connect_timeout, read_timeout)
        del api_key  # tracebacks may show variables
        self._transport.run(server_operations.read_model_info(self._capabilities))

    def _open_transport(self) -> None:
        self._transport = Transport(self._settings)

    def _open(self) -> None:
        self._open_transport()
        self._streams = LiveStreams[GenerationStream]()

    # Generating

    @takes(GenerateOptions)
    def complete(  # type: ignore[override] # FrontendBackend's takes any name
        self, prompt: Prompt | Sequence[Prompt], **arguments: Unpack[GenerateOptions]
    ) -> Generation | list[Generation]:
        """Generate, and wait for the whole answer.

        Parameters
        ----------
        prompt : str, list of str, list of int, or list of lists of int
            One prompt or a batch, as text or as token ids.
        **arguments
            Sampling parameters (``temperature``, ``stop``, …) and other fields of SGLang's request
            (``session_id``, ``image_data``, …). None means "not given", except for ``max_new_tokens``,
            where it means the rest of the context. Among them:

            - ``sampling_params`` (mapping, or a list with one for each prompt): sampling parameters; those
              given by name override them;
            - ``rid`` (str): name of the request, for `abort`; one is made when not given;
            - ``return_logprob`` (bool): also give logprobs, in ``Generation.tokens`` and ``input_tokens``;
            - ``logprob_start_len`` (int): first prompt token with a logprob; by default the prompt has none;
            - ``top_logprobs_num`` (int): number of likeliest tokens to give at each position;
            - ``lora_path`` (str): LoRA adapter;
            - ``timeout`` (float): seconds until its last text must be read; else it is stopped on the server.

        Returns
        -------
        Generation or list of Generation
            A list for a batch or ``n > 1``, prompt by prompt.

        Raises
        ------
        ArgumentError
            For an unknown or wrong argument; nothing was sent.
        ServerTimeoutError
            If `timeout` has passed; of a stream a `StreamTimeoutError`, with the text until then.
        GenerationAbortedError
            If the request was aborted; holds the text received until then.
        NbruntimeError
            If the server does not answer or refuses.
        """
        with time_limit(arguments.pop("timeout", None), self._settings):
            return self._generate(operations.generate_request(prompt, arguments))

    @takes(GenerateOptions)
    def stream(  # type: ignore[override]
        self, prompt: Prompt | Sequence[Prompt], **arguments: Unpack[GenerateOptions]
    ) -> GenerationStream:
        """Generate, and give the text as it comes.

        The stream is an iterator of text, best used in a ``with`` statement: leaving it stops the generation.
        Later errors are raised by the stream, and hold the text received until then.

        Parameters
        ----------
        prompt, **arguments
            As in `complete`.
        """
        with time_limit(arguments.pop("timeout", None), self._settings) as limit:
            request = operations.generate_request(prompt, arguments, stream=True)
            return self._open_stream(request, limit)

    @takes(GenerateOptions)
    def chat(self, messages: Messages, **arguments: Unpack[GenerateOptions]) -> Generation | list[Generation]:
        """Generate the next message of a conversation, and wait for the whole answer.

        The server applies the model's own chat template. With `chat_template_name`, or an old server, the
        template is applied here, and its stop texts are added.

        Parameters
        ----------
        messages : str, mapping, or list of them
            Messages with ``role`` and ``content``; a text is a user message.
        **arguments
            As in `complete`, and so is the answer; its ``prompt`` is the conversation after the template.

        Examples
        --------
        >>> talk = [{"role": "system", "content": "Be brief."}, "Name a colour."]
        >>> answer = endpoint.chat(talk, temperature=0)  # doctest: +SKIP
        >>> talk.append({"role": "assistant", "content": answer.text})  # doctest: +SKIP
        """
        with time_limit(arguments.pop("timeout", None), self._settings):
            request = self._transport.run(operations.chat_request(self._capabilities, messages, arguments))
            return self._generate(request)

    @takes(GenerateOptions)
    def stream_chat(self, messages: Messages, **arguments: Unpack[GenerateOptions]) -> GenerationStream:
        """Generate the next message of a conversation, and give its text as it comes.

        Parameters
        ----------
        messages, **arguments
            As in `chat`; the stream is as in `stream`.
        """
        with time_limit(arguments.pop("timeout", None), self._settings) as limit:
            request = self._transport.run(
                operations.chat_request(self._capabilities, messages, arguments, stream=True)
            )
            return self._open_stream(request, limit)

    def _generate(self, request: GenerateRequest) -> Generation | list[Generation]:
        with self._observers.observe("/generate", request.rids, request.samples) as observed:
            return self._transport.run(operations.generate(request, observed))

    def _open_stream(self, request: GenerateRequest, limit: TimeLimit | None) -> GenerationStream:
        transport, started = self._transport, time.perf_counter()
        transport.closer.start()
        with self._observers.observe("/generate", request.rids, request.samples) as observed:
            body = transport.run(operations.open_stream(request, self._capabilities))
            stream = GenerationStream(
                body,
                request,
                close=body.close if limit is None else limit.closing(body.close),
                abort=transport.abort,
                where=transport.settings.url("/generate"),
                started=started,
                cumulative_text=self._capabilities.text_is_cumulative,
                scrub=transport.settings.scrub,
                discard=transport.closer,
                source=step_source(transport.settings, request),
            )
            observed.follow(stream)
        self._streams.add(stream)
        if limit is not None:
            limit.keep_for(stream)
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
            A conversation instead of `text`, as `chat` sends it.
        add_special_tokens : bool
            Whether to add the tokens that the model expects at the beginning of a text.

        Raises
        ------
        NotFoundError
            If the server cannot (SGLang up to 0.5.2), and its tokenizer cannot be loaded here.
        """
        tokens: list[int] | list[list[int]] = self._transport.run(
            operations.tokenize(self._settings, self._capabilities, text, messages, add_special_tokens)
        )
        return as_numbers(tokens)

    def detokenize(
        self, tokens: Sequence[int] | Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> str | list[str]:
        """Turn tokens into text, with the server's tokenizer; errors as in `tokenize`.

        Parameters
        ----------
        tokens : list of int, or list of lists of int
            The tokens of one text or of several.
        skip_special_tokens : bool
            Whether to leave out such tokens as the end of a text.
        """
        text: str | list[str] = self._transport.run(
            operations.detokenize(self._settings, self._capabilities, tokens, skip_special_tokens)
        )
        return text

    def embed(
        self,
        text: Prompt | Sequence[Prompt],
        *,
        dimensions: int | None = None,
        lora_path: str | None = None,
        timeout: float | None = None,
    ) -> list[float] | list[list[float]]:
        """Embed a text, on a server that was started with ``is_embedding=True``.

        Parameters
        ----------
        text : str, list of str, list of int, or list of lists of int
            One text or several, as text or as token ids.
        dimensions : int, optional
            Length of the vectors, for models that can shorten theirs.
        lora_path, timeout
            As in `complete`.
        """
        with time_limit(timeout, self._settings):
            request = operations.embed_request(text, {"dimensions": dimensions, "lora_path": lora_path})
            with self._observers.observe("/encode", request.rids) as observed:
                vectors: list[float] | list[list[float]] = self._transport.run(
                    operations.embed(request, observed)
                )
        return as_numbers(vectors)

    def cache_prefix(self, prefix_str: str) -> None:
        """Compute a text into the KV cache, so that prompts which begin with it start sooner.

        Parameters
        ----------
        prefix_str : str
            The common beginning of later prompts.
        """
        self.complete(prefix_str, max_new_tokens=0)

    def post(self, path: str, body: Any = None, *, timeout: float | None = None) -> Any:
        """Send any request of SGLang's protocol, and read the JSON of the answer.

        Parameters
        ----------
        path : str
            Route, such as ``"/encode"``.
        body : object, optional
            Sent as JSON, without checks.
        timeout : float, optional
            As in `complete`.
        """
        observed = self._observers.observe(path, operations.names_in(body))
        with observed, time_limit(timeout, self._settings):
            return self._transport.run(operations.send_json(path, body, observed))

    def close(self) -> None:
        """Stop the running streams and close the connections; the next request opens new ones."""
        for stream in self._streams.take():
            stream.close()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
