"""The record of a generation: text, tokens, reasons, counts and times."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

from nbruntime.display.cards import Card, CardMixin
from nbruntime.display.number_list import Numbers
from nbruntime.display.numbers import duration, rate
from nbruntime.display.server_fields import Fields
from nbruntime.errors import ArgumentTypeError
from nbruntime.generation.answer_times import AnswerTimes
from nbruntime.generation.data_frame import data_frame
from nbruntime.generation.finish_reason import FinishReason
from nbruntime.generation.step_source import StepSource, ask_for_steps, checked_steps
from nbruntime.generation.timings import Timings
from nbruntime.generation.tokens import Token, Tokens, read_tokens
from nbruntime.protocol.answers import first_invalid_field, number_in
from nbruntime.protocol.requests import Prompt
from nbruntime.protocol.step_log import Step, StepLog

if TYPE_CHECKING:
    import pandas

    from nbruntime.generation.explanation import Explanation

SERVER_TIMES = (
    "queue_time",
    "first_token_latency",
    "e2e_latency",
    "decode_throughput",
    "request_received_ts",
    "forward_entry_time",
    "prefill_finished_time",
    "api_server_dispatch_finish_ts",
    "request_finished_ts",
    "response_sent_to_client_ts",
)
"""Times in ``meta_info``; SGLang sends most of them only with ``--enable-metrics``."""

_EXCERPT = 76
"""Most characters of the text in a repr."""


class MetaInfo(Fields):
    """The server's own record of a generation."""

    kind = "Meta info"


