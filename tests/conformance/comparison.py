"""Compares the findings about two servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.server_client import ServerClient

from conformance.suite import CHECKS

RECORD = Path(__file__).parents[1] / "data" / "conformance.json"
"""Findings about the real server."""


DIFFERENCES: dict[str, dict[str, str]] = {
    "answers: a JSON schema": {
        f"answers/0/{field}": "the grammar libraries, xgrammar and llguidance, allow different white space"
        for field in ("text", "output_ids", "completion_tokens")
    },
    "answers: a seed repeats": {
        "same": "SGLang uses it only with `--enable-deterministic-inference`",
    },
    "answers: fields and their types": {
        "first/meta_info/storage_prefetch_wait": "the embedded server has no cache on disk",
        "first/meta_info/storage_staging_wait": "the embedded server has no cache on disk",
    },
    "other routes: OpenAI's, scores, sessions, pauses": {
        "": "the embedded server answers 501 to routes that our clients do not need",
    },
    "service: model_info": {
        "form/embedding": "how a GPU server runs embedding models",
    },
    "service: server_info": {
        "shows the key": (
            "SGLang sends its API key to callers who have it; the embedded server never sends it"
        ),
    },
    "streams: fields of the first, a middle and the last event": {
        f"{event}/meta_info/{wait}": "the embedded server has no cache on disk"
        for event in ("first", "middle", "last")
        for wait in ("storage_prefetch_wait", "storage_staging_wait")
    },
} | {
    f"answers: a {kind} penalty": {
        f"answers/0/{field}": "SGLang's overlapped scheduler penalises a token one step late"
        for field in ("text", "output_ids")
    }
    for kind in ("frequency", "presence", "repetition")
}
"""Where the embedded server is not like SGLang, and why: check, place in its findings, reason."""


def run(name: str, server: ServerClient) -> Any:
    """Run a check, and give its findings as JSON would."""
    found = CHECKS[name](server)
    return json.loads(json.dumps(found))


def deviations(real: Any, embedded: Any, at: str = "") -> Iterator[str]:
    """The places where two findings are not the same."""
    if isinstance(real, dict) and isinstance(embedded, dict):
        for key in sorted(real.keys() | embedded.keys()):
            place = f"{at}/{key}".removeprefix("/")
            if key in real and key in embedded:
                yield from deviations(real[key], embedded[key], place)
            else:
                yield place
    elif isinstance(real, list) and isinstance(embedded, list) and len(real) == len(embedded):
        for number, (one, other) in enumerate(zip(real, embedded, strict=True)):
            yield from deviations(one, other, f"{at}/{number}".removeprefix("/"))
    elif real != embedded:
        yield at


def recorded() -> dict[str, Any]:
    """The findings about the real server."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def table(outcomes: dict[str, dict[str, str]]) -> list[str]:
    """Write what each check found: a line that counts, and the table where both servers were asked.

    Parameters
    ----------
    outcomes : dict
        By check, then by server: ``holds`` of the real one, ``same`` or ``differs`` of the embedded one, or
        ``fails``.
    """
    found = [outcome for row in outcomes.values() for outcome in row.values()]
    counts = ", ".join(f"{found.count(outcome)} {outcome}" for outcome in dict.fromkeys(sorted(found)))
    lines = [f"{len(outcomes)} checks: {counts}; what differs is in docs/compatibility.md"]
    if not any(len(row) > 1 for row in outcomes.values()):
        return lines
    width = max(map(len, outcomes))
    lines.append(f"{'check':{width}}  sglang  embedded")
    for name, row in sorted(outcomes.items(), key=lambda each: list(CHECKS).index(each[0])):
        why = "; ".join(dict.fromkeys(DIFFERENCES.get(name, {}).values()))
        lines.append(
            f"{name:{width}}  {row.get('sglang', '-'):6}  {row.get('embedded', '-'):8}  {why}".rstrip()
        )
    return lines


def summary() -> list[str]:
    """Write how many checks there are of each kind, and how many differ, as rows of a markdown table."""
    kinds = [name.partition(":")[0] for name in CHECKS]
    rows = []
    for kind in dict.fromkeys(kinds):
        different = sum(name.partition(":")[0] == kind for name in DIFFERENCES)
        rows.append(f"| {kind} | {kinds.count(kind)} | {kinds.count(kind) - different} | {different or ''} |")
    return [*rows, f"| all | {len(CHECKS)} | {len(CHECKS) - len(DIFFERENCES)} | {len(DIFFERENCES)} |"]
