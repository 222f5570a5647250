"""The model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nbruntime.embedded.text.pretrained import load_pretrained
from nbruntime.errors import ArgumentTypeError
from nbruntime.protocol.messages import for_template

_END_OF_MESSAGE = ("<|eom_id|>", "<|content_model_end_sampling|>", "<|ifm|im_end|>")
"""Tokens that end a message where a model's files name another end token only; SGLang's list."""


class Tokenizer:
    """Text to token ids and back, with the chat template of the model's folder, or another one."""

    def __init__(self, folder: Path, chat_template: str | None = None) -> None:
        self.folder = folder
        self._pretrained = load_pretrained(folder)
        self.backend = self._pretrained.backend_tokenizer
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

    def has_token(self, token_id: int) -> bool:
        """Tell whether a token has a text; models may have more tokens than their tokenizer."""
        return self.backend.id_to_token(token_id) is not None

    @cached_property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer, as the tokenizer knows them: its end token, and those of a message."""
        added = self._pretrained.get_added_vocab()
        ends = [self._pretrained.eos_token_id, *map(added.get, _END_OF_MESSAGE)]
        return frozenset(token_id for token_id in ends if token_id is not None)

    @cached_property
    def chat_template(self) -> str | None:
        """Jinja template that turns messages into a prompt."""
        if self._chat_template is not None:
            return self._chat_template
        template: str | dict[str, str] | None = self._pretrained.chat_template
        return template.get("default") if isinstance(template, dict) else template

    def render_chat(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """Turn messages into a prompt; ValueError without a chat template, or if it refuses the messages."""
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        if self.chat_template is None:
            raise ValueError(
                "The model has no chat template: send text, or start the server with --chat-template."
            )

        def render(given: list[dict[str, Any]]) -> str:
            rendered, _ = render_jinja_template(
                conversations=[given],
                chat_template=self.chat_template,
                add_generation_prompt=add_generation_prompt,
                **self._pretrained.special_tokens_map,
            )
            text: str = rendered[0]
            return text

        try:
            return render(for_template(messages, render))
        except ArgumentTypeError as error:
            raise ValueError(f"Model only supports text input. {error.message} ({error.where})") from error
        except (TemplateError, TypeError) as error:  # a template meets values of any type
            raise ValueError(f"The chat template refused the messages: {error}") from error
