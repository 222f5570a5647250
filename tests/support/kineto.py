"""Traces as torch's Kineto writes them, made by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

BASE = 1790857026000000000
"""What the times count from, in ns since 1970."""


def slice_(
    name: str, ts: float, dur: float, *, cat: str = "cpu_op", pid: Any = 100, tid: Any = 100, **args: Any
) -> dict[str, Any]:
    """Make an event with begin and end, in µs."""
    return {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": args}


def step(name: str, ts: float, dur: float, **options: Any) -> dict[str, Any]:
    """Make the span of a step."""
    return slice_(f"step[{name}]", ts, dur, cat="user_annotation", **options)


def launch(ts: float, dur: float, correlation: int, **options: Any) -> dict[str, Any]:
    """Make a call that launches a kernel."""
    return slice_(
        "cudaLaunchKernel",
        ts,
        dur,
        cat="cuda_runtime",
        **{"correlation": correlation, "cbid": 211, **options},
    )


def kernel(
    name: str, ts: float, dur: float, correlation: int, *, stream: int = 7, cat: str = "kernel"
) -> dict[str, Any]:
    """Make a kernel of device 0."""
    return slice_(name, ts, dur, cat=cat, pid=0, tid=stream, stream=stream, correlation=correlation, device=0)


def memory(ts: float, size: int, allocated: int, device_type: int = 0) -> dict[str, Any]:
    """Make an allocation, or a release."""
    args = {"Bytes": size, "Total Allocated": allocated, "Device Type": device_type, "Device Id": -1}
    return {
        "ph": "i", "s": "t", "cat": "cpu_instant_event", "name": "[memory]", "pid": 100, "tid": 100, "ts": ts,
        "args": args,
    }  # fmt: skip


def kineto(events: Sequence[dict[str, Any]], head: dict[str, Any] | None = None) -> str:
    """Write a trace in the layout of torch 2.13."""
    head = {"baseTimeNanoseconds": BASE} if head is None else head
    fields = "".join(f"\n    {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items())
    texts = []
    for event in events:
        lines = []
        for key, value in event.items():
            if isinstance(value, dict):
                inner = ", ".join(f"{json.dumps(name)}: {json.dumps(each)}" for name, each in value.items())
                lines[-1] += "\n    "
                lines.append(f'"args": {{\n      {inner}\n    }}')
            else:
                lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
        texts.append("\n  {\n    " + ",\n    ".join(lines) + "\n  }")
    return (
        f' {{\n    "schemaVersion": 1,\n    "deviceProperties": [],\n    {fields}\n    "traceEvents": [\n    '
        + ",".join(texts)
        + '\n  ],"traceName": "/tmp/trace.json" }'
    )


def merged(ranks: dict[str, Sequence[dict[str, Any]]], head: dict[str, Any] | None = None) -> str:
    """Write a trace as SGLang merges those of several ranks, by their labels such as ``[TP00-DP01]``."""
    events = [event | {"pid": f"{label} {event['pid']}"} for label, each in ranks.items() for event in each]
    devices = [{"id": 0, "name": "GPU", "totalGlobalMem": 1}, {"id": 1, "name": "GPU", "totalGlobalMem": 1}]
    rest = {"baseTimeNanoseconds": BASE} if head is None else head
    return json.dumps({"traceEvents": events, "schemaVersion": 1, **rest, "deviceProperties": devices})
