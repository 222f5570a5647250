"""Traps of SGLang's protocol (0.5.23) for any client, list 3.3: a test each that ours avoids them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.scripted_server import CUT, Asked, Reply, ScriptedServer, Wait, answer, cumulative, stream

from nbruntime import RuntimeEndpoint, errors
from nbruntime.protocol import delta_decoder, deltas

WORDS = ["Hel", "lo ", "wor", "ld!"]


def test_3_3_01_no_health_check_that_generates(server: ScriptedServer) -> None:
    with RuntimeEndpoint(server.url) as endpoint:
        endpoint.get_server_info()
        repr(endpoint)
    assert [asked.path for asked in server.asked if "health" in asked.path] == []


def test_3_3_02_a_cumulative_stream_is_not_parsed_again_and_again(
    server: ScriptedServer, endpoint: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = 0

    def counting(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def count(payload: bytes) -> Any:
            nonlocal parsed
            parsed += len(payload)
            return read(payload)

        return count

    for module, name in ((deltas, "read_running_event"), (delta_decoder, "read_event")):
        monkeypatch.setattr(module, name, counting(getattr(module, name)))
    sizes = []
    for count in (200, 400):
        parsed = 0
        server.on("/generate", stream(*cumulative([f" word{n}" for n in range(count)])))
        assert len(list(endpoint.stream("x"))) == count
        sizes.append(parsed)
    print(f"{sizes[0]:,} and {sizes[1]:,} bytes parsed for 200 and 400 tokens")
    assert 0 < sizes[1] < 3 * sizes[0]  # four times would be O(n^2)


def test_3_3_03_samples_are_aborted_by_the_rids_of_the_server(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    made = [{**cumulative(WORDS, f"given-{index}")[0], "index": index} for index in (0, 1)]
    server.on("/generate", stream(*made, Wait()))
    with endpoint.stream("x", n=2, rid="mine") as running:
        pairs = running.indexed()
        next(pairs), next(pairs)
    assert [asked.json["rid"] for asked in server.wait_for("/abort_request", 2)] == ["given-0", "given-1"]


def test_3_3_04_an_unknown_rid_is_no_error(endpoint: RuntimeEndpoint) -> None:
    assert endpoint.abort("unknown") is None  # type: ignore[func-returns-value]


def test_3_3_05_a_bare_text_is_a_readable_error(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/stop_profile", Reply(body=b"Internal Server Error", status=500))
    with pytest.raises(errors.ServerFailureError, match="500 Internal Server Error") as caught:
        endpoint.stop_profile()
    assert caught.value.hint == "The server's log has the reason."


def test_3_3_06_a_busy_cache_is_not_flushed_silently(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/flush_cache", Reply(body=b"Flush cache failed.\n", status=400))
    with pytest.raises(errors.BadRequestError, match="Flush cache failed"):
        endpoint.flush_cache()


def test_3_3_07_a_schema_may_be_an_object(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=answer("{}")))
    endpoint.complete("x", json_schema={"type": "object"})
    assert server.to("/generate")[0].json["sampling_params"]["json_schema"] == '{"type": "object"}'


def test_3_3_08_an_abort_with_status_200_is_an_error(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    reason = {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}
    server.on("/generate", Reply(json=answer("Hel", [1], finish_reason=reason)))
    with pytest.raises(errors.GenerationAbortedError) as caught:
        endpoint.complete("x")
    assert caught.value.text == "Hel"


def left_by_with(endpoint: RuntimeEndpoint) -> None:
    with endpoint.stream("x", rid="leaver") as running:
        next(running)


def left_by_collection(endpoint: RuntimeEndpoint) -> None:
    next(endpoint.stream("x", rid="leaver"))


def left_with_the_connection(endpoint: RuntimeEndpoint) -> None:
    with contextlib.suppress(errors.ServerConnectionError):
        endpoint.complete("x", rid="leaver")


@pytest.mark.parametrize("leave", [left_by_with, left_by_collection, left_with_the_connection])
def test_3_3_09_a_left_stream_is_aborted_at_once(
    server: ScriptedServer, endpoint: RuntimeEndpoint, leave: Callable[[RuntimeEndpoint], None]
) -> None:
    def reply(asked: Asked) -> Reply:
        if asked.json.get("stream"):
            return stream(*cumulative(WORDS)[:2], Wait())
        return Reply(raw=True, pieces=[CUT])

    server.on("/generate", reply)
    leave(endpoint)
    before = time.monotonic()
    assert server.wait_for("/abort_request")[0].json == {"rid": "leaver"}
    took = time.monotonic() - before
    print(f"{leave.__name__}: aborted {took * 1000:.0f} ms later")
    assert took < 1.5  # SGLang waits for two seconds after the connection is gone
