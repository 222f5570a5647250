"""The methods of `Runtime` that send requests to its server."""

from __future__ import annotations

import json
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Unpack

from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint
from nbruntime.endpoint.options import takes
from nbruntime.endpoint.profile_recording import ProfileRecording, RecordingOptions
from nbruntime.errors import ArgumentValueError, ServerConnectionError
from nbruntime.launch.server import Server
from nbruntime.protocol.requests import build_generate_request, request_names

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["RuntimeRequests", "diagnose"]

ERROR_LOG_LINES = 20
"""Lines of the log in the error that says that the server died."""

NEW_RUNTIME = "Start a new one: Runtime(...)."

END_SECONDS = 2.0
"""Seconds to wait for the end of a server: its connections break a moment before that is known."""


class RuntimeRequests:
    """Send requests to the server of a `Runtime`, which is the only subclass."""

    url: str
    endpoint: RuntimeEndpoint
    _server: Server | None
    _arguments: dict[str, Any]

    def generate(
        self,
        prompt: str | list[str],
        sampling_params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        return_logprob: list[bool] | bool | None = False,
        logprob_start_len: list[int] | int | None = None,
        top_logprobs_num: list[int] | int | None = None,
        lora_path: list[str | None] | str | None = None,
        session_id: str | None = None,
        *,
        timeout: float | None = None,
    ) -> str:
        """Generate text and wait for all of it.

        Parameters
        ----------
        prompt : str or list of str
            One prompt or a batch. For a batch the other parameters may be lists, one entry for each prompt.
        sampling_params : dict, optional
            Sampling parameters by SGLang's names.
        return_logprob, top_logprobs_num : bool, int, optional
            Whether to return log probabilities; of how many of the most likely tokens at each position.
        logprob_start_len : int, optional
            First position, in tokens of the prompt, to return log probabilities of.
        lora_path, session_id : str, optional
            LoRA adapter; session on the server that the request belongs to.
        timeout : float, optional
            Seconds that the whole request may take; then it is stopped on the server.

        Returns
        -------
        str
            JSON: an object for one prompt, a list of them for a batch.

        Raises
        ------
        ArgumentValueError
            If `lora_path` does not have one entry for each prompt.
        ServerStatusError
            If the server refuses the request.
        """
        if isinstance(lora_path, list):
            prompts = 1 if isinstance(prompt, str) else len(prompt)
            if len(lora_path) != prompts:
                raise ArgumentValueError(
                    f"lora_path has {len(lora_path)} entries, and there are {prompts} prompts",
                    hint="Give one adapter, or None, for each prompt.",
                )
            if isinstance(prompt, str):
                lora_path = lora_path[0]  # a list is for a batch
        request = build_generate_request(
            prompt,
            sampling_params=sampling_params,
            return_logprob=return_logprob,
            logprob_start_len=logprob_start_len,
            top_logprobs_num=top_logprobs_num,
            return_text_in_logprobs=False if return_logprob else None,  # as SGLang's Runtime leaves it
            lora_path=lora_path,
            session_id=session_id,
        )
        return self._post("/generate", request.body, timeout)

    async def async_generate(
        self,
        prompt: str | list[int],
        sampling_params: Mapping[str, Any] | None = None,
        session_id: str | None = None,
        *,
        timeout: float | None = None,
    ) -> AsyncIterator[str]:
        """Generate text and yield it as it arrives; also called ``add_request``.

        Parameters
        ----------
        prompt : str or list of int
            One prompt, as text or as token ids.
        sampling_params, session_id, timeout : dict, str, float, optional
            As in `generate`.

        Yields
        ------
        str
            New text. Leaving the loop stops the generation.

        Raises
        ------
        ServerStatusError, StreamError
            If the server refuses the request; if the stream breaks off, with the text until then.
        """
        self._check_alive()
        stream = await self._async_endpoint.stream(
            prompt, sampling_params=sampling_params, session_id=session_id, timeout=timeout
        )
        async with stream:
            async for text in stream:
                yield text

    add_request = async_generate

    def encode(
        self,
        prompt: str | list[str] | list[dict[str, Any]] | list[list[dict[str, Any]]],
        *,
        timeout: float | None = None,
    ) -> str:
        """Embed a text, on a server that was started with ``is_embedding=True``; returns JSON.

        Parameters
        ----------
        prompt : str, or list of str, dict or list of dict
            What to embed; a list is a batch.
        timeout : float, optional
            As in `generate`.
        """
        many = isinstance(prompt, list)
        rids = request_names(None, len(prompt) if many else 1, many)
        return self._post("/encode", {"text": prompt, "rid": list(rids) if many else rids[0]}, timeout)

    async def get_server_info(self) -> dict[str, Any]:
        """Return the server's arguments and figures of its scheduler."""
        self._check_alive()
        return await self._async_endpoint.get_server_info()

    @cached_property
    def server_args(self) -> SimpleNamespace:
        """The server's arguments by SGLang's names, as they are in effect; keys are masked."""
        self._check_alive()
        return SimpleNamespace(**self.endpoint.get_server_info())

    @cached_property
    def _async_endpoint(self) -> AsyncRuntimeEndpoint:
        return AsyncRuntimeEndpoint.beside(self.endpoint)

    def get_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer of the folder or hub id that the server names."""
        self._check_alive()
        from transformers import AutoTokenizer  # seconds, so not before

        info = self.endpoint.model_info
        path = info.get("tokenizer_path") or info["model_path"]
        options = {
            name: self._arguments[name]
            for name in ("revision", "trust_remote_code")
            if name in self._arguments
        }
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, **options)
        return tokenizer

    @takes(RecordingOptions)
    def profile(self, **options: Unpack[RecordingOptions]) -> ProfileRecording:
        """Record what a block of code costs: ``with runtime.profile() as profile:``, or ``async with``.

        It notes the requests of this object and of its `endpoint`. Arguments are those of
        `RuntimeEndpoint.profile`; the traces of the server's profiler are found by themselves.

        Examples
        --------
        >>> with runtime.profile(trace=True, num_steps=50) as profile:  # doctest: +SKIP
        ...     runtime.generate("Once upon a time", {"max_new_tokens": 64})
        """
        self._check_alive()
        return self.endpoint.profile(**options)

    def start_profile(self, **options: Any) -> None:
        """Start the server's profiler, with SGLang's options such as ``output_dir`` and ``num_steps``."""
        self._check_alive()
        self.endpoint.start_profile(**options)

    def stop_profile(self) -> None:
        """Stop the server's profiler; returns when the traces are written."""
        self._check_alive()
        self.endpoint.stop_profile()

    def cache_prefix(self, prefix: str) -> None:
        """Compute a prefix into the KV cache, so that prompts that begin with it start sooner."""
        self._check_alive()
        self.endpoint.cache_prefix(prefix)

    def flush_cache(self) -> None:
        """Empty the server's KV cache."""
        self._check_alive()
        self.endpoint.flush_cache()

    def _post(self, path: str, body: dict[str, Any], timeout: float | None) -> str:
        self._check_alive()
        try:
            return json.dumps(self.endpoint.post(path, body, timeout=timeout))
        except ServerConnectionError as error:
            self._check_alive(error)  # `diagnose` has waited for its end
            raise

    def _check_alive(self, cause: Exception | None = None) -> None:
        server, message, hint = self._server, "This Runtime was shut down", NEW_RUNTIME
        if server is not None:
            if server.usable:
                return
            if not server.stopped:
                message, hint = f"The server died: {server.exit_cause()}", _log_hint(server)
        raise ServerConnectionError(message, where=getattr(self, "url", None), hint=hint) from cause


def diagnose(reference: weakref.ref[Server]) -> str | None:
    """Return why a server does not answer; None while it runs."""
    server = reference()
    if server is None or server.stopped:
        return f"Its Runtime was shut down. {NEW_RUNTIME}"
    server.wait_until_gone(END_SECONDS)
    return None if server.usable else f"The server died: {server.exit_cause()}. {_log_hint(server)}"


def _log_hint(server: Server) -> str:
    return f"{NEW_RUNTIME} The last lines of its log:\n{server.logs(ERROR_LOG_LINES)}"
