"""The model's tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from nbruntime.errors import ArgumentTypeError, ModelNotFoundError
from nbruntime.protocol.messages import for_template


class Tokenizer:
    """Text to token ids and back, with the chat template of the model's folder, or another one."""

    def __init__(self, folder: Path, chat_template: str | None = None) -> None:
        self.folder = folder
        self.backend = _load_backend(folder)
        # Truncation and padding in the file are for training.
        self.backend.no_truncation()
        self.backend.no_padding()
        self._chat_template = chat_template

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Turn text into token ids."""
        # The batch call releases the interpreter lock, and the fast one leaves out offsets.
        (encoding,) = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Turn token ids into text; an incomplete character becomes U+FFFD."""
        text: str = self.backend.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def least_tokens(self, text: str) -> int:
        """Give a lower bound of the number of tokens of a text, from its length and the longest token."""
        return len(text) // (self._longest_token + 1)

    @cached_property
    def _longest_token(self) -> int:
        return max(map(len, self.backend.get_vocab(with_added_tokens=True)))

    @cached_property
    def vocab_size(self) -> int:
        """Number of tokens, including special ones."""
        size: int = self.backend.get_vocab_size(with_added_tokens=True)
        return size

    @cached_property
    def chat_template(self) -> str | None:
        """Jinja template that turns messages into a prompt."""
        if self._chat_template is not None:
            return self._chat_template
        standalone = self.folder / "chat_template.jinja"
        if standalone.exists():
            return standalone.read_text(encoding="utf-8")
        template = self._config.get("chat_template")
        if isinstance(template, list):  # several named ones
            template = next((each["template"] for each in template if each.get("name") == "default"), None)
        return template

    def render_chat(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """Turn messages into a prompt; ValueError without a chat template, or if it refuses the messages."""
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        if self.chat_template is None:
            raise ValueError(
                "The model has no chat template: send text, or start the server with --chat-template."
            )
        special = {
            name: value["content"] if isinstance(value, dict) else value
            for name, value in self._config.items()
            if name.endswith("_token") and isinstance(value, str | dict)
        }

        def render(given: list[dict[str, Any]]) -> str:
            rendered, _ = render_jinja_template(
                conversations=[given],
                chat_template=self.chat_template,
                add_generation_prompt=add_generation_prompt,
                **special,
            )
            text: str = rendered[0]
            return text

        try:
            return render(for_template(messages, render))
        except ArgumentTypeError as error:
            raise ValueError(f"Model only supports text input. {error.message} ({error.where})") from error
        except (TemplateError, TypeError) as error:  # a template meets values of any type
            raise ValueError(f"The chat template refused the messages: {error}") from error

    @cached_property
    def _config(self) -> dict[str, Any]:
        path = self.folder / "tokenizer_config.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _load_backend(folder: Path) -> Any:
    try:
        backend = _read_backend(folder)
    except Exception as error:  # tokenizers raises bare ones
        reason = str(error).strip().partition("\n")[0]
        raise ModelNotFoundError(
            f"The tokenizer in {folder} cannot be read: {reason}", hint="Give a folder with a tokenizer.json."
        ) from error
    if backend is None:
        raise ModelNotFoundError(
            f"{folder} has no tokenizer.json, and its tokenizer has no fast form",
            hint="Save one with AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
        )
    return backend


def _read_backend(folder: Path) -> Any:
    path = folder / "tokenizer.json"
    if path.exists():
        return FastTokenizer.from_file(str(path))
    # Older models bring only sentencepiece files: transformers converts them.
    from transformers import AutoTokenizer

    return getattr(AutoTokenizer.from_pretrained(folder), "backend_tokenizer", None)
