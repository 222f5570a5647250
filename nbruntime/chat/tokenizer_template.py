"""The chat template of a model's tokenizer, cut into the text around each message."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nbruntime.chat.tokenizer import load_tokenizer
from nbruntime.errors import ArgumentValueError
from nbruntime.protocol.messages import Message, for_template

Render = Callable[[list[dict[str, Any]], bool], str]
"""Writes messages as a prompt; the second argument asks for the beginning of an answer as well."""


@dataclass(frozen=True)
class TokenizerTemplate:
    """A Jinja chat template in the form that the frontend language uses.

    A Jinja template writes whole conversations. The text around one message is found by rendering markers
    instead of messages, once without the message and once with it; all pieces together are the conversation.

    Parameters
    ----------
    name, stop_str, image_token
        As in `nbruntime.chat.named_templates.NamedTemplate`; the name is the tokenizer's path.
    render : callable
        Writes messages as a prompt.
    bos : str
        BOS text that the server adds by itself.
    special : tuple of str
        Texts of special tokens, which are not cut.
    """

    name: str
    render: Render = field(repr=False)
    bos: str = ""
    stop_str: tuple[str, ...] = ()
    image_token: str = "<image>"
    special: tuple[str, ...] = field(default=(), repr=False)
    _cache: dict[tuple[str, ...], tuple[str, str]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def load(cls, path: str, *, image_token: str = "<image>") -> TokenizerTemplate | None:
        """Load the template of a tokenizer; None if it has no template.

        Raises
        ------
        OSError, ValueError
            If the tokenizer cannot be loaded.
        """
        tokenizer = load_tokenizer(path)
        if not getattr(tokenizer, "chat_template", None):
            return None
        return cls.from_tokenizer(tokenizer, name=path, image_token=image_token)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, *, name: str, image_token: str = "<image>") -> TokenizerTemplate:
        """Make it from a tokenizer of transformers."""

        def render(messages: list[dict[str, Any]], begin_answer: bool) -> str:
            return str(
                tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=begin_answer)
            )

        first = tokenizer("")["input_ids"][:1]
        adds_bos = bool(first) and first[0] == tokenizer.bos_token_id
        special = tuple(tokenizer.all_special_tokens)
        bare = cls(name, render, tokenizer.bos_token if adds_bos else "", (), image_token, special)
        end = bare.get_prefix_and_suffix("assistant", [{"role": "user"}])[1].strip()
        stop = [text for text in (end, tokenizer.eos_token) if text and text in special]
        return replace(bare, stop_str=tuple(dict.fromkeys(stop)))

    def render_chat(self, messages: Sequence[Message]) -> str:
        """Write a whole conversation and the beginning of an answer.

        Raises
        ------
        ArgumentError
            If a message holds more than text, or the template refuses the conversation.
        """
        given = for_template(messages, lambda some: self.render(some, True))
        try:
            text = self.render(given, True)
        except ImportError:
            raise
        except Exception as error:  # what a template raises is up to the template
            raise ArgumentValueError(
                f"The chat template refuses the messages: {error}",
                where=self.name,
                hint="Change the roles or their order, or name another template with chat_template_name.",
            ) from error
        return text.removeprefix(self.bos)

    @property
    def default_system_prompt(self) -> str | None:
        """The system message that the template writes by itself, or None."""
        marker = _marker(0)
        alone = self._render_markers(["user"])
        given = self._render_markers(["system", "user"])
        if alone is None or given is None:
            return None
        before, after = given.split(marker, 1)
        after = after.split(_marker(1), 1)[0]
        text = alone.split(marker, 1)[0]
        if text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after):
            return text[len(before) : len(text) - len(after)]
        return None

    def get_prefix_and_suffix(self, role: str, hist_messages: Sequence[Message]) -> tuple[str, str]:
        """Return the text before and after a message of `role` that follows `hist_messages`.

        Only the roles of those matter. Both texts are empty for a role that the template refuses.
        """
        return self._around((*(str(message["role"]) for message in hist_messages), role))

    def _around(self, roles: tuple[str, ...]) -> tuple[str, str]:
        if roles not in self._cache:
            self._cache[roles] = self._surroundings(roles) or ("", "")
        return self._cache[roles]

    def _surroundings(self, roles: tuple[str, ...]) -> tuple[str, str] | None:
        # A template may refuse an order of roles, or move the system message, which is written already: then
        # try without the system message, then the message alone.
        spoken = roles[1:] if roles[0] == "system" and len(roles) > 1 else roles
        alone = ("user", roles[-1]) if roles[-1] == "assistant" else (roles[-1],)
        for each in dict.fromkeys((roles, spoken, alone)):
            found = self._text_around(each)
            if found is not None and not any(_marker(place) in "".join(found) for place in range(len(each))):
                return found
        return None

    def _text_around(self, roles: tuple[str, ...]) -> tuple[str, str] | None:
        own = _marker(len(roles) - 1)
        before, found, end = (self._render_markers(roles) or "").rpartition(own)
        suffix = self._common_suffix(
            end, _text_after(own, self._render_markers((*roles, _next_role(roles[-1]))))
        )
        if not found and roles[-1] == "system":
            # Some templates write it only with a user's message, whose own text then has the rest.
            before, found, _ = (self._render_markers((*roles, "user")) or "").rpartition(own)
            suffix = ""
        if not found:
            return None
        # The text after the previous message is that message's suffix.
        last = _marker(len(roles) - 2) if len(roles) > 1 else ""
        earlier = self._around(roles[:-1])[1] if last else ""
        prefix = _text_after(last, before).removeprefix(earlier)
        if roles[-1] == "assistant" and last:
            # Take the generation prompt: the template may write finished answers in another way.
            begun = _text_after(last, self._render_markers(roles[:-1], begin_answer=True)).removeprefix(
                earlier
            )
            prefix = begun or prefix.rstrip(" ")
        return prefix, suffix

    def _common_suffix(self, end: str, continued: str) -> str:
        """Return the text after a message that does not depend on whether the conversation goes on."""
        if not continued:
            return end  # the template refuses to go on
        whole = "|".join([*map(re.escape, self.special), "."])
        parts = re.findall(whole, end, re.DOTALL)
        while not continued.startswith("".join(parts)):
            parts.pop()
        return "".join(parts)

    def _render_markers(self, roles: Sequence[str], *, begin_answer: bool = False) -> str | None:
        """Render a conversation of markers; None if the template refuses."""
        messages = [{"role": role, "content": _marker(place)} for place, role in enumerate(roles)]
        try:
            text = self.render(messages, begin_answer)
        except Exception as error:
            if isinstance(error, ImportError):
                raise
            return None
        return text.removeprefix(self.bos)


def _text_after(marker: str, text: str | None) -> str:
    """Return the text after a marker, or all of it without a marker."""
    return (text or "").rpartition(marker)[2] if marker else text or ""


def _next_role(role: str) -> str:
    return "user" if role in ("system", "assistant") else "assistant"


def _marker(place: int) -> str:
    return f"Message{place}Here"
