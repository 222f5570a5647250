"""Explanations of answers that were recorded with a real SGLang server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.sglang_records import events, load, names

from nbruntime.generation import Generation, Timings


def recorded() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in names("generate"):
        exchange = load(name)
        if exchange.status != 200:
            continue
        bodies = events(exchange.text)[-1:] if exchange.text.startswith("data:") else exchange.json
        for body in bodies if isinstance(bodies, list) else [bodies]:
            if "forward_entry_time" in body.get("meta_info", ()):
                yield name, body


def test_recorded_answers_of_sglang() -> None:
    answers = list(recorded())
    assert len(answers) > 50
    for name, body in answers:
        meta = body["meta_info"]
        latency = meta["e2e_latency"]
        made = Generation.from_dict(body, timings=Timings(total=latency + 0.01))
        explained = made.explain()
        divided = {part.kind: part.seconds for part in explained.parts}
        assert sum(divided.values()) == pytest.approx(latency + 0.01, abs=1e-9)
        assert explained.source == "server times", name
        sent = max(meta["response_sent_to_client_ts"] - meta["request_finished_ts"], 0)
        assert divided["client"] == pytest.approx(0.01 - sent, abs=1e-5), name
        assert divided["prefill"] == pytest.approx(
            meta["prefill_finished_time"] - meta["forward_entry_time"], abs=2e-6
        ), name
        assert ("decode" in divided) == (meta["completion_tokens"] > 1), name
        assert "what other requests did is not known" in explained.notes[0]
