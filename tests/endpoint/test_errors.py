"""Errors of `RuntimeEndpoint`: which is raised, what it says, and which text it keeps."""

from __future__ import annotations

import pickle
import socket

import pytest
from support.clients import failure
from support.scripted_server import (
    CUT,
    MODEL_INFO,
    Reply,
    ScriptedServer,
    Wait,
    answer,
    endless,
    events,
    stream,
)

from nbruntime import errors
from nbruntime.endpoint import RuntimeEndpoint


def test_a_stream_that_breaks_off_keeps_its_text(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", stream(*events()[:2], CUT))
    running = endpoint.stream("x")
    texts = []
    with pytest.raises(errors.StreamError, match="broke off after 2 tokens") as caught:
        texts.extend(running)
    assert texts == ["Once", " upon"]
    assert caught.value.text == running.text == "Once upon"
    assert caught.value.generation is not None
    assert caught.value.generation.output_ids == [100, 101]
    assert isinstance(caught.value.__cause__, errors.ServerConnectionError)
    assert pickle.loads(pickle.dumps(caught.value)).text == "Once upon"
    with pytest.raises(errors.StreamError):
        running.result()


def test_a_stream_that_ends_early_is_an_error(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", stream(*events()[:2], b'data: {"text":"On', done=False))
    with pytest.raises(errors.StreamError, match="broke off after 2 tokens: the server closed it"):
        endpoint.stream("x").result()
    server.on("/generate", stream(*events(), done=False))  # all was said, only [DONE] is missing
    assert endpoint.stream("x").result().text == "Once upon a time"  # type: ignore[union-attr]


def test_an_error_event_is_raised(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", stream(events()[0], {"error": {"message": "out of memory", "code": 500}}))
    running = endpoint.stream("x")
    assert next(running) == "Once"
    with pytest.raises(errors.StreamError, match="out of memory") as caught:
        next(running)
    assert (caught.value.status, caught.value.text) == (500, "Once")
    assert "failed" in repr(running)


def test_an_abort_by_the_server_is_raised(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    reason = {"type": "abort", "message": "no room", "status_code": 503, "err_type": None}
    server.on("/generate", stream(events()[0], answer("Once", [100], finish_reason=reason)))
    with pytest.raises(errors.GenerationAbortedError, match="no room") as caught:
        endpoint.stream("x").result()
    assert (caught.value.status, caught.value.text) == (503, "Once")


def test_answers_of_another_form_are_protocol_errors(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", Reply(json=answer("x")))
    with pytest.raises(errors.ProtocolError, match="not a stream but application/json"):
        endpoint.stream("x")
    server.on("/generate", stream(b'data: {"choices":[]}\n\n'))
    with pytest.raises(errors.StreamError, match="not an event of /generate"):
        list(endpoint.stream("x"))
    server.on("/generate", Reply(body=b"<html>hello</html>"))
    with pytest.raises(errors.ProtocolError, match="not JSON"):
        endpoint.complete("x")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.BadRequestError),
        (401, errors.AuthenticationError),
        (403, errors.AuthenticationError),
        (413, errors.BadRequestError),
        (501, errors.NotFoundError),
        (429, errors.ServerBusyError),
        (500, errors.ServerFailureError),
        (503, errors.ServerBusyError),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_each_status_has_its_error(
    server: ScriptedServer, endpoint: RuntimeEndpoint, status: int, kind: type[Exception], streamed: bool
) -> None:
    server.on("/generate", Reply(json={"error": {"message": "because"}}, status=status))
    with pytest.raises(kind, match="because") as caught:
        (endpoint.stream if streamed else endpoint.complete)("x")
    assert caught.value.status == status  # type: ignore[attr-defined]
    assert f"{server.url}/generate" in str(caught.value)


def test_a_refused_connection_is_reported() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(errors.ServerConnectionError, match="Connection refused") as caught:
        RuntimeEndpoint(f"http://127.0.0.1:{port}")
    assert f"http://127.0.0.1:{port}/model_info" in str(caught.value)
    assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize("prefix", ["/v1", "/generate"])
def test_a_route_as_base_url_is_recognized(server: ScriptedServer, prefix: str) -> None:
    with pytest.raises(errors.NotFoundError, match=rf"404 Not Found.*\nLeave {prefix} out of base_url"):
        RuntimeEndpoint(server.url + prefix)


def test_another_http_service_is_refused(server: ScriptedServer) -> None:
    server.on("/model_info", Reply(body=b"<html>"))
    with pytest.raises(errors.ProtocolError):
        RuntimeEndpoint(server.url)
    server.forget("/model_info")
    with pytest.raises(errors.NotFoundError, match="404"):
        RuntimeEndpoint(server.url)
    server.on("/model_info", Reply(json={"object": "list"}))
    with pytest.raises(errors.ProtocolError, match="does not describe"):
        RuntimeEndpoint(server.url)


def test_a_read_timeout_aborts_the_request(server: ScriptedServer) -> None:
    wait = Wait()
    server.on("/generate", endless(wait))
    with RuntimeEndpoint(server.url, read_timeout=0.2) as endpoint:
        running = endpoint.stream("x")
        with pytest.raises(errors.StreamError, match="in time") as caught:
            list(running)
        assert isinstance(caught.value.__cause__, errors.ServerTimeoutError)
        assert caught.value.text == "Once upon"
        assert server.wait_for("/abort_request")[0].json == {"rid": running.rid}
        server.on("/generate", stream(Wait()))
        with pytest.raises(errors.ServerTimeoutError):
            endpoint.complete("x", rid="slow")
        assert server.wait_for("/abort_request", 2)[1].json == {"rid": "slow"}


def test_control_characters_of_the_server_are_not_printed(server: ScriptedServer) -> None:
    server.on("/model_info", Reply(json={**MODEL_INFO, "served_model_name": "evil\x1b[2J"}))
    with RuntimeEndpoint(server.url) as endpoint:
        long = "bad\x1b[31m\nsecond line " + "x" * 5000
        server.on("/generate", Reply(json={"error": {"message": long}}, status=400))
        whole = failure(lambda: endpoint.complete("x"))
        server.on("/generate", stream({"error": {"message": long}}))
        streamed = failure(lambda: endpoint.stream("x").result())
        assert "\x1b" not in repr(endpoint)
    for error in (whole, streamed):
        assert "\x1b" not in str(error)
        first, *rest = str(error).splitlines()
        assert "bad␛[31m second line" in first
        assert len(first) < 2200
        assert rest == [error.hint]
