"""What one event of a ``/generate`` stream adds to an answer, and the answer so far."""

from __future__ import annotations

import os.path
from dataclasses import dataclass
from typing import Any

from nbruntime.protocol.generate_event import ABSENT, read_meta_info, read_running_event
from nbruntime.protocol.repeated_bytes import RepeatedBytes

OUTPUT_LOGPROB_LISTS = ("output_token_logprobs", "output_top_logprobs", "output_token_ids_logprobs")
"""Lists of ``meta_info`` with one entry per generated token; incremental servers send only the new part."""


@dataclass(slots=True, eq=False, repr=False)
class Delta:
    """What one event adds to one item."""

    index: int  # which answer of a batch or of n samples
    text: str  # new text; may be empty
    start: int  # tokens of the item before this event
    count: int  # new tokens
    finished: bool  # True if the item ends with this event
    _event: bytes | dict[str, Any]  # read when its meta_info is asked for
    _cumulative: bool  # True if the event repeats what came before

    def __repr__(self) -> str:
        end = ", finished" if self.finished else ""
        return f"Delta({self.index}, {self.text!r}, tokens {self.start}+{self.count}{end})"

    @property
    def meta_info(self) -> dict[str, Any]:
        """The event's ``meta_info``; its lists of output logprobs hold the new tokens only."""
        if isinstance(self._event, bytes):
            self._event = {"meta_info": read_meta_info(self._event)}
        meta_info = dict(self._event.get("meta_info") or {})
        if self._cumulative and self.start:
            for name in OUTPUT_LOGPROB_LISTS:
                if isinstance(meta_info.get(name), list):
                    meta_info[name] = meta_info[name][self.start :]
        return meta_info


class Item:
    """One answer of a stream, so far.

    `finish_reason` is SGLang's object, or None until the answer ends; `prompt_token_ids` are there if the
    request asked for them.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.output_ids: list[int] = []
        self.finish_reason: dict[str, Any] | None = None
        self.prompt_token_ids: list[int] | None = None
        self._parts: list[str] = []
        self._meta_info: dict[str, Any] = {}
        self._raw: bytes | None = None  # the last event, if its meta_info has not been parsed yet
        self._parsed: tuple[bytes, dict[str, Any]] = b"", {}  # an event and its meta_info
        self._cumulative: bool | None = None  # not known until the second event
        self._repeated: RepeatedBytes | None = None  # of the last event, if the next one can repeat its bytes
        self._has_logprobs = False

    # Other threads read an item while one thread extends it; reading changes nothing that extending uses.
    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._parts)

    @property
    def meta_info(self) -> dict[str, Any]:
        """The last event's ``meta_info``, with whole lists of output logprobs."""
        raw = self._raw
        if raw is None:
            return self._meta_info
        parsed, meta_info = self._parsed
        if parsed is not raw:
            meta_info = read_meta_info(raw) or self._meta_info
            self._parsed = raw, meta_info
        return meta_info

    @property
    def rid(self) -> str | None:
        """The request's name on the server; the server makes it if n > 1."""
        rid = self.meta_info.get("id")
        return rid if isinstance(rid, str) else None

    def extend(self, raw: bytes) -> Delta | None:
        """Take an event in the middle of an answer; None if it must be parsed for `take`."""
        cumulative = self._cumulative
        if cumulative is None:
            return None  # not known yet
        new: bytes | None = raw
        if cumulative:
            new = None if self._repeated is None else self._repeated.cut(raw)
        event = None if new is None else read_running_event(new)
        if event is None or event.index != self.index:
            return None
        progress, text, ids = event.meta_info, event.text, event.output_ids
        if not cumulative and (self._has_logprobs or progress.output_token_logprobs is not ABSENT):
            return None  # the lists are joined
        start, count = len(self.output_ids), len(ids)
        if progress.completion_tokens != start + count:
            return None
        self.output_ids += ids
        if text:
            self._parts.append(text)
        self._raw = raw
        return Delta(self.index, text, start, count, False, raw, cumulative)

    def take(self, event: dict[str, Any], raw: bytes, cumulative_text: bool) -> Delta:
        """Take a parsed event, cumulative or incremental."""
        meta_info: dict[str, Any] = event.get("meta_info") or {}
        ids: list[int] = event.get("output_ids") or []
        text: str = event.get("text") or ""
        reason = meta_info.get("finish_reason")
        start = len(self.output_ids)
        aborted = reason is not None and reason.get("type") == "abort"
        repeats = self._is_cumulative(ids, text, meta_info.get("completion_tokens"))

        if repeats or cumulative_text:
            text, whole = _new_text(self.text, text, keep=aborted)
            self._parts = [whole]
        elif text:
            self._parts.append(text)
        if not repeats:
            self.output_ids.extend(ids)
        elif len(ids) >= start:
            self.output_ids = ids
        if aborted:
            meta_info = {**self.meta_info, **meta_info}  # an abort may come without the counts
        self._meta_info = meta_info if repeats else self._joined(meta_info, len(ids))
        self._raw = None
        self.finish_reason = reason
        self.prompt_token_ids = event.get("prompt_token_ids", self.prompt_token_ids)
        self._repeated = RepeatedBytes.of(raw) if self._cumulative else None
        self._has_logprobs = OUTPUT_LOGPROB_LISTS[0] in self._meta_info
        return Delta(
            self.index, text, start, len(self.output_ids) - start, reason is not None, event, repeats
        )

    def _is_cumulative(self, ids: list[int], text: str, completion_tokens: Any) -> bool:
        """Tell whether an event repeats what came before."""
        old = len(self.output_ids)
        if not old and not self.text:
            return False  # the first event adds everything, in both kinds of stream
        if old and ids and isinstance(completion_tokens, int):
            if completion_tokens == old + len(ids):
                self._cumulative = False
                return False
            if completion_tokens == len(ids):
                self._cumulative = True
                return True
            if completion_tokens <= old:
                return True  # incremental servers send the whole text once more when a request is aborted
        if self._cumulative is None and text:
            # Old servers send no output_ids; their text is always cumulative.
            return text.startswith(self.text)
        return bool(self._cumulative)

    def _joined(self, meta_info: dict[str, Any], new: int) -> dict[str, Any]:
        """Append the logprob lists of an incremental event to the earlier ones."""
        before = self.meta_info
        if OUTPUT_LOGPROB_LISTS[0] not in before:
            return meta_info
        for name in OUTPUT_LOGPROB_LISTS:
            entries = meta_info.get(name)
            if isinstance(entries, list) and isinstance(before.get(name), list) and len(entries) <= new:
                meta_info = {**meta_info, name: before[name] + entries}
            elif entries is None and name in before:
                meta_info = {**meta_info, name: before[name]}
        return meta_info


def _new_text(old: str, text: str, *, keep: bool) -> tuple[str, str]:
    """Compare a cumulative text with the last one; return what is new and the text so far."""
    if text.startswith(old):
        return text[len(old) :], text
    if old.startswith(text):
        # The server cut off a stop string. An aborted request may come without its text.
        return "", old if keep else text
    return text[len(os.path.commonprefix((old, text))) :], text  # noqa: RUF071 (texts, not paths)
