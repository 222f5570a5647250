"""Connections of both clients: time-outs, redirects and certificates."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.clients import KINDS, collect, connected
from support.scripted_server import CUT, KEY, MODEL_INFO, WORDS, Asked, Reply, ScriptedServer, events, stream

from nbruntime import errors
from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint


@pytest.mark.parametrize("kind", [RuntimeEndpoint, AsyncRuntimeEndpoint])
@pytest.mark.parametrize("verify", ["", 0, 5, b"ca.pem", Path("ca.pem")])
def test_invalid_verify_is_refused(kind: type[Any], verify: Any) -> None:
    with pytest.raises(errors.ArgumentError, match="Give the path"):
        kind("https://127.0.0.1:9", KEY, verify=verify)


@pytest.mark.parametrize("kind", [RuntimeEndpoint, AsyncRuntimeEndpoint])
@pytest.mark.parametrize("name", ["connect_timeout", "read_timeout"])
@pytest.mark.parametrize("seconds", [0, -1, "5", True, float("nan"), float("inf"), 2**32 / 1000, 1e300])
def test_invalid_timeouts_are_refused(kind: type[Any], name: str, seconds: Any) -> None:
    with pytest.raises(errors.ArgumentError, match=f"{name} is .*\n.*None for no limit"):
        kind("http://127.0.0.1:9", **{name: seconds})


@pytest.mark.parametrize("kind", KINDS)
def test_invalid_paths_and_timeouts_are_not_sent(server: ScriptedServer, kind: str) -> None:
    with connected(kind, server.url) as client:
        count = len(server.asked)
        for path in ("metrics", "@elsewhere.example/", "", 5):
            for method in ("get", "post"):
                with pytest.raises(errors.ArgumentError, match=r"(?s)path.*Begin it with a slash"):
                    client.call(method, path)
        for seconds in (0, -1, "5", True, 1e300):
            with pytest.raises(errors.ArgumentError, match=r"timeout is .*\n.*None for no limit"):
                client.call("get", "/health", timeout=seconds)
        assert len(server.asked) == count


def test_redirects_are_not_followed(server: ScriptedServer) -> None:
    with ScriptedServer() as other:
        server.on("/model_info", Reply(body=b"", status=307, headers={"location": f"{other.url}/model_info"}))
        with pytest.raises(errors.ServerStatusError, match="give the final address") as caught:
            RuntimeEndpoint(server.url, KEY)
        assert other.url in str(caught.value)
        assert other.asked == []


def test_verify_holds_for_streams_and_async_requests(
    certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer(certificate=certificate) as server:
        server.on("/generate", stream(*events()))
        with pytest.raises(errors.ServerConnectionError, match=r"(?s)certificate is not accepted.*verify="):
            RuntimeEndpoint(server.url)
        with RuntimeEndpoint(server.url, verify=certificate[0]) as endpoint:
            # The environment's own certificates do not go before those that were given.
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
            assert "".join(endpoint.stream("x")) == "Once upon a time"
            assert asyncio.run(collect(endpoint)) == WORDS
        unreadable = r"^The certificates .* cannot be read \(verify='/nowhere.pem'\)\n.* existing file"
        for kind in KINDS:
            with (
                pytest.raises(errors.ServerConnectionError, match=unreadable),
                connected(kind, server.url, verify="/nowhere.pem"),
            ):
                pass


@pytest.mark.parametrize("kind", KINDS)
def test_certificates_of_the_environment_are_used_for_other_machines(
    certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate[0])
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ScriptedServer(certificate=certificate) as server:
        with (
            pytest.raises(errors.ServerConnectionError, match="certificate is not accepted"),
            connected(kind, server.url),
        ):
            pass
        monkeypatch.setattr("nbruntime.endpoint.settings.is_this_machine", lambda url: False)
        with connected(kind, server.url) as client:
            assert client.client.model_info == MODEL_INFO


def test_only_reads_are_retried_on_a_kept_connection_that_was_closed(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    dropped = []

    def drop_first(asked: Asked) -> Reply:
        if not dropped:
            dropped.append(asked)
            return Reply(pieces=[CUT])
        return Reply(json={"version": "x"})

    server.on("/server_info", drop_first)
    assert endpoint.get_server_info() == {"version": "x"}  # read once more
    generated = []

    def drop_all(asked: Asked) -> Reply:
        generated.append(asked)
        return Reply(pieces=[CUT])

    server.on("/generate", drop_all)
    with pytest.raises(errors.NbruntimeError):
        endpoint.complete("x")
    assert len(generated) == 1  # a generation is never sent twice
