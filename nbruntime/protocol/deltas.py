"""What the events of a ``/generate`` stream add, item by item.

SGLang sends the whole text again in every event, unless the server was started with
``--incremental-streaming-output``; the stream itself does not say which (0.5.23,
``srt/managers/tokenizer_manager.py``). `DeltaDecoder` tells the two apart by counting tokens and gives
what is new in either case.
"""

from __future__ import annotations

import json
import os.path
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nbruntime.protocol.answers import first_invalid_field, scrub_reason
from nbruntime.protocol.events import EventDecoder

OUTPUT_LOGPROB_LISTS = ("output_token_logprobs", "output_top_logprobs", "output_token_ids_logprobs")
"""Lists of ``meta_info`` with one entry per generated token; incremental servers send them in parts."""


@dataclass(frozen=True, slots=True)
class StreamFailure:
    """Why a stream cannot go on.

    Parameters
    ----------
    message : str
        The server's words, or what cannot be understood.
    status : int or None
        The status that the server gives with its message.
    from_server : bool
        Whether the server sent an error event; otherwise the bytes make no sense.
    """

    message: str
    status: int | None = None
    from_server: bool = True


class Delta:
    """What one event adds to one item.

    Attributes
    ----------
    index : int
        Which item of a batch or of n samples.
    text : str
        New text; may be empty.
    start : int
        Tokens of the item before this event.
    count : int
        New tokens.
    finished : bool
        Whether the item ends here.
    """

    __slots__ = ("_cumulative", "_event", "count", "finished", "index", "start", "text")

    def __init__(
        self,
        index: int,
        text: str,
        start: int,
        count: int,
        finished: bool,
        event: bytes | dict[str, Any],
        cumulative: bool,
    ) -> None:
        self.index = index
        self.text = text
        self.start = start
        self.count = count
        self.finished = finished
        self._event = event
        self._cumulative = cumulative

    def __repr__(self) -> str:
        end = ", finished" if self.finished else ""
        return f"Delta({self.index}, {self.text!r}, tokens {self.start}+{self.count}{end})"

    @property
    def meta_info(self) -> dict[str, Any]:
        """The event's ``meta_info``; its lists of output logprobs hold the new tokens only."""
        if isinstance(self._event, bytes):
            self._event = {"meta_info": _meta_info_of(self._event)}
        meta_info = dict(self._event.get("meta_info") or {})
        if self._cumulative and self.start:
            for name in OUTPUT_LOGPROB_LISTS:
                if isinstance(meta_info.get(name), list):
                    meta_info[name] = meta_info[name][self.start :]
        return meta_info


