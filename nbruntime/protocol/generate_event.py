"""Reads the JSON of one event of a ``/generate`` stream."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from nbruntime.protocol.answers import first_invalid_field

ABSENT = msgspec.Raw()
"""What stands for a field that an event does not have."""


class Progress(msgspec.Struct, gc=False):
    """What is needed at once of ``meta_info``."""

    completion_tokens: int
    finish_reason: None = None
    output_token_logprobs: msgspec.Raw = ABSENT


class RunningEvent(msgspec.Struct, gc=False):
    """What is needed at once of an event in the middle of an answer; the rest stays in the event's bytes."""

    text: str
    output_ids: list[int]
    meta_info: Progress
    index: int = 0
    error: None = None


_decode_running = msgspec.json.Decoder(RunningEvent).decode
_decode_any = json.JSONDecoder().decode  # json.loads would look for other encodings first


def read_running_event(payload: bytes) -> RunningEvent | None:
    """Read an event in the middle of an answer; None for every other one, which `read_event` reads.

    msgspec is fast, and stricter than json: for instance, it refuses NaN and half of a surrogate pair.
    """
    try:
        return _decode_running(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def read_event(payload: bytes) -> Any:
    """Read any event with all its fields; raise a ValueError or RecursionError if it is not JSON."""
    return _decode_any(payload.decode("utf-8", "replace"))


def read_meta_info(payload: bytes) -> dict[str, Any]:
    """Read the ``meta_info`` of an event; empty if the event is invalid."""
    try:
        event = read_event(payload)
    except (ValueError, RecursionError):
        return {}
    return {} if first_invalid_field(event) else event["meta_info"] or {}
