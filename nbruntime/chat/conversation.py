"""A conversation that is kept from cell to cell."""

from __future__ import annotations

from collections.abc import Iterator

from nbruntime.display.cards import Card, CardMixin
from nbruntime.display.html import escape
from nbruntime.display.live_text import text_html
from nbruntime.generation import Generation
from nbruntime.generation.answer_html import LIVE_STYLE


class Conversation(CardMixin):
    """Messages between a user and a model; `%%sgl_chat` keeps one in a variable. Its `str` is the transcript.

    Parameters
    ----------
    system : str, optional
        Instructions for the whole conversation.

    Attributes
    ----------
    turns : list of (str, Generation)
        The user's messages and the answers.

    Examples
    --------
    >>> talk = Conversation(system="Be brief.")
    >>> talk.add("Hello", Generation("Hello! How can I help?"))
    >>> talk
    Conversation · 1 turn
    system: Be brief.
    user: Hello
    assistant: Hello! How can I help?
    >>> talk.messages[-1]
    {'role': 'assistant', 'content': 'Hello! How can I help?'}
    >>> talk.undo()
    'Hello'
    """

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self.turns: list[tuple[str, Generation]] = []

    @property
    def messages(self) -> list[dict[str, str]]:
        """All messages, as `RuntimeEndpoint.chat` takes them."""
        return [{"role": role, "content": text} for role, text in self._lines()]

    @property
    def answers(self) -> list[Generation]:
        """The records of the answers."""
        return [answer for _, answer in self.turns]

    def asking(self, question: str) -> list[dict[str, str]]:
        """Return the messages, followed by a new one of the user."""
        return [*self.messages, {"role": "user", "content": question}]

    def add(self, question: str, answer: Generation) -> None:
        """Add the user's message and its answer, which may be incomplete."""
        self.turns.append((question, answer))

    def undo(self) -> str | None:
        """Remove the last turn and return the user's message; None if there is no turn."""
        return self.turns.pop()[0] if self.turns else None

    def reset(self) -> None:
        """Remove all turns; the system message stays."""
        self.turns.clear()

    def __len__(self) -> int:
        return len(self.turns)

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return "\n".join(f"{role}: {text}" for role, text in self._lines())

    def __repr__(self) -> str:
        return self._card().text()

    def _card(self) -> Card:
        lines = list(self._lines())
        parts = "".join(
            f'<div class="nbr-quiet">{escape(role)}</div>{text_html(text, markdown=role == "assistant")}'
            for role, text in lines
        )
        return Card(
            "Conversation",
            state=f"{len(self.turns)} turn" + ("" if len(self.turns) == 1 else "s"),
            body=f"<style>{LIVE_STYLE}</style>{parts}",
            plain=str(self),
        )

    def _lines(self) -> Iterator[tuple[str, str]]:
        if self.system is not None:
            yield "system", self.system
        for question, answer in self.turns:
            yield "user", question
            yield "assistant", answer.text
