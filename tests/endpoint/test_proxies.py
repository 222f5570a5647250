"""Proxies of the environment: who uses them, and errors that came through one; and proxies on the way."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from support.clients import KINDS, collect, connected, failure
from support.scripted_server import KEY, MODEL_INFO, WORDS, Reply, ScriptedServer, events, stream

from nbruntime import errors
from nbruntime.endpoint import RuntimeEndpoint


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", socket.gethostname()])
def test_proxies_of_the_environment_are_not_used_for_this_machine(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.api_key = KEY
    with RuntimeEndpoint(server.url.replace("127.0.0.1", host), KEY) as endpoint:
        server.on("/generate", stream(*events()))
        assert "".join(endpoint.stream("x")) == "Once upon a time"
        assert asyncio.run(collect(endpoint)) == WORDS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_proxies_of_the_environment_are_used_for_other_machines(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, kind: str, scheme: str
) -> None:
    monkeypatch.setenv("http_proxy", server.url.replace("http://", scheme))
    server.on("http://sglang.example/model_info", Reply(json=MODEL_INFO))
    with connected(kind, "http://sglang.example") as client:
        assert client.client.model_info == MODEL_INFO
    assert [asked.path for asked in server.asked] == ["http://sglang.example/model_info"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "what", "hint"),
    [
        (
            502,
            "The server, or the proxy {} before it, answered 502 Bad Gateway",
            "If the server needs no proxy",
        ),
        (503, "The server, or the proxy {} before it, answered 503", "NO_PROXY"),
        (407, "The proxy {} answered 407 Proxy Authentication Required", "Write its user and password into"),
        (200, "The answer is not JSON", "The request went through the proxy {}"),
        (302, "The server answered 302 Found", "The request went through the proxy {}"),
    ],
)
def test_an_error_that_came_through_a_proxy_names_it(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, kind: str, status: int, what: str, hint: str
) -> None:
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//me:proxy-pass@"))
    server.on(
        "http://sglang.example/model_info",
        Reply(
            body=b"<html>No way</html>",
            status=status,
            headers={"location": "http://me:proxy-pass@login.example/?mail=a@b.example"},
        ),
    )

    def connect() -> None:
        with connected(kind, "http://sglang.example"):
            pass

    error = failure(connect)
    assert str(error).startswith(what.format(server.url))
    assert hint.format(server.url) in str(error)
    assert "put sglang.example into the environment variable NO_PROXY" in str(error)
    assert "proxy-pass" not in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_the_server_is_not_blamed_on_the_proxy(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.on("http://sglang.example/model_info", Reply(json={"error": "The queue is full."}, status=503))
    with (
        pytest.raises(errors.ServerBusyError, match=r"^The server answered 503 .*: The queue is full"),
        connected(kind, "http://sglang.example"),
    ):
        pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("place", ["127.0.0.1:9", None])
def test_a_proxy_that_does_not_connect_is_named(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, kind: str, scheme: str, place: str | None
) -> None:
    if place is None:  # it answers, but makes no tunnel
        scheme, place = "https", server.url.removeprefix("http://")
    monkeypatch.setenv(f"{scheme}_proxy", f"http://me:proxy-pass@{place}")

    def connect() -> None:
        with connected(kind, f"{scheme}://sglang.example"):
            pass

    error = failure(connect)
    assert isinstance(error, errors.ServerConnectionError)
    assert str(error).startswith(f"The proxy http://{place} does not connect: ")
    assert "put sglang.example into the environment variable NO_PROXY" in str(error)
    assert "proxy-pass" not in str(error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "what", "hint"),
    [
        (407, "The proxy {} does not connect", "Write its user and password into"),
        (200, "The server does not speak TLS as it should", "The request went through the proxy {}"),
    ],
)
def test_a_tunnel_that_fails_names_its_proxy(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, kind: str, status: int, what: str, hint: str
) -> None:
    monkeypatch.setenv("https_proxy", server.url)
    server.on("sglang.example:443", Reply(body=b"<html>No way</html>", status=status))

    def connect() -> None:
        with connected(kind, "https://sglang.example"):
            pass

    error = failure(connect)
    assert str(error).startswith(what.format(server.url))
    assert hint.format(server.url) in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_streams_ask_for_an_event_stream_and_other_requests_for_json(
    server: ScriptedServer, kind: str
) -> None:
    # jupyter-server-proxy passes a stream on piece by piece only for this very text.
    server.on("/generate", stream(*events()))
    server.on("/tokenize", Reply(json={"tokens": [1]}))
    with connected(kind, server.url) as client:
        assert client.read("x").texts == WORDS
        assert client.read([{"role": "user", "content": "x"}], method="stream_chat").texts == WORDS
        client.call("get_server_info")
    accepted = {asked.path: asked.headers["Accept"] for asked in server.asked}
    assert accepted.pop("/generate") == "text/event-stream"
    assert {accept.partition(",")[0] for accept in accepted.values()} == {"application/json"}