class Item:
    """One answer of a stream, as far as it has come.

    Attributes
    ----------
    index : int
        Its place among the prompts and samples.
    output_ids : list of int
        The generated tokens so far.
    finish_reason : dict or None
        SGLang's, once the item has ended.
    prompt_token_ids : list of int or None
        The prompt as tokens, if the request asked for them.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.output_ids: list[int] = []
        self.finish_reason: dict[str, Any] | None = None
        self.prompt_token_ids: list[int] | None = None
        self._parts: list[str] = []
        self._meta_info: dict[str, Any] = {}
        self._raw: bytes | None = None  # the event that meta_info is still to be read from
        self._read: tuple[bytes, dict[str, Any]] = b"", {}  # what was read from which
        self._cumulative: bool | None = None  # not known until the second event
        self._fast: tuple[bytes, bytes] | None = None  # how a cumulative event begins that extends this one

    # Other threads look at an item while one extends it: looking changes nothing that extending relies on.
    @property
    def text(self) -> str:
        """The text so far, as the server has it."""
        return "".join(self._parts)

    @property
    def meta_info(self) -> dict[str, Any]:
        """The last event's ``meta_info``, with whole lists of output logprobs."""
        raw = self._raw
        if raw is None:
            return self._meta_info
        read, meta_info = self._read
        if read is not raw:
            meta_info = _meta_info_of(raw) or self._meta_info
            self._read = raw, meta_info
        return meta_info

    @property
    def rid(self) -> str | None:
        """The request's name on the server; for n > 1 it is the server that gives it."""
        rid = self.meta_info.get("id")
        return rid if isinstance(rid, str) else None

    def extend(self, raw: bytes) -> Delta | None:
        """Take a cumulative event by comparing its bytes with those of the last one.

        Parsing the whole text and all token ids anew in every event costs O(n^2) in a stream. The bytes of
        an event that goes on where the last one stopped begin with the same text and the same ids, so only
        what follows is parsed.

        Returns
        -------
        Delta or None
            None when the event is of any other form and must be parsed.
        """
        if self._fast is None:
            return None
        head, ids = self._fast
        if not raw.startswith(head):
            return None
        new_text = _REST_OF_TEXT.match(raw, len(head))
        if new_text is None or not raw.startswith(ids, new_text.end()):
            return None
        new_ids = _REST_OF_IDS.match(raw, new_text.end() + len(ids))
        if new_ids is None or raw.find(b'"finish_reason":null', new_ids.end()) < 0:
            return None
        escaped = new_text[1]
        try:
            if b"\\" not in escaped:
                text = escaped.decode()
            elif escaped.startswith((b"\\ud", b"\\uD")):
                return None  # maybe the second half of a character
            else:
                text = json.loads(b'"' + escaped + b'"')
            ids_that_came = list(map(int, new_ids[1][1:].split(b","))) if new_ids[1] else ()
        except ValueError:
            return None
        start = len(self.output_ids)
        self.output_ids += ids_that_came
        if text:
            self._parts.append(text)
        self._fast = raw[: new_text.end(1)], raw[new_text.end() : new_ids.end(1)]
        self._raw = raw
        return Delta(self.index, text, start, len(self.output_ids) - start, False, raw, True)

    def take(self, event: dict[str, Any], raw: bytes, cumulative_text: bool) -> Delta:
        """Take a parsed event of either kind."""
        meta_info: dict[str, Any] = event.get("meta_info") or {}
        ids: list[int] = event.get("output_ids") or []
        text: str = event.get("text") or ""
        reason = meta_info.get("finish_reason")
        start = len(self.output_ids)
        aborted = reason is not None and reason.get("type") == "abort"
        repeats = self._is_cumulative(ids, text, meta_info.get("completion_tokens"))

        if repeats or cumulative_text:
            text, whole = _what_is_new(self.text, text, keep=aborted)
            self._parts = [whole]
        elif text:
            self._parts.append(text)
        if not repeats:
            self.output_ids.extend(ids)
        elif len(ids) >= start:
            self.output_ids = ids
        if aborted:
            meta_info = {**self.meta_info, **meta_info}  # it may come without the counts
        self._meta_info = meta_info if repeats else self._joined(meta_info, len(ids))
        self._raw = None
        self.finish_reason = reason
        self.prompt_token_ids = event.get("prompt_token_ids", self.prompt_token_ids)
        self._fast = _beginnings(raw) if self._cumulative and tuple(event)[:3] == _ORDER else None
        return Delta(
            self.index, text, start, len(self.output_ids) - start, reason is not None, event, repeats
        )

    def _is_cumulative(self, ids: list[int], text: str, completion_tokens: Any) -> bool:
        """Tell whether an event repeats what came before or goes on after it."""
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
            # Old servers send no output_ids and know only cumulative text.
            return text.startswith(self.text)
        return bool(self._cumulative)

    def _joined(self, meta_info: dict[str, Any], new: int) -> dict[str, Any]:
        """Put the lists of an incremental event behind those that came before."""
        before = self.meta_info
        if OUTPUT_LOGPROB_LISTS[0] not in before:
            return meta_info
        for name in OUTPUT_LOGPROB_LISTS:
            came = meta_info.get(name)
            if isinstance(came, list) and isinstance(before.get(name), list) and len(came) <= new:
                meta_info = {**meta_info, name: before[name] + came}
            elif came is None and name in before:
                meta_info = {**meta_info, name: before[name]}
        return meta_info


