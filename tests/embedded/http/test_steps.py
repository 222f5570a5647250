"""The route of the step log, of a real server."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from support.embedded_server import LONG, PROMPT, EmbeddedServer

from nbruntime.protocol.step_log import StepLog, read_step_log

pytestmark = pytest.mark.model


def step_log(server: EmbeddedServer, **query: Any) -> StepLog:
    answer = server.get("/step_log", params=query)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    return read_step_log(answer.content)


def test_the_steps_of_a_request(server: EmbeddedServer) -> None:
    server.wait_idle()
    server.post("/flush_cache")
    before = step_log(server)
    last = before.steps[-1].number if before.steps else -1
    body = server.generate(PROMPT, fields={"rid": "of-a-test"}, max_new_tokens=6, ignore_eos=True)
    meta = body["meta_info"]
    log = step_log(server, after=last)
    assert [(step.stage, step.rids, step.rid_tokens) for step in log.steps] == [
        ("EXTEND", ("of-a-test",), (meta["prompt_tokens"],)),
        *[("DECODE", ("of-a-test",), (1,))] * 5,
    ]
    # One clock with the times of the answer, near to ours.
    first = log.steps[0]
    assert first.start <= meta["forward_entry_time"] <= first.end
    assert log.steps[-1].start <= meta["request_finished_ts"] <= log.steps[-1].end
    assert abs(log.server_time - time.time()) < 60
    found = step_log(server, since=meta["request_received_ts"], until=meta["request_finished_ts"])
    assert found.steps == log.steps


@pytest.mark.parametrize(
    ("name", "value"),
    [("after", "x"), ("after", "1.5"), ("since", "nan"), ("until", "inf"), ("since", ""), ("before", "1")],
)
def test_a_bad_query_is_refused(server: EmbeddedServer, name: str, value: str) -> None:
    answer = server.get("/step_log", params={name: value})
    assert answer.status_code == 400
    assert answer.json()["type"] == "Bad Request"
    assert f"'query', '{name}'" in answer.json()["message"]


def test_it_is_read_while_the_engine_works(server: EmbeddedServer) -> None:
    numbers: list[int] = []
    writer = threading.Thread(target=lambda: server.generate(LONG, max_new_tokens=40, ignore_eos=True))
    start = step_log(server)
    numbers.append(start.steps[-1].number if start.steps else -1)
    writer.start()
    alive = True
    while alive:
        alive = writer.is_alive()
        numbers += [step.number for step in step_log(server, after=numbers[-1]).steps]
    writer.join()
    assert len(numbers) > 40
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_it_needs_the_key(guarded_server: EmbeddedServer) -> None:
    assert guarded_server.get("/step_log").status_code == 200
    answer = guarded_server.get("/step_log", headers={"Authorization": "Bearer wrong"})
    assert (answer.status_code, answer.json()) == (401, {"error": "Unauthorized"})
    assert guarded_server.post("/step_log").status_code == 405
