"""Exchanges recorded with a real SGLang server (see ``data/sglang_records``), for replaying them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).parents[1] / "data" / "sglang_records"

_LONG_PROMPTS = {
    "generate_err_prompt_plus_new_too_long": 8000,
    "generate_err_prompt_too_long": 9000,
    "generate_stream_error_too_long": 9000,
}
"""Lengths of the prompts that the files hold cut; all their tokens are equal."""


@dataclass(frozen=True)
class Exchange:
    """One recorded request and SGLang's answer."""

    name: str
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    """The request's JSON; a str is sent as it is, None is no body."""
    status: int
    content_type: str | None
    text: str
    """The answer's body; JSON where `json` can read it."""

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def greedy(self) -> bool:
        """Whether the answer repeats: no token was drawn."""
        params = (self.body or {}).get("sampling_params") or {}
        return all(
            each.get("temperature") == 0 for each in (params if isinstance(params, list) else [params])
        )

    def payload(self) -> bytes | None:
        """What to send."""
        if self.body is None:
            return None
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


def names(*prefixes: str) -> list[str]:
    return sorted(path.stem for path in RECORDS.glob("*.json") if path.stem.startswith(prefixes))


def load(name: str) -> Exchange:
    record = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    request = record["request"]
    headers = dict(line.split(": ", 1) for line in request.get("headers", ()))
    body = request["body"]
    if isinstance(body, dict) and "__raw__" in body:
        body = body["__raw__"]
    elif name in _LONG_PROMPTS:
        body = body | {"input_ids": body["input_ids"][:1] * _LONG_PROMPTS[name]}
    if body is not None:
        headers.setdefault("Content-Type", "application/json")
    answered = [line.partition(": ") for line in record.get("response_headers", ())]
    content_type = next((value for key, _, value in answered if key.lower() == "content-type"), None)
    if "body_file" in record:
        text = (RECORDS / record["body_file"]).read_bytes().decode()
    else:
        text = record["body_text"] if "body_text" in record else json.dumps(record["body"])
    return Exchange(
        name, request["method"], request["path"], headers, body, record["status"], content_type, text
    )


def metric_types() -> dict[str, str]:
    """The metrics of SGLang's ``/metrics``: name to kind."""
    lines = (RECORDS / "metric_types.txt").read_text().splitlines()
    return {name: kind for _, _, name, kind in (line.split() for line in lines)}


def events(text: str) -> list[dict[str, Any]]:
    """The JSON events of a stream, whose end mark must be there."""
    *blocks, rest = text.split("\n\n")
    assert rest == "", "the stream ends within an event"
    assert all(block.startswith("data: ") for block in blocks)
    assert blocks.pop() == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks]