class DeltaDecoder:
    r"""Turn the bytes of a ``/generate`` stream into what each event adds.

    Parameters
    ----------
    cumulative_text : bool
        Whether the text is cumulative although the token ids are not, as with ``--stream-output`` of
        SGLang up to 0.5.2. All other kinds of stream are told apart from what they carry.
    expected : int, optional
        How many answers there are: an event of another one is nonsense.
    scrub : callable
        Masks secrets in the server's words about a failure.

    Attributes
    ----------
    items : dict of int to Item
        The answers so far, by index.
    failure : StreamFailure or None
        Set when the server sent an error event or nonsense; nothing is taken after it.

    Examples
    --------
    >>> decoder = DeltaDecoder()
    >>> for delta in decoder.feed(
    ...     b'data: {"text":"Hel","output_ids":[5],"meta_info":{"completion_tokens":1}}\n\n'
    ...     b'data: {"text":"Hello","output_ids":[5,6],"meta_info":{"completion_tokens":2}}\n\n'
    ... ):
    ...     print(delta.text)
    Hel
    lo
    >>> decoder.items[0].text
    'Hello'
    """

    def __init__(
        self,
        *,
        cumulative_text: bool = False,
        expected: int | None = None,
        scrub: Callable[[str], str] = str,
    ) -> None:
        self.items: dict[int, Item] = {}
        self.failure: StreamFailure | None = None
        self._events = EventDecoder()
        self._cumulative_text = cumulative_text
        self._expected = expected
        self._scrub = scrub

    @property
    def done(self) -> bool:
        """Whether ``[DONE]`` has come."""
        return self._events.done

    def feed(self, chunk: bytes) -> list[Delta]:
        """Take the next bytes.

        Parameters
        ----------
        chunk : bytes
            As they came, of any length.

        Returns
        -------
        list of Delta
            One for each event that is complete now, in the order of the stream.
        """
        return self._deltas(self._events.feed(chunk))

    def close(self) -> list[Delta]:
        """Take the end of the stream: a last event counts without the empty line, if it is whole."""
        failed = self.failure is not None
        deltas = self._deltas(self._events.close())
        if not failed and self.failure is not None and not self.failure.from_server:
            self.failure = None  # cut short
        return deltas

    def _deltas(self, payloads: list[bytes]) -> list[Delta]:
        deltas = []
        for payload in payloads:
            if self.failure is not None:
                break
            item = self.items.get(_index_of(payload))
            delta = None if item is None else item.extend(payload)
            if delta is None:
                delta = self._parse(payload)
            if delta is not None:
                deltas.append(delta)
        return deltas

    def _parse(self, payload: bytes) -> Delta | None:
        try:
            event = _from_json(payload.decode())
        except UnicodeDecodeError:
            return self._parse(payload.decode("utf-8", "replace").encode())
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            self._fail(f"not a JSON object: {_excerpt(payload)}")
            return None
        if event.get("error") is not None:
            message, status = _failure_of(event["error"])
            self.failure = StreamFailure(self._scrub(message), status)
            return None
        index = event.get("index", 0)
        if first_invalid_field(event) or event.get("meta_info") is None or not self._is_index(index):
            self._fail(f"not an event of /generate: {_excerpt(payload)}")
            return None
        scrub_reason(event["meta_info"], self._scrub)
        item = self.items.get(index)
        if item is None:
            item = self.items[index] = Item(index)
        return item.take(event, payload, self._cumulative_text)

    def _is_index(self, index: Any) -> bool:
        return isinstance(index, int) and index >= 0 and (self._expected is None or index < self._expected)

    def _fail(self, message: str) -> None:
        self.failure = StreamFailure(self._scrub(message), from_server=False)


_from_json = json.JSONDecoder().decode  # json.loads would look for other encodings first

# SGLang's order of keys; bytes are compared only in events that have it.
_ORDER = ("text", "output_ids", "meta_info")
_TEXT = rb'([^"\\]*(?:\\.[^"\\]*)*)","output_ids":\['
_REST_OF_TEXT = re.compile(_TEXT)
_REST_OF_IDS = re.compile(rb'((?:,\d+)*)\],"meta_info":\{')
_WHOLE = re.compile(rb'\{"text":"' + _TEXT + rb'(\d+(?:,\d+)*)\],"meta_info":\{')
_INDEX = re.compile(rb'\},"index":(\d+)\}$')


def _beginnings(raw: bytes) -> tuple[bytes, bytes] | None:
    """Cut out the text and the ids of an event, as bytes that the next one should repeat."""
    parts = _WHOLE.match(raw)
    return None if parts is None else (raw[: parts.end(1)], parts[2])


def _index_of(raw: bytes) -> int:
    """Read the index at the end of an event."""
    if raw.endswith(b"}}"):
        return 0
    found = _INDEX.search(raw, max(0, len(raw) - 24))
    return -1 if found is None else int(found[1])


def _what_is_new(old: str, text: str, *, keep: bool) -> tuple[str, str]:
    """Compare a cumulative text with the one before: what is new, and the text that holds now."""
    if text.startswith(old):
        return text[len(old) :], text
    if old.startswith(text):
        # The server cut off a stop string; only an aborted request may come without its text.
        return "", old if keep else text
    return text[len(os.path.commonprefix((old, text))) :], text  # noqa: RUF071 (texts, not paths)


def _failure_of(error: Any) -> tuple[str, int | None]:
    """Read the message of an error event, and the status in it."""
    status = error.get("code") if isinstance(error, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else json.dumps(error), (
        status if isinstance(status, int) else None
    )


def _meta_info_of(raw: bytes) -> dict[str, Any]:
    """Read the ``meta_info`` of an event of which only the beginning was looked at; empty if it is none."""
    try:
        event = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return {} if first_invalid_field(event) else event["meta_info"] or {}


def _excerpt(payload: bytes) -> str:
    text = payload[:200].decode("utf-8", "replace")
    return text + ("…" if len(payload) > 200 else "")
