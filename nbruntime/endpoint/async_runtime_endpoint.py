"""`AsyncRuntimeEndpoint`: the client of one SGLang server for callers with an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Self, Unpack

from nbruntime.chat.chat_template import ChatTemplate
from nbruntime.display.number_list import as_numbers
from nbruntime.endpoint import operations, server_operations
from nbruntime.endpoint.async_transport import AsyncTransport
from nbruntime.endpoint.base_client import BaseClient, checked_rids
from nbruntime.endpoint.http import INFO_TIMEOUT
from nbruntime.endpoint.live_streams import LiveStreams
from nbruntime.endpoint.options import GenerateOptions, ProfileOptions, takes
from nbruntime.endpoint.runtime_endpoint import RuntimeEndpoint
from nbruntime.endpoint.step_log import step_source
from nbruntime.endpoint.time_limit import AsyncTimeLimit
from nbruntime.errors import ServerConnectionError
from nbruntime.generation import AsyncGenerationStream, Generation
from nbruntime.protocol.load import Load
from nbruntime.protocol.messages import Messages
from nbruntime.protocol.requests import GenerateRequest, Prompt


class AsyncRuntimeEndpoint(BaseClient):
    """`RuntimeEndpoint` for callers with an event loop: the same names, to be awaited.

    The constructor sends nothing. `connect` or ``async with`` asks the server for its model, otherwise the
    first request that needs it. One client may be used from several event loops.

    Parameters
    ----------
    base_url, api_key, verify, chat_template_name, connect_timeout, read_timeout
        As in `RuntimeEndpoint`.

    Examples
    --------
    >>> async with AsyncRuntimeEndpoint("http://127.0.0.1:30000") as endpoint:  # doctest: +SKIP
    ...     answers = await asyncio.gather(*(endpoint.complete(p) for p in prompts))
    ...     async with await endpoint.stream("Once upon a time") as stream:
    ...         async for text in stream:
    ...             print(text, end="")
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

    def _open_transport(self) -> None:
        self._transport = AsyncTransport(self._settings)

    def _open(self) -> None:
        self._open_transport()
        self._streams = LiveStreams[AsyncGenerationStream]()

    @classmethod
    def beside(cls, endpoint: RuntimeEndpoint) -> Self:
        """Make a client of the same server as a blocking endpoint, with the same settings."""
        made = cls.__new__(cls)
        made._settings, made._capabilities = endpoint.settings, endpoint._capabilities
        made._observers = endpoint.observers
        made._open()
        return made

    async def connect(self) -> Self:
        """Ask the server for its model, once; errors as in `RuntimeEndpoint`."""
        await self._transport.run(server_operations.read_model_info(self._capabilities))
        return self

    # The server

    def _read_model_info(self) -> dict[str, Any]:
        if self._capabilities.model_info is None:
            raise ServerConnectionError(
                "The server was not asked yet",
                sent=False,
                where=self.base_url,
                hint="Use `async with`, or `await endpoint.connect()`.",
            )
        return self._capabilities.model_info

    async def get_model_name(self) -> str:
        """Name or path of the model; see `RuntimeEndpoint.get_model_name`."""
        return str(
            (await self._transport.run(server_operations.read_model_info(self._capabilities)))["model_path"]
        )

    async def get_server_info(self) -> dict[str, Any]:
        """Read the configuration and the state; see `RuntimeEndpoint.get_server_info`."""
        return await self._transport.run(server_operations.read_server_info(self._capabilities))

    async def models(self) -> list[dict[str, Any]]:
        """Read which models are served; see `RuntimeEndpoint.models`."""
        return await self._transport.run(server_operations.read_models())

    async def loads(self) -> list[Load]:
        """Read how busy the server is; see `RuntimeEndpoint.loads`."""
        return await self._transport.run(server_operations.read_load())

    async def health(self) -> bool:
        """Ask whether the server can generate; see `RuntimeEndpoint.health`."""
        return await self._transport.run(server_operations.is_healthy())

    # Generating

    @takes(GenerateOptions)
    async def complete(
        self, prompt: Prompt | Sequence[Prompt], **arguments: Unpack[GenerateOptions]
    ) -> Generation | list[Generation]:
        """Generate, and wait for the whole answer; see `RuntimeEndpoint.complete`."""
        limit = AsyncTimeLimit(arguments.pop("timeout", None), self._settings)
        return await self._generate(operations.generate_request(prompt, arguments), limit)

    @takes(GenerateOptions)
    async def stream(
        self, prompt: Prompt | Sequence[Prompt], **arguments: Unpack[GenerateOptions]
    ) -> AsyncGenerationStream:
        """Generate, and give the text as it comes; see `RuntimeEndpoint.stream`."""
        limit = AsyncTimeLimit(arguments.pop("timeout", None), self._settings)
        request = operations.generate_request(prompt, arguments, stream=True)
        return await self._stream(request, limit)

    @takes(GenerateOptions)
    async def chat(
        self, messages: Messages, **arguments: Unpack[GenerateOptions]
    ) -> Generation | list[Generation]:
        """Generate the next message of a conversation; see `RuntimeEndpoint.chat`."""
        limit = AsyncTimeLimit(arguments.pop("timeout", None), self._settings)
        request = await limit.run(
            self._transport.run(operations.chat_request(self._capabilities, messages, arguments))
        )
        return await self._generate(request, limit)

    @takes(GenerateOptions)
    async def stream_chat(
        self, messages: Messages, **arguments: Unpack[GenerateOptions]
    ) -> AsyncGenerationStream:
        """Generate the next message of a conversation as it comes; see `RuntimeEndpoint.stream_chat`."""
        limit = AsyncTimeLimit(arguments.pop("timeout", None), self._settings)
        request = await limit.run(
            self._transport.run(operations.chat_request(self._capabilities, messages, arguments, stream=True))
        )
        return await self._stream(request, limit)

    async def _generate(
        self, request: GenerateRequest, limit: AsyncTimeLimit
    ) -> Generation | list[Generation]:
        # The observers outside of the limit, which cancels what is inside of it.
        with self._observers.observe("/generate", request.rids, request.samples) as observed:
            return await limit.run(self._transport.run(operations.generate(request, observed)))

    async def _stream(self, request: GenerateRequest, limit: AsyncTimeLimit) -> AsyncGenerationStream:
        with self._observers.observe("/generate", request.rids, request.samples) as observed:
            stream = await limit.run(self._open_stream(request, limit))
            observed.follow(stream)
            return stream

    async def _open_stream(self, request: GenerateRequest, limit: AsyncTimeLimit) -> AsyncGenerationStream:
        transport, started = self._transport, time.perf_counter()
        transport.closer.start()
        body = await transport.run(operations.open_stream(request, self._capabilities))
        stream = AsyncGenerationStream(
            body,
            request,
            close=limit.closing(body.close),
            abort=transport.abort,
            abandon=partial(transport.abandon, body),
            spawn=transport.spawn,
            where=transport.settings.url("/generate"),
            started=started,
            cumulative_text=self._capabilities.text_is_cumulative,
            scrub=transport.settings.scrub,
            source=step_source(transport.settings, request),
        )
        self._streams.add(stream)
        limit.keep_for(stream)
        return stream

    async def abort(self, rid: str | Sequence[str]) -> None:
        """Stop a generation on the server; see `RuntimeEndpoint.abort`."""
        await self._transport.abort(checked_rids(rid))

    # Tokens and embeddings

    async def tokenize(
        self,
        text: str | Sequence[str] | None = None,
        *,
        messages: Messages | None = None,
        add_special_tokens: bool = True,
    ) -> list[int] | list[list[int]]:
        """Turn text into tokens; see `RuntimeEndpoint.tokenize`."""
        tokens: list[int] | list[list[int]] = await self._transport.run(
            operations.tokenize(self._settings, self._capabilities, text, messages, add_special_tokens)
        )
        return as_numbers(tokens)

    async def detokenize(
        self, tokens: Sequence[int] | Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> str | list[str]:
        """Turn tokens into text; see `RuntimeEndpoint.detokenize`."""
        text: str | list[str] = await self._transport.run(
            operations.detokenize(self._settings, self._capabilities, tokens, skip_special_tokens)
        )
        return text

    async def embed(
        self,
        text: Prompt | Sequence[Prompt],
        *,
        dimensions: int | None = None,
        lora_path: str | None = None,
        timeout: float | None = None,
    ) -> list[float] | list[list[float]]:
        """Embed a text; see `RuntimeEndpoint.embed`."""
        limit = AsyncTimeLimit(timeout, self._settings)
        request = operations.embed_request(text, {"dimensions": dimensions, "lora_path": lora_path})
        with self._observers.observe("/encode", request.rids) as observed:
            vectors: list[float] | list[list[float]] = await limit.run(
                self._transport.run(operations.embed(request, observed))
            )
        return as_numbers(vectors)

    # Control

    async def flush_cache(self) -> None:
        """Empty the KV cache; see `RuntimeEndpoint.flush_cache`."""
        await self._transport.run(server_operations.flush_cache())

    async def abort_all(self) -> None:
        """Stop every request on the server; see `RuntimeEndpoint.abort_all`."""
        await self._transport.run(server_operations.abort_all())

    async def cache_prefix(self, prefix_str: str) -> None:
        """Bring a text into the KV cache; see `RuntimeEndpoint.cache_prefix`."""
        await self.complete(prefix_str, max_new_tokens=0)

    @takes(ProfileOptions)
    async def start_profile(self, output_dir: str | None = None, **options: Unpack[ProfileOptions]) -> None:
        """Start the server's profiler; see `RuntimeEndpoint.start_profile`."""
        await self._transport.run(server_operations.start_profile({"output_dir": output_dir, **options}))

    async def stop_profile(self) -> None:
        """Stop the server's profiler; see `RuntimeEndpoint.stop_profile`."""
        await self._transport.run(server_operations.stop_profile())

    async def get(self, path: str, *, timeout: float = INFO_TIMEOUT) -> str:
        """Read any route that changes nothing; see `RuntimeEndpoint.get`."""
        return await self._transport.run(server_operations.read_text(path, timeout))

    async def post(self, path: str, body: Any = None, *, timeout: float | None = None) -> Any:
        """Send any request, and read the JSON of the answer; see `RuntimeEndpoint.post`."""
        limit = AsyncTimeLimit(timeout, self._settings)
        with self._observers.observe(path, operations.names_in(body)) as observed:
            return await limit.run(self._transport.run(operations.send_json(path, body, observed)))

    async def close(self) -> None:
        """Stop the running streams and close the connections; the next request opens new ones."""
        loop = asyncio.get_running_loop()
        for stream in self._streams.take():
            if stream.loop is loop:
                await stream.close()
            else:
                stream.leave_soon()
        await self._transport.close()

    async def __aenter__(self) -> Self:
        try:
            return await self.connect()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(self, *error: object) -> None:
        await self.close()
