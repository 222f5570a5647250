"""`Explanation`: where the time of one answer went, as a bar and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nbruntime.display.cards import Card, CardMixin
from nbruntime.display.numbers import duration, token_count

PartKind = Literal[
    "client",
    "server",
    "queue",
    "prefill",
    "turns",
    "stall",
    "decode",
    "retraction",
    "siblings",
    "first",
    "all",
]

LABELS: dict[PartKind, str] = {
    "client": "client and network",
    "server": "rest of the server",
    "queue": "queue",
    "prefill": "prefill",
    "turns": "decoding of others",
    "stall": "stall",
    "first": "until the first token",
    "all": "not divided",
    "decode": "decode",
    "retraction": "retraction",
    "siblings": "other answers",
}
"""The parts in the order in which they are shown."""

ExplanationSource = Literal["step log", "server times", "client", ""]
"""What an explanation rests on; empty if nothing is known."""

MENTIONED_SHARE = 0.05
"""Least share of the time that the sentence mentions."""

DISTURBANCE_SHARE = 0.01
"""The same for what other requests did."""

MOST_MENTIONED = 4


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the time of an answer.

    Parameters
    ----------
    kind : str
        ``"client"`` (client and network), ``"server"`` (tokens, grammars, passing on), ``"queue"``,
        ``"prefill"``, ``"turns"`` (others were decoded between the chunks of its prefill), ``"stall"`` (the
        prefill of other requests), ``"decode"``, ``"retraction"`` (it was put back into the queue, and
        computed again), ``"siblings"`` (the other answers of its request); ``"first"`` (until the first
        token) and ``"all"`` are parts that cannot be divided.
    seconds : float
        How long it took.
    tokens : int
        Tokens of this answer that were computed.
    cached_tokens : int
        Prompt tokens that were in the cache.
    requests : int
        Other requests that were computed meanwhile.
    other_tokens : int
        Tokens of their prompts that were computed.
    batch_sizes : tuple of (int, int) or None
        Fewest and most sequences that were computed together; None if unknown.
    """

    kind: PartKind
    seconds: float
    tokens: int = 0
    cached_tokens: int = 0
    requests: int = 0
    other_tokens: int = 0
    batch_sizes: tuple[int, int] | None = None

    @property
    def label(self) -> str:
        """Its name in a legend."""
        return LABELS[self.kind]

    @property
    def detail(self) -> str:
        """What happened, in a few words; empty if nothing is known.

        Examples
        --------
        >>> Part("stall", 0.24, requests=1, other_tokens=3900).detail
        'by the prefill of another request (3,900 tokens)'
        >>> Part("decode", 2.0, tokens=40, batch_sizes=(2, 4)).detail
        '40 tokens in batches of 2 to 4 requests'
        """
        match self.kind:
            case "server":
                return "tokenizer, grammar, passing on"
            case "queue" if self.requests:
                verb = "was" if self.requests == 1 else "were"
                return f"while {_others(self.requests)} {verb} computed"
            case "prefill":
                cached = f" ({self.cached_tokens:,} more from the cache)" if self.cached_tokens else ""
                return f"{token_count(self.tokens)}{cached}{self._together()}"
            case "turns":
                return f"{_others(self.requests)} between the chunks of the prefill"
            case "stall":
                return f"by the prefill of {_others(self.requests)} ({token_count(self.other_tokens)})"
            case "decode":
                return f"{token_count(self.tokens)}{self._among()}"
            case "retraction":
                return "put back into the queue and computed again"
        return ""

    def _together(self) -> str:
        if not self.requests:
            return ""
        return f" together with {token_count(self.other_tokens)} of {_others(self.requests)}"

    def _among(self) -> str:
        match self.batch_sizes:
            case None:
                return ""
            case (1, 1):
                return " alone"
            case (fewest, most) if fewest == most:
                return f" in a batch of {most} requests"
            case (fewest, most):
                return f" in batches of {fewest} to {most} requests"

    @property
    def clause(self) -> str:
        """It in a sentence, such as "240 ms stalled by the prefill of another request (3,900 tokens)"."""
        took, detail = duration(self.seconds), self.detail
        match self.kind:
            case "client":
                return f"{took} in client and network"
            case "server":
                return f"{took} in the rest of the server ({detail})"
            case "queue":
                return f"{took} in the queue{detail and ' '}{detail}"
            case "prefill" | "decode":
                return f"{took} to {self.kind} {detail}"
            case "turns":
                return f"{took} waiting for the decoding of {detail}"
            case "stall":
                return f"{took} stalled {detail}"
            case "retraction":
                return f"{took} lost because the KV cache was full"
            case "siblings":
                return f"{took} waiting for the other answers of its request"
            case "first":
                return f"{took} until the first token"
            case "all":
                return f"{took} that cannot be divided"

    @property
    def is_disturbance(self) -> bool:
        """Whether other requests are the reason."""
        return self.kind in ("turns", "stall", "retraction")


