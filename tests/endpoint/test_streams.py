"""Streams of `RuntimeEndpoint`: texts arrive as they are made, one or several at a time."""

from __future__ import annotations

import pytest
from support.scripted_server import ScriptedServer, Wait, endless, events, stream

from nbruntime import errors
from nbruntime.endpoint import RuntimeEndpoint
from nbruntime.generation import Generation


def test_texts_arrive_as_they_are_made(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    wait = Wait()
    server.on("/generate", endless(wait, words=1))
    with endpoint.stream("Tell me a story", max_new_tokens=4) as running:
        assert next(running) == "Once"
        assert wait.reached.wait(10)
        assert running.text == "Once"
        assert not running.done
        wait.go.set()
        assert list(running) == [" upon", " a", " time"]
        generation = running.result()
    assert isinstance(generation, Generation)
    assert generation.text == "Once upon a time" == running.text
    assert generation.rid == running.rid == server.to("/generate")[0].json["rid"]
    assert generation.timings.ttft is not None
    assert len(generation.timings.itl) == 3
    assert server.to("/abort_request") == []


def test_a_finished_stream_leaves_its_connection_to_the_next(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", stream(*events()))
    for _ in range(5):
        assert "".join(endpoint.stream("x")) == "Once upon a time"
    assert server.connections == 1


@pytest.mark.parametrize("chunked", [True, False])
def test_texts_arrive_chunked_or_not(
    server: ScriptedServer, endpoint: RuntimeEndpoint, chunked: bool
) -> None:
    wait = Wait()
    server.on("/generate", stream(*events()[:1], wait, *events()[1:], chunked=chunked))
    with endpoint.stream("x") as running:
        assert next(running) == "Once"  # before the rest is sent
        wait.go.set()
        assert running.result().text == "Once upon a time"  # type: ignore[union-attr]


def test_a_batch_is_streamed_by_index(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    made = [{**event, "index": index} for event in events() for index in (1, 0)]
    server.on("/generate", stream(*made))
    with endpoint.stream(["x", "y"]) as running:
        with pytest.raises(errors.ArgumentTypeError, match="2 answers"):
            next(running)
        assert list(running.indexed())[:3] == [(1, "Once"), (0, "Once"), (1, " upon")]
        assert running.texts == ["Once upon a time"] * 2
        assert [g.text for g in running.result()] == running.texts  # type: ignore[union-attr]
    sent = server.to("/generate")[0].json
    assert sent["rid"] == list(running.rids)
    assert len(set(running.rids)) == 2


def test_a_stream_outlives_its_endpoint_object(server: ScriptedServer) -> None:
    server.on("/generate", stream(*events()))
    assert "".join(RuntimeEndpoint(server.url).stream("x")) == "Once upon a time"
