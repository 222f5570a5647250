"""Checks of aborts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from support.server_client import ServerClient, generate_body, wait_until

from conformance.suite import LONG, PROMPT, check, check_answer, check_stream, reply, said


def _abort(
    server: ServerClient, rid: Any, body: dict[str, Any], prompt: Any = PROMPT, **params: Any
) -> list[dict[str, Any]]:
    """Begin a stream, send an abort, and read the rest."""
    with server.stream(prompt, fields={"rid": rid}, **LONG | params) as events:
        seen = [next(events)]
        assert reply(server.post("/abort_request", body)) == {"status": 200}
        seen += list(events)
    server.wait_idle()
    return seen


@check("aborts: a stream by its name")
def _(server: ServerClient) -> Any:
    events = _abort(server, "abort-1", {"rid": "abort-1"})
    (last,) = check_stream(events)
    assert 0 < last["meta_info"]["completion_tokens"] < 400
    return {"finish_reason": last["meta_info"]["finish_reason"], "id": last["meta_info"]["id"]}


@check("aborts: a batch by its name")
def _(server: ServerClient) -> Any:
    # The requests in it have names of their own, and the name of the batch is none of them.
    events = _abort(server, "abort-2", {"rid": "abort-2"}, [PROMPT, "Once"], max_new_tokens=20)
    last = check_stream(events, 2)
    return {"ends": [each["meta_info"]["finish_reason"] for each in last]}


@check("aborts: names that begin with another")
def _(server: ServerClient) -> Any:
    rids = ["abort-7", "abort-70", "abort-8"]
    events = _abort(server, rids, {"rid": "abort-7"}, [PROMPT, "Once", "Hi"], max_new_tokens=30)
    last = check_stream(events, 3)
    return {"ends": [each["meta_info"]["finish_reason"]["type"] for each in last]}


@check("aborts: n answers by the name of the request")
def _(server: ServerClient) -> Any:
    events = _abort(server, "abort-9", {"rid": "abort-9"}, n=2, max_new_tokens=20)
    last = check_stream(events, 2)
    return {"ends": [each["meta_info"]["finish_reason"]["type"] for each in last]}


@check("aborts: everything")
def _(server: ServerClient) -> Any:
    (last,) = check_stream(_abort(server, "abort-3", {"abort_all": True}))
    return {"finish_reason": last["meta_info"]["finish_reason"]}


@check("aborts: a whole answer")
def _(server: ServerClient) -> Any:
    with ThreadPoolExecutor(1) as pool:
        body = generate_body(PROMPT, {"rid": "abort-4"}, **LONG)
        waiting = pool.submit(server.post, "/generate", body)
        wait_until(lambda: server.load()["num_running_reqs"] == 1)
        server.post("/abort_request", {"rid": "abort-4"})
        answer = waiting.result(60)
    body = answer.json()
    check_answer(body)
    return {"status": answer.status_code, "finish_reason": body["meta_info"]["finish_reason"]}


@check("aborts: unknown names and empty requests")
def _(server: ServerClient) -> Any:
    bodies: dict[str, Any] = {"unknown": {"rid": "nobody"}, "nothing": {}, "no body": None}
    return {name: reply(server.post("/abort_request", body), exact=True) for name, body in bodies.items()}


@check("aborts: a name that is in use")
def _(server: ServerClient) -> Any:
    with server.stream(PROMPT, fields={"rid": "abort-5"}, **LONG) as events:
        next(events)
        again = server.post("/generate", generate_body("Hi", {"rid": "abort-5"}, max_new_tokens=1))
    server.post("/abort_request", {"rid": "abort-5"})
    server.wait_idle()
    return reply(again, exact=True)


@check("aborts: a closed connection")
def _(server: ServerClient) -> Any:
    with server.stream(PROMPT, **LONG) as events:
        next(events)
    server.wait_idle()  # 400 tokens would take longer
    return {"after": said(server.generate(PROMPT, max_new_tokens=2))}


@check("aborts: one of two streams")
def _(server: ServerClient) -> Any:
    done = threading.Event()

    def other() -> list[dict[str, Any]]:
        events: Iterator[dict[str, Any]]
        with server.stream("Once upon a time", max_new_tokens=24) as events:
            seen = [next(events)]
            done.set()
            return seen + list(events)

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(other)
        done.wait(60)
        _abort(server, "abort-6", {"rid": "abort-6"})
        (last,) = check_stream(reading.result(60))
    return said(last)
