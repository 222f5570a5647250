"""What `explain` asks of a server, in both clients, and what it says if there is no answer."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import weakref
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import pytest
from support.clients import KINDS, Async, Blocking, connected
from support.scripted_server import KEY, Asked, Reply, ScriptedServer, Wait, answer, events, stream

from nbruntime import Generation, RuntimeEndpoint
from nbruntime.endpoint import step_log
from nbruntime.protocol.step_log import Step, StepLog, write_step_log

U = 1e-5
"""Seconds; the answer takes 6 of them on the server, which is less than it takes the client."""

TIMES = {
    "request_received_ts": 100.0,
    "queue_time": U,
    "forward_entry_time": 100 + U,
    "prefill_finished_time": 100 + 2 * U,
    "request_finished_ts": 100 + 6 * U,
}
RID = "named"
STEPS = [
    Step("EXTEND", 100 + U, U, 1, 5, 0, (RID,), (5,)),
    Step("EXTEND", 100 + 2 * U, U, 1, 700, 1, ("other",), (700,)),
    *[Step("DECODE", 100 + number * U, U, 1, 1, number - 1, (RID,), (1,)) for number in (3, 4, 5)],
]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(api_key=KEY) as server:
        server.on("/generate", generated)
        server.on("/tokenize", Reply(json={"tokens": [1, 2, 3]}))
        server.on("/step_log", Reply(body=write_step_log(StepLog(100.0, 0, STEPS))))
        yield server


def generated(asked: Asked) -> Reply:
    body = asked.json
    if body.get("stream"):
        return stream(*events(RID, **TIMES))
    one = answer("Once upon a time", id=RID, **TIMES)
    return Reply(json=[one] * len(body["rid"]) if isinstance(body["rid"], list) else one)


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, server: ScriptedServer) -> Iterator[Blocking | Async]:
    with connected(request.param, server.url, api_key=KEY) as driver:
        yield driver


def queries(server: ScriptedServer) -> list[dict[str, str]]:
    return [dict(parse_qsl(urlsplit(asked.path).query)) for asked in server.to("/step_log")]


def test_every_kind_of_answer_asks_for_the_steps(client: Blocking | Async, server: ScriptedServer) -> None:
    read = client.read("Tell me a story")
    assert read.stream is not None
    (partial,) = read.stream.generations
    answers = [
        client.call("complete", "Tell me a story"),
        *client.call("complete", ["Tell me", "a story"]),
        client.call("chat", "Tell me a story"),
        partial,
    ]
    for number, made in enumerate(answers):
        explained = made.explain()
        assert explained.source == "step log"
        assert explained.seconds("stall") == pytest.approx(U, abs=1e-9)
        assert explained.total == made.timings.total
        assert queries(server)[number] == {"since": "100.0", "until": str(100 + 6 * U)}
    assert len(queries(server)) == len(answers)
    assert [made._answer_times.siblings for made in answers] == [0, 1, 1, 0, 0]


def test_an_answer_is_the_same_with_and_without_its_server(client: Blocking | Async) -> None:
    made: Generation = client.call("complete", "Tell me a story")
    bare = Generation.from_dict(made.to_dict())
    assert made == bare
    assert repr(made) == repr(bare)
    assert made.to_dict() == bare.to_dict()
    for copied in (bare, pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):
        explained = copied.explain()
        assert (copied, explained.source) == (made, "server times")
        assert "This record has no connection to its server" in explained.notes[0]


def test_a_pickled_stream_leaves_its_server_behind(client: Blocking | Async) -> None:
    read = client.read("Tell me a story")
    copied = pickle.loads(pickle.dumps(read.stream))
    assert copied.generations[0].explain().source == "server times"
    assert read.stream is not None
    assert read.stream.generations[0].explain().source == "step log"


def test_a_long_log_is_read_in_pieces(client: Blocking | Async, server: ScriptedServer) -> None:
    def piece(asked: Asked) -> Reply:
        after = int(dict(parse_qsl(urlsplit(asked.path).query)).get("after", -1))
        steps = STEPS[after + 1 : after + 3]
        return Reply(body=write_step_log(StepLog(100.0, 0, steps, more=after + 3 < len(STEPS))))

    server.on("/step_log", piece)
    made = client.call("complete", "Tell me a story")
    assert made.explain().source == "step log"
    assert [query.get("after") for query in queries(server)] == [None, "1", "3"]


def test_a_server_that_promises_more_and_sends_nothing(
    client: Blocking | Async, server: ScriptedServer
) -> None:
    server.on("/step_log", Reply(body=write_step_log(StepLog(100.0, 0, [], more=True))))
    assert client.call("complete", "Tell me a story").explain().source == "server times"
    assert len(queries(server)) == 1


def test_a_log_that_has_lost_the_answer_or_is_of_another_server(
    client: Blocking | Async, server: ScriptedServer
) -> None:
    server.on("/step_log", Reply(body=write_step_log(StepLog(900.0, 0, []))))
    explained = client.call("complete", "Tell me a story").explain()
    assert explained.source == "server times"
    assert explained.notes == (
        "The server's log holds no step of that time anymore, so what other requests did is not known.",
    )


@pytest.mark.parametrize(
    ("reply", "note"),
    [
        (Reply(json={"detail": "Not Found"}, status=404), "The server keeps no log of its steps"),
        (Reply(body=b"oops", status=500), "cannot be read, so what other requests did is not known"),
        (Reply(body=b"{}"), "The answer is not a step log"),
        (Reply(body=b"\xff<html>"), "The answer is not a step log"),
        (Reply(body=b"moved", status=302, headers={"location": "/elsewhere"}), "cannot be read"),
    ],
)
def test_a_server_without_a_step_log(
    client: Blocking | Async, server: ScriptedServer, reply: Reply, note: str
) -> None:
    made = client.call("complete", "Tell me a story")
    server.on("/step_log", reply)
    explained = made.explain()
    assert (explained.source, len(explained.notes)) == ("server times", 1)
    assert note in explained.notes[0]
    assert sum(part.seconds for part in explained.parts) == pytest.approx(explained.total)


def test_a_server_that_does_not_answer_in_time(
    client: Blocking | Async, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_log, "PATIENCE", 0.2)
    made = client.call("complete", "Tell me a story")
    silent = Wait()
    server.on("/step_log", Reply(pieces=[silent]))
    explained = made.explain()
    silent.go.set()
    assert explained.source == "server times"
    assert "cannot be read" in explained.notes[0]


def test_a_server_that_is_gone() -> None:
    with ScriptedServer() as server:
        server.on("/generate", generated)
        endpoint = RuntimeEndpoint(server.url)
        made = endpoint.complete("Tell me a story")
        endpoint.close()
    assert isinstance(made, Generation)
    explained = made.explain()
    assert explained.source == "server times"
    assert "cannot be read" in explained.notes[0]


def test_the_key_is_sent_and_not_shown(client: Blocking | Async, server: ScriptedServer) -> None:
    made = client.call("complete", "Tell me a story")
    assert made.explain().source == "step log"
    server.api_key = "sk-another"
    explained = made.explain()
    assert "cannot be read" in explained.notes[0]
    assert KEY not in str([repr(made), vars(made), explained.to_dict(), pickle.dumps(made)])


def test_a_server_that_sends_no_times_is_not_asked(client: Blocking | Async, server: ScriptedServer) -> None:
    server.on("/generate", Reply(json=answer("Once upon a time")))
    explained = client.call("complete", "Tell me a story").explain()
    assert explained.source == "client"
    assert "enable_metrics=True" in explained.notes[0]
    assert not server.to("/step_log")


def test_given_steps_are_used_instead(client: Blocking | Async, server: ScriptedServer) -> None:
    made = client.call("complete", "Tell me a story")
    assert made.explain(steps=StepLog(0.0, 0, STEPS)).source == "step log"
    assert not server.to("/step_log")


def test_a_kept_answer_keeps_nothing_alive(server: ScriptedServer) -> None:
    endpoint = RuntimeEndpoint(server.url, KEY)
    made = endpoint.complete("Tell me a story")
    assert isinstance(made, Generation)
    gone = [weakref.ref(endpoint), weakref.ref(endpoint._transport)]
    del endpoint
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
    assert made.explain().source == "step log"
    server.wait_for_closed(server.connections)  # also the one that it was asked by


def test_an_explanation_is_written_as_json(client: Blocking | Async) -> None:
    explained = client.call("complete", "Tell me a story").explain()
    assert json.loads(json.dumps(explained.to_dict()))["source"] == "step log"
