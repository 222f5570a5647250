"""Profiles whose figures can be counted by hand: times are whole seconds, or tenths, after `START`."""

from __future__ import annotations

from typing import Any

from nbruntime.profiling.profile import Profile
from nbruntime.profiling.records import LoadSample, RequestRecord
from nbruntime.protocol.load import Load
from nbruntime.protocol.step_log import Step

START = 1_790_000_000.0


def request(
    rid: str, sent: float, *tokens_at: float, ended: float | None = None, **fields: Any
) -> RequestRecord:
    """Make a request with a token at each given time; it ends with the last one."""
    end = ended if ended is not None else tokens_at[-1]
    return RequestRecord(
        rid,
        START + sent,
        START + end,
        tuple((round(at - sent, 6), 1) for at in tokens_at),
        **{"completion_tokens": len(tokens_at), "prompt_tokens": 10, **fields},
    )


def with_server_times(received: float, prefill: float, decode: float) -> dict[str, Any]:
    """Make the field of a request with the server's times."""
    times = {"request_received_ts": received, "forward_entry_time": prefill, "prefill_finished_time": decode}
    return {"server_times": {name: START + at for name, at in times.items()}}


def extend(start: float, end: float, **tokens: int) -> Step:
    """Make a step that computes tokens of some prompts, by rid."""
    return _step("EXTEND", start, end, tuple(tokens), tuple(tokens.values()))


def decode(start: float, end: float, *rids: str) -> Step:
    """Make a step that computes a token of each of some requests."""
    return _step("DECODE", start, end, rids, (1,) * len(rids))


def sample(at: float, **load: Any) -> LoadSample:
    return LoadSample(START + at, Load(**load))


def profile(*requests: RequestRecord, ended: float | None = None, **fields: Any) -> Profile:
    """Make a profile that begins at `START`, and ends with the last request."""
    last = max((each.ended for each in requests), default=START)
    steps = fields.pop("steps", [])
    return Profile(
        **{
            "model": "tiny",
            "server": "http://127.0.0.1:30000",
            "started": START,
            "ended": last if ended is None else START + ended,
            "requests": list(requests),
            "steps": steps,
            "steps_from": "step log" if steps else "",
            **fields,
        }
    )


def _step(stage: str, start: float, end: float, rids: tuple[str, ...], tokens: tuple[int, ...]) -> Step:
    return Step(stage, START + start, end - start, len(rids), sum(tokens), rids=rids, rid_tokens=tokens)