@dataclass(frozen=True, repr=False)
class Explanation(CardMixin):
    """Where the time of one answer went.

    Parameters
    ----------
    parts : tuple of Part
        They add up to `total`.
    total : float
        Seconds from sending the request to its end, by the client, else by the server.
    source : str
        ``"step log"`` (exact), ``"server times"`` (other requests are not known), ``"client"``, or empty.
    notes : tuple of str
        What is not known, and how to learn it; a sentence each.

    Examples
    --------
    >>> decode = Part("decode", 1.2, tokens=40, batch_sizes=(1, 1))
    >>> stall = Part("stall", 0.3, requests=1, other_tokens=3900)
    >>> Explanation((decode, stall), 1.5, "step log")
    Explanation 1.5 s · by the server's steps
      Took 1.5 s: 1.2 s to decode 40 tokens alone and 300 ms stalled by the prefill of another request...
    """

    parts: tuple[Part, ...]
    total: float
    source: ExplanationSource = ""
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """Why it took so long: the largest parts, the largest first."""
        if not self.parts:
            return "Nothing is known of its time."
        clauses = [part.clause for part in self._mentioned()]
        last = clauses.pop()
        said = f"{', '.join(clauses)} and {last}" if clauses else last
        return f"Took {duration(self.total)}: {said}."

    def _mentioned(self) -> list[Part]:
        largest = sorted(self.parts, key=lambda part: part.seconds, reverse=True)
        return [
            part
            for place, part in enumerate(largest[:MOST_MENTIONED])
            if place == 0
            or self.share(part) >= (DISTURBANCE_SHARE if part.is_disturbance else MENTIONED_SHARE)
        ]

    def share(self, part: Part) -> float:
        """Return the share of the time that a part took, between 0 and 1."""
        return part.seconds / self.total if self.total else 0.0

    def seconds(self, kind: PartKind) -> float:
        """Return the seconds of a part, such as ``"queue"``; 0 if there is none."""
        return sum(part.seconds for part in self.parts if part.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """Return a dict that JSON takes."""
        return {
            "total": self.total,
            "source": self.source,
            "sentence": self.sentence,
            "parts": [
                {
                    **asdict(part),
                    "batch_sizes": None if part.batch_sizes is None else list(part.batch_sizes),
                    "label": part.label,
                    "share": self.share(part),
                }
                for part in self.parts
            ],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return self.sentence

    def __repr__(self) -> str:
        return self._card().text()

    def _card(self) -> Card:
        from nbruntime.generation.explanation_card import explanation_card

        return explanation_card(self)


def _others(count: int) -> str:
    return "another request" if count == 1 else f"{count} other requests"


def in_order(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return the parts that took any time, in the order of `LABELS`."""
    places = {kind: place for place, kind in enumerate(LABELS)}
    return tuple(sorted((part for part in parts if part.seconds > 0), key=lambda part: places[part.kind]))
