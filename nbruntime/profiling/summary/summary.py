"""The summary of a profile: a few sentences that name the bottleneck with figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from nbruntime.display.cards import Card, CardMixin
from nbruntime.display.html import escape
from nbruntime.display.numbers import duration, percent, rate
from nbruntime.profiling.figures import Figures
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.summary.findings import CLIENT_IDLE, findings
from nbruntime.profiling.summary.time_shares import TimeShares, time_shares

MOST_SENTENCES = 5

LEAST_SHARE = 0.01
"""Smaller parts of the time are not named."""


class Summary(CardMixin, str):
    """Sentences as one text, which a notebook shows line by line.

    Examples
    --------
    >>> Summary(["Decode was the bottleneck.", "Nothing waited."])
    Decode was the bottleneck.
    Nothing waited.
    >>> str(Summary(["One.", "Two."]))
    'One. Two.'
    """

    __slots__ = ("sentences",)
    sentences: tuple[str, ...]

    def __new__(cls, sentences: Sequence[str]) -> Self:
        """Join the sentences."""
        made = super().__new__(cls, " ".join(sentences))
        made.sentences = tuple(sentences)
        return made

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[str, ...]]]:
        return type(self), (self.sentences,)

    def __repr__(self) -> str:
        return "\n".join(self.sentences)

    def html(self) -> str:
        """Return the sentences as HTML, a line for each."""
        return "".join(f"<div>{escape(sentence)}</div>" for sentence in self.sentences)

    def _card(self) -> Card:
        return Card("Summary", body=self.html(), plain="\n".join(f"  {each}" for each in self.sentences))


def summary(data: ProfileData) -> Summary:
    """Say in two to five sentences where the time went; in one if there was no request."""
    data = data.snapshot()
    figures = Figures(data.requests)
    shares = time_shares(data, figures)
    if shares is None:
        running = data.ended is None
        return Summary(
            [
                "No request has been made yet."
                if running
                else "No request was made through this client in this time."
            ]
        )
    found = [finding.sentence for finding in findings(data, figures, shares)]
    unknown = _unknown(data, shares) if figures.measured else ""
    kept = found[: MOST_SENTENCES - 1 - bool(unknown)]
    if figures.measured and len(kept) + bool(unknown) < MOST_SENTENCES - 1:
        kept.append(_volume(figures))
    return Summary([_where_the_time_went(shares, figures), *kept, *([unknown] if unknown else [])])


def _where_the_time_went(shares: TimeShares, figures: Figures) -> str:
    if shares.source == "steps":
        return _of_wall(shares)
    if shares.source == "server times":
        return _of_requests(shares)
    before = shares.before_first_token
    if before is None:
        if not figures.measured:
            counts = {"running": figures.running, "stopped": figures.stopped, "failed": figures.failed}
            said = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
            return f"No request finished in {duration(shares.wall)}: {said}."
        return f"The requests took {duration(figures.e2e.median or 0.0)} at the median."
    return (
        f"{percent(before)} of the requests' time passed before their first token, "
        f"{percent(1 - before)} after it."
    )


def _of_wall(shares: TimeShares) -> str:
    prefill, decode = shares.prefill or 0.0, shares.decode or 0.0
    idle = max(1 - prefill - decode, 0.0)
    traced = " traced" if shares.window < shares.wall else ""
    if idle > max(prefill, decode):
        return (
            f"The server was idle for {percent(idle)} of the{traced} {duration(shares.window)}; "
            f"{percent(prefill)} was prefill, {percent(decode)} decode."
        )
    names = [("prefill", prefill), ("decode", decode)]
    (first, most), (second, rest) = sorted(names, key=lambda item: -item[1])
    idled = f"; the server was idle for {percent(idle)}" if idle >= LEAST_SHARE else ""
    return (
        f"{_bottleneck(first, shares)}{percent(most)} of the{traced} time was spent in {first}, "
        f"{percent(rest)} in {second}{idled}."
    )


def _of_requests(shares: TimeShares) -> str:
    parts = {
        "the queue": shares.queue or 0.0,
        "prefill": shares.prefill or 0.0,
        "decode": shares.decode or 0.0,
        "client and network": shares.other,
    }
    (first, most), *others = sorted(parts.items(), key=lambda item: -item[1])
    rest = "".join(f", {percent(share)} in {name}" for name, share in others if share >= LEAST_SHARE)
    return f"{_bottleneck(first, shares)}{percent(most)} of the requests' time was spent in {first}{rest}."


def _bottleneck(name: str, shares: TimeShares) -> str:
    """Call a part the bottleneck, unless the client sent too little to have one on the server."""
    if shares.no_request >= CLIENT_IDLE:
        return ""
    was = "were" if " and " in name else "was"
    return f"{name[0].upper()}{name[1:]} {was} the bottleneck: "


def _volume(figures: Figures) -> str:
    ended = f"{figures.finished:,} finished request" + ("" if figures.finished == 1 else "s")
    said = f"{ended} in {duration(figures.wall)}"
    if figures.token_rate:
        said += f" gave {rate(figures.token_rate)} tokens/s"
    if figures.concurrency and figures.finished > 1:
        said += f", {figures.concurrency:.1f} at once on average"
    return f"{said}."


def _unknown(data: ProfileData, shares: TimeShares) -> str:
    if shares.source == "client times":
        most = max((sample.load.num_waiting_reqs or 0 for sample in data.samples), default=0)
        queued = f"; up to {most:,} queued at once" if most else ""
        return (
            "Queue and prefill cannot be told apart, since the server reports no times of its own "
            f"(SGLang does with enable_metrics=True){queued}."
        )
    if shares.source == "server times":
        return "Which requests shared a step is not known, since the server keeps no step log."
    if not any(step.rids for step in data.steps):
        return "Which requests were in a step is not known: a trace does not name them."
    return ""
