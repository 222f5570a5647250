"""The servers of a load test, and what must be known of them before it starts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from nbruntime.endpoint import RuntimeEndpoint, operations, server_operations
from nbruntime.endpoint.base_client import BaseClient
from nbruntime.endpoint.server_capabilities import ServerCapabilities
from nbruntime.endpoint.settings import Settings
from nbruntime.endpoint.transport import Transport
from nbruntime.errors import ArgumentTypeError, ArgumentValueError, NbruntimeError

_HINT = "Give an endpoint, a Runtime, a URL, a list of them, or a dict of names and them."

SYLLABLES = ("bcdfghjklmnprstvwz", "aeiou", "bdgklmnprst")
"""First, middle and last letters of the words that random prompts take their tokens from."""


class Target:
    """One server under load.

    Parameters
    ----------
    label : str
        Its name in pictures.
    endpoint : BaseClient
        A client of it; only its settings are used.
    """

    def __init__(self, label: str, endpoint: BaseClient) -> None:
        self.label = label
        self.settings: Settings = endpoint.settings
        self._capabilities = ServerCapabilities(None)
        if endpoint.chat_template_name is not None:
            self._capabilities.given_template = endpoint.chat_template
        self.transport = Transport(self.settings)

    @cached_property
    def model(self) -> str:
        """Name of the model, asked once; raises if no server answers."""
        info = self.transport.run(server_operations.read_model_info(self._capabilities))
        return str(info.get("served_model_name") or info["model_path"])

    @cached_property
    def vocabulary(self) -> list[int]:
        """Ordinary tokens of the model, without special ones."""
        words = " ".join(map("".join, itertools.product(*SYLLABLES)))
        try:
            tokens = self.transport.run(
                operations.tokenize(self.settings, self._capabilities, words, None, False)
            )
        except NbruntimeError as error:
            error.hint = f"Random prompts need the server's tokens; give prompts=[...]. {error.hint or ''}"
            raise
        if not tokens:
            raise NbruntimeError(
                "The server's tokenizer gives no tokens",
                where=self.settings.url("/tokenize"),
                hint="Random prompts need them; give prompts=[...].",
            )
        return sorted(set(tokens))

    def read_prompts(self, prompts: Sequence[Any]) -> list[str | list[int]]:
        """Make texts or tokens of the caller's prompts; conversations get the chat template."""
        return [self._read_prompt(prompt) for prompt in prompts]

    def _read_prompt(self, prompt: Any) -> str | list[int]:
        if isinstance(prompt, str):
            return prompt
        if _is_conversation(prompt):
            request = self.transport.run(operations.chat_request(self._capabilities, prompt, {}))
            prompt = request.prompts[0]
        return prompt if isinstance(prompt, str) else [int(token) for token in prompt]

    def flush_cache(self) -> str:
        """Empty the server's cache; return what went wrong, or nothing."""
        try:
            self.transport.run(server_operations.flush_cache())
        except NbruntimeError as error:
            return error.message
        return ""

    def close(self) -> None:
        """Close the connections."""
        self.transport.close()


def read_targets(given: Any) -> list[Target]:
    """Read the first argument of `nbruntime.bench`; raises if it is of another kind."""
    if isinstance(given, Mapping):
        named = list(given.items())
    elif isinstance(given, list | tuple):
        named = [(None, each) for each in given]
    else:
        named = [(None, given)]
    if not named:
        raise ArgumentValueError("There is no server to test", where="endpoint", hint=_HINT)
    clients = [(name, _client_of(each)) for name, each in named]
    for _, client in clients:
        _refuse_proxy(client)
    targets = [Target(str(name) if name is not None else client.base_url, client) for name, client in clients]
    labels = [target.label for target in targets]
    for label in labels:
        if labels.count(label) > 1:
            raise ArgumentValueError(
                f"Two servers have the name {label!r}", where="endpoint", hint="Name them in a dict."
            )
    return targets


def _client_of(given: Any) -> BaseClient:
    if isinstance(given, str):
        with RuntimeEndpoint(given) as client:  # only its settings are used
            return client
    if isinstance(given, BaseClient):
        return given
    endpoint = getattr(given, "endpoint", None)  # a Runtime
    if isinstance(endpoint, BaseClient):
        return endpoint
    raise ArgumentTypeError(f"The endpoint is a {type(given).__name__}", where="endpoint", hint=_HINT)


def _refuse_proxy(client: BaseClient) -> None:
    if client.settings.proxy is not None:
        raise ArgumentValueError(
            "The server is reached through a proxy, which would be measured, too",
            where=client.base_url,
            hint="Put its host into the environment variable NO_PROXY, or test it from nearer by.",
        )


def _is_conversation(prompt: Any) -> bool:
    if isinstance(prompt, Mapping):
        return True
    messages = prompt if isinstance(prompt, Sequence) else ()
    return bool(messages) and all(isinstance(each, str | Mapping) for each in messages)