@dataclass(frozen=True, repr=False)
class Generation(CardMixin):
    """The answer to one prompt, one sample.

    Parameters
    ----------
    text : str
        The generated text.
    output_ids : list of int
        The generated token ids.
    meta_info : dict
        The server's own record, unchanged.
    prompt : str or sequence of int, optional
        The prompt.
    index : int
        Place among the answers of its request.
    timings : Timings
        Times that the client measured.
    prompt_token_ids : list of int, optional
        The prompt as token ids, if the request asked for them.

    Examples
    --------
    >>> answer = Generation(" Paris.", [7042, 30], {
    ...     "finish_reason": {"type": "length", "length": 2}, "prompt_tokens": 5, "cached_tokens": 4,
    ... })
    >>> answer.finish_reason.type, answer.prompt_tokens, answer.cached_tokens
    ('length', 5, 4)
    >>> answer
    Generation ' Paris.'
      2 tokens, length (2); prompt 5 tokens, 4 cached
    """

    text: str
    output_ids: list[int] = field(default_factory=list)
    meta_info: dict[str, Any] = field(default_factory=dict)
    prompt: Prompt | None = None
    index: int = 0
    timings: Timings = field(default_factory=Timings)
    prompt_token_ids: list[int] | None = None

    _source: ClassVar[StepSource | None] = None
    """Set by the client on its answers, for `explain`; no field, so it is neither compared nor written."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "meta_info", MetaInfo(self.meta_info))
        object.__setattr__(self, "output_ids", Numbers(self.output_ids))
        if self.prompt is not None and not isinstance(self.prompt, str):
            object.__setattr__(self, "prompt", tuple(self.prompt))

    def with_source(self, source: StepSource | None) -> Self:
        """Remember where the server's steps can be asked for, and return the record itself."""
        vars(self)["_source"] = source
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A copy, pickled or not, is the record without its server.
        return {name: value for name, value in vars(self).items() if name != "_source"}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], **others: Any) -> Generation:
        """Read a dict of `to_dict`, or one answer of a server.

        Parameters
        ----------
        record : mapping
            Keys ``text``, ``output_ids`` and ``meta_info`` as SGLang sends them; all are optional.
        **others
            Fields that replace those of the record.

        Raises
        ------
        ArgumentTypeError
            If a field has the wrong type.
        """
        record = {name: value for name, value in record.items() if name not in others}
        wrong = first_invalid_field(record) or next(
            (name for name, kind in _FIELD_TYPES.items() if not isinstance(record.get(name), kind | None)),
            None,
        )
        if wrong is not None:
            raise _invalid_record(f"its {wrong} has the wrong type")
        values = {
            "text": record.get("text") or "",
            "output_ids": list(record.get("output_ids") or ()),
            "meta_info": dict(record.get("meta_info") or {}),
            "prompt": record.get("prompt"),
            "index": record.get("index") or 0,
            "timings": _read_timings(record.get("timings") or {}),
            "prompt_token_ids": record.get("prompt_token_ids"),
        }
        return cls(**{**values, **others})

    def to_dict(self) -> dict[str, Any]:
        """Return a dict that JSON takes and `from_dict` reads."""
        prompt = self.prompt
        return {
            "text": self.text,
            "output_ids": list(self.output_ids),
            "meta_info": deepcopy(self.meta_info),
            "prompt": prompt if prompt is None or isinstance(prompt, str) else list(prompt),
            "index": self.index,
            "timings": {**asdict(self.timings), "itl": list(self.timings.itl)},
            "prompt_token_ids": None if self.prompt_token_ids is None else list(self.prompt_token_ids),
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """Write the record as ASCII JSON, which `from_json` reads; `indent` as in `json.dumps`."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> Generation:
        """Read the JSON of `to_json`.

        Raises
        ------
        ArgumentTypeError
            If it is not the record of a generation.
        """
        try:
            record = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise ArgumentTypeError(f"Not JSON: {error}", hint=_RECORD_HINT) from None
        if not isinstance(record, dict):
            raise _invalid_record(f"it is a {type(record).__name__}")
        return cls.from_dict(record)

    def to_frame(self) -> pandas.DataFrame:
        """Return the generated tokens as a pandas table.

        Its columns are ``id``, ``text``, ``logprob``, ``probability`` and ``seconds`` (the arrival time since
        the request was sent).

        Raises
        ------
        MissingPackageError
            If pandas is not installed.
        """
        tokens = self.tokens
        times = self.timings.of_tokens(len(tokens))
        columns = ("id", "text", "logprob", "probability", "seconds")
        rows = [
            (token.id, token.text, token.logprob, token.probability, time)
            for token, time in zip(tokens, times, strict=True)
        ]
        return data_frame(rows, columns, instead=".tokens, or to_dict()")

    @property
    def rid(self) -> str | None:
        """The request's name on the server."""
        return self.meta_info.get("id")

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None if it was left before its end."""
        reason = self.meta_info.get("finish_reason")
        return FinishReason.from_dict(reason) if isinstance(reason, Mapping) else None

    @property
    def prompt_tokens(self) -> int:
        """Number of prompt tokens."""
        return self._number("prompt_tokens") or 0

    @property
    def completion_tokens(self) -> int:
        """Number of generated tokens."""
        counted = self._number("completion_tokens")
        return len(self.output_ids) if counted is None else counted

    @property
    def cached_tokens(self) -> int:
        """Number of prompt tokens that the server had in its cache."""
        return self._number("cached_tokens") or 0

    def _number(self, name: str) -> Any:
        """Return a number of the server's record; None if there is none."""
        return number_in(self.meta_info, name)

    @property
    def usage(self) -> dict[str, int]:
        """The token counts as a dict."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "cached_tokens": self.cached_tokens,
        }

    @property
    def server_times(self) -> dict[str, float]:
        """Times that the server measured, by SGLang's names (`SERVER_TIMES`)."""
        return {name: self.meta_info[name] for name in SERVER_TIMES if self.meta_info.get(name) is not None}

    @property
    def server_latency(self) -> float | None:
        """Seconds from end to end, measured by the server."""
        latency: float | None = self._number("e2e_latency")
        return latency

    @property
    def _answer_times(self) -> AnswerTimes:
        """What client and server have measured of its time, for `nbruntime.generation.explaining`."""
        timings, source = self.timings, self._source
        return AnswerTimes(
            rid=self.rid,
            total=timings.total,
            ttft=timings.ttft,
            last_arrival=None if timings.ttft is None else timings.ttft + sum(timings.itl),
            server_times=self.server_times,
            prompt_tokens=int(self.prompt_tokens),
            cached_tokens=int(self.cached_tokens),
            completion_tokens=int(self.completion_tokens),
            retractions=int(self._number("num_retractions") or 0),
            siblings=0 if source is None else source.siblings,
        )

    def explain(self, steps: StepLog | Sequence[Step] | None = None) -> Explanation:
        """Tell why the answer took so long, as a bar and a sentence.

        It asks the server for its step log, and waits a few seconds at most. A server without one, as SGLang,
        or that is gone, leaves the times of ``meta_info``; the explanation's notes say what is not known.

        Parameters
        ----------
        steps : StepLog or sequence of Step, optional
            The server's steps of that time; the server is then not asked.

        Raises
        ------
        ArgumentTypeError
            If `steps` holds something else.

        Examples
        --------
        >>> answer = Generation("4", [20], {"e2e_latency": 0.3}, timings=Timings(total=0.5))
        >>> answer.explain([])
        Explanation 500 ms · by the client's times
          Took 500 ms: 300 ms that cannot be divided and 200 ms in client and network.
        ...
        """
        from nbruntime.generation.explaining import explain

        times = self._answer_times
        notes: list[str] = []
        if steps is None:
            steps, notes = ask_for_steps(self._source, times)
        else:
            steps = checked_steps(steps)
        return explain(times, steps, notes)

    @property
    def tokens_per_second(self) -> float | None:
        """Generated tokens per second of the whole request, prompt included."""
        total = self.timings.total or self.server_latency
        return self.completion_tokens / total if total else None

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Generated tokens per second after the first one; None if not streamed."""
        decoding = sum(self.timings.itl)
        return len(self.timings.itl) / decoding if decoding else None

    @cached_property
    def tokens(self) -> Tokens:
        """The generated tokens; with logprobs if the request asked for them."""
        tokens = read_tokens(self.meta_info, "output")
        # With max_new_tokens=0 there is a logprob of a token that was not generated.
        return Tokens(tokens[: len(self.output_ids)] or (Token(token_id) for token_id in self.output_ids))

    @cached_property
    def input_tokens(self) -> Tokens:
        """The prompt's tokens with logprobs, from ``logprob_start_len`` on; the first has no logprob."""
        return read_tokens(self.meta_info, "input")

    def __str__(self) -> str:
        return self.text

    def _card(self) -> Card:
        from nbruntime.generation.cards import generation_card

        return generation_card(self)

    def __repr__(self) -> str:
        shown = self.text if len(self.text) <= _EXCERPT else self.text[: _EXCERPT - 1] + "…"
        counts = f"{_count(self.completion_tokens, 'token')}, {self.finish_reason or 'unfinished'}"
        if "prompt_tokens" in self.meta_info:
            counts += f"; prompt {_count(self.prompt_tokens, 'token')}, {self.cached_tokens} cached"
        lines = [f"Generation {shown!r}", f"  {counts}"]
        times = [
            f"TTFT {duration(self.timings.ttft)}" if self.timings.ttft is not None else None,
            f"total {duration(self.timings.total)}" if self.timings.total is not None else None,
            f"{rate(self.tokens_per_second)} tokens/s"
            if self.timings.total is not None and self.tokens_per_second
            else None,
            f"server {duration(self.server_latency)}" if self.server_latency is not None else None,
            f"queued {duration(self._number('queue_time'))}" if self._number("queue_time") else None,
        ]
        if any(times):
            lines.append("  " + ", ".join(time for time in times if time))
        return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


_FIELD_TYPES: dict[str, Any] = {"prompt": str | list | tuple, "index": int, "timings": Mapping}
_RECORD_HINT = "Pass the result of to_json() or to_dict()."


def _invalid_record(why: str) -> ArgumentTypeError:
    return ArgumentTypeError(f"Not the record of a generation: {why}", hint=_RECORD_HINT)


def _read_timings(timings: Mapping[str, Any]) -> Timings:
    try:
        return Timings(**{**timings, "itl": tuple(timings.get("itl") or ())})
    except TypeError:
        raise _invalid_record("its timings have the wrong type") from None
