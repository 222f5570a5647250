"""Tokens with their logprobs, as SGLang sends them in ``meta_info``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nbruntime.display.cards import Card, CardMixin, Details
from nbruntime.display.html import escape, shortened
from nbruntime.display.numbers import token_count
from nbruntime.errors import ProtocolError


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """One token, with its logprob if the request asked for logprobs.

    Parameters
    ----------
    id : int
        Id in the vocabulary.
    text : str or None
        The token as text, if the server sent it.
    logprob : float or None
        Natural logarithm of its probability; None for the first token of a prompt.
    top : tuple of Token
        The most likely tokens at this place, the likeliest first (``top_logprobs_num``).
    asked : tuple of Token
        The requested tokens at this place (``token_ids_logprob``).

    Examples
    --------
    >>> Token(7042, " Paris", -0.5).probability
    0.6065306597126334
    """

    id: int
    text: str | None = None
    logprob: float | None = None
    top: tuple[Token, ...] = ()
    asked: tuple[Token, ...] = ()

    def __repr__(self) -> str:
        logprob = "" if self.logprob is None else f", logprob={self.logprob:.4g}"
        top = f", top={[(token.text, token.logprob) for token in self.top]}" if self.top else ""
        return f"Token({self.id}, {self.text!r}{logprob}{top})"

    @property
    def word(self) -> str:
        """The token in a line of text: quoted, or its id if its text is not known."""
        return str(self.id) if self.text is None else repr(self.text)

    @property
    def probability(self) -> float | None:
        """Probability of the token, between 0 and 1."""
        return None if self.logprob is None else math.exp(self.logprob)


class Tokens(CardMixin, list[Token]):
    """A list of tokens that shows itself as a table.

    Examples
    --------
    >>> Tokens([Token(7042, " Paris", -0.5), Token(13, ".", -0.1)])
    2 tokens
      ' Paris' '.'
      mean logprob -0.3
    """

    def __repr__(self) -> str:
        return self._card().text()

    def _card(self) -> Card:
        logprobs = [token.logprob for token in self if token.logprob is not None]
        words = shortened(" ".join(token.word for token in self[:_PLAIN]), 100)
        return Card(
            token_count(len(self)),
            plain=f"  {words}" if self else "",
            body=f"<div>{escape(words)}</div>",
            pairs=[("mean logprob", f"{sum(logprobs) / len(logprobs):.3g}" if logprobs else None)],
            details=[Details("tokens", rows=token_rows(self), heads=True)] if self else [],
        )


_PLAIN = 40
"""Most tokens in a line of text."""


def token_rows(tokens: Iterable[Token]) -> list[list[object]]:
    """Return a table of tokens, with its heads."""
    rows: list[list[object]] = [["token", "id", "logprob", "probability"]]
    for token in tokens:
        probability = token.probability
        rows.append(
            [
                "" if token.text is None else repr(token.text),
                token.id,
                "" if token.logprob is None else f"{token.logprob:.3f}",
                "" if probability is None else f"{probability:.1%}",
            ]
        )
    return rows


def read_tokens(meta_info: Mapping[str, Any], side: str) -> Tokens:
    """Read the logprob lists of one side, ``input`` or ``output``."""
    try:
        return Tokens(_triples(meta_info, side))
    except (TypeError, ValueError, LookupError):
        raise ProtocolError(f"The {side} logprobs are not in SGLang's form") from None


def _triples(meta_info: Mapping[str, Any], side: str) -> Iterator[Token]:
    chosen = meta_info.get(f"{side}_token_logprobs") or []
    top = meta_info.get(f"{side}_top_logprobs") or []
    asked = meta_info.get(f"{side}_token_ids_logprobs") or []
    for place, (logprob, token_id, text) in enumerate(chosen):
        yield Token(
            token_id,
            text,
            logprob,
            _alternatives(top[place] if place < len(top) else None),
            _alternatives(asked[place] if place < len(asked) else None),
        )


def _alternatives(entries: Any) -> tuple[Token, ...]:
    return tuple(Token(token_id, text, logprob) for logprob, token_id, text in entries or ())
