"""What a client has learned of its server and its model."""

from __future__ import annotations

import threading
from typing import Any

from nbruntime.chat.chat_template import ChatTemplate
from nbruntime.chat.rendering import find_chat_template
from nbruntime.chat.tokenizer import load_tokenizer
from nbruntime.endpoint.settings import Settings
from nbruntime.errors import NotFoundError


class ServerCapabilities:
    """What a client has learned of its server; None stands for "not asked yet"."""

    def __init__(self, given_template: ChatTemplate | None) -> None:
        self.given_template = given_template  # the caller's, instead of the model's
        self.model_info: dict[str, Any] | None = None  # the last answers of these routes
        self.server_info: dict[str, Any] | None = None
        self.is_old = False  # True for the route names of SGLang up to 0.5.2
        self.tokenizes: bool | None = None  # texts
        self.tokenizes_messages: bool | None = None  # conversations
        self._found_template: ChatTemplate | None = None
        self._tokenizer: Any = None
        self._loading = threading.Lock()

    @property
    def text_is_cumulative(self) -> bool:
        """Whether streamed text is cumulative but ids are not: ``--stream-output`` of old servers."""
        info = self.server_info or {}
        return bool(info.get("stream_output")) and "incremental_streaming_output" not in info

    def chat_template(self) -> ChatTemplate:
        """Return the given template, else load the model's own, else guess; loading may take seconds."""
        if self.given_template is not None:
            return self.given_template
        if self._found_template is None:
            with self._loading:  # once, also for many threads
                if self._found_template is None:
                    self._found_template = find_chat_template(self.model_info or {})
        return self._found_template

    def tokenizer(self, settings: Settings) -> Any:
        """Load the model's tokenizer, for a server that does not tokenize; it may take seconds."""
        if self._tokenizer is None:
            info = self.model_info or {}
            path = str(info.get("tokenizer_path") or info.get("model_path") or "")
            try:
                self._tokenizer = load_tokenizer(path)
            except (OSError, ImportError, ValueError, RuntimeError) as error:
                reason = str(error).strip().split("\n", 1)[0]
                raise NotFoundError(
                    f"The server does not tokenize, and {path} cannot be loaded here: {reason}",
                    where=settings.base_url,
                    hint="Use a newer server, or load the tokenizer yourself.",
                ) from error
        return self._tokenizer

    def __getstate__(self) -> dict[str, Any]:
        # Templates and tokenizers are loaded again.
        return {**vars(self), "_found_template": None, "_tokenizer": None, "_loading": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _loading=threading.Lock())
