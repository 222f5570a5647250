"""The interface of a chat template, as the frontend language uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nbruntime.protocol.messages import Message


class ChatTemplate(Protocol):
    """A chat template, as the frontend language uses it."""

    @property
    def name(self) -> str:
        """Name of the template."""
        ...

    @property
    def default_system_prompt(self) -> str | None:
        """System message of a conversation without one."""
        ...

    @property
    def stop_str(self) -> Sequence[str]:
        """Texts that end a message."""
        ...

    @property
    def image_token(self) -> str:
        """Text that stands for an image."""
        ...

    def get_prefix_and_suffix(self, role: str, hist_messages: Sequence[Message]) -> tuple[str, str]:
        """Return the text before and after a message of `role` that follows `hist_messages`."""
        ...
