"""https:// for a server that speaks http, and http:// for one that speaks https."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from support.clients import KINDS, connected, failure
from support.scripted_server import CUT, RESET, Reply, ScriptedServer

from nbruntime import errors


@pytest.fixture
def silent() -> Iterator[int]:
    """A server that closes every connection after its first bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close_all() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)

        thread = threading.Thread(target=close_all, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def open_client(kind: str, url: str) -> None:
    with connected(kind, url):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_https_to_a_server_of_http(server: ScriptedServer, kind: str) -> None:
    url = server.url.replace("http:", "https:")
    error = failure(lambda: open_client(kind, f"{url}/prefix"))
    assert isinstance(error, errors.ServerConnectionError)
    assert error.message.startswith("The server speaks http, not https: ")
    assert error.hint == f"Give {server.url}/prefix as base_url."
    assert not error.sent


@pytest.mark.parametrize("kind", KINDS)
def test_http_to_a_server_of_https(certificate: tuple[str, str], kind: str) -> None:
    with ScriptedServer(certificate=certificate) as server:
        error = failure(lambda: open_client(kind, server.url.replace("https:", "http:")))
    assert isinstance(error, errors.ServerConnectionError)
    assert error.message.startswith("The server speaks https, not http: ")
    assert error.hint == f"Give {server.url} as base_url."


@pytest.mark.parametrize("words", ["The plain HTTP request was sent to HTTPS port", "to an HTTPS server."])
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_says_it_itself(server: ScriptedServer, kind: str, words: str) -> None:
    server.on("/model_info", Reply(body=words.encode(), status=400))
    error = failure(lambda: open_client(kind, server.url))
    assert error.hint == f"Give {server.url.replace('http:', 'https:')} as base_url."


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_speaks_neither(silent: int, kind: str, scheme: str) -> None:
    error = failure(lambda: open_client(kind, f"{scheme}://127.0.0.1:{silent}"))
    assert isinstance(error, errors.ServerConnectionError)
    assert "speaks" not in error.message
    assert "certificate" not in str(error)


@pytest.mark.parametrize("end", [CUT, RESET])
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_has_answered_is_not_checked(server: ScriptedServer, kind: str, end: object) -> None:
    with connected(kind, server.url) as client:
        connections = server.connections
        server.on("/generate", Reply(raw=True, pieces=[end]))
        assert "No answer from the server" in failure(lambda: client.call("complete", "x")).message
        assert server.connections <= connections + 2  # the abort may need another one
