"""Which pages and hosts a server without a key answers, as raw HTTP; the server has no model."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from support.embedded_app import serving

from nbruntime.embedded.arguments import ServerArguments, parse_arguments

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(ServerArguments(allowed_hosts="Hub.Example.org, proxy")) as number:
        yield number


def ask(port: int, *headers: str, request: str = "GET / HTTP/1.1", body: str = "") -> tuple[int, str]:
    """Send one request as it is; give status and the whole answer."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        lines = [request, *(header.replace("PORT", str(port)) for header in headers), "Connection: close"]
        connection.sendall(("".join(f"{line}\r\n" for line in [*lines, ""]) + body).encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    return int(answer.split()[1]), answer


@pytest.mark.parametrize(
    "headers",
    [
        ["Host: 127.0.0.1:PORT"],
        ["Host: 127.0.0.1:4711"],  # forwarded from another port
        ["Host: localhost:PORT"],
        ["Host: LOCALHOST.:PORT"],
        ["Host: localhost"],
        ["Host: 127.1.2.3:PORT"],
        ["Host: 0.0.0.0:PORT"],
        ["Host: [::1]:PORT"],
        ["Host: [::]:PORT"],
        [f"Host: {socket.gethostname()}:PORT"],
        ["Host: hub.example.org"],
        ["Host: proxy:8000"],
        ["Host: localhost:PORT", "Origin: http://localhost:8888"],
        ["Host: 127.0.0.1:PORT", "Origin: http://localhost:8888", "Sec-Fetch-Site: cross-site"],
        ["Host: 127.0.0.1:PORT", "Origin: https://127.0.0.1:8888", "Sec-Fetch-Site: same-site"],
        ["Host: hub.example.org", "Origin: https://hub.example.org", "Sec-Fetch-Site: same-origin"],
        # An address that the user types, and a link in a notebook
        ["Host: localhost:PORT", f"User-Agent: {CHROME}", "Sec-Fetch-Site: none"],
        ["Host: localhost:PORT", f"User-Agent: {CHROME}", "Sec-Fetch-Site: same-origin"],
        [
            "Host: 127.0.0.1:PORT",
            "Referer: http://localhost:8888/lab",
            "Sec-Fetch-Site: cross-site",
            "Sec-Fetch-Mode: navigate",
        ],
        ["Host: localhost:PORT", "User-Agent: node", "Sec-Fetch-Mode: cors"],
    ],
    ids="; ".join,
)
def test_programs_and_pages_of_this_machine_are_answered(port: int, headers: list[str]) -> None:
    status, answer = ask(port, *headers)
    assert (status, answer.rpartition("\r\n")[2]) == (200, '"SGLang is running"')


def test_a_request_of_http_1_0_needs_no_host(port: int) -> None:
    assert ask(port, request="GET / HTTP/1.0")[0] == 200


HOSTS = [
    "Host: evil.example:PORT",
    "Host: 127.0.0.1.evil.example:PORT",
    "Host: localhost.evil.example",
    "Host: evil.localhost:PORT",
    "Host: hub.example.org.evil.example",
    "Host: localhost@evil.example",
    "Host: evil.example@localhost",
    "Host: 192.0.2.7:PORT",
    "Host: [2001:db8::7]:PORT",
    "Host: \xff",
    "Host: [::1",
    "Host: 127.0.0.1:port",
    "Host: ",
]
PAGES = [
    ["Origin: http://evil.example"],
    ["Origin: http://localhost.evil.example:8888"],
    ["Origin: http://localhost:8888@evil.example"],
    ["Origin: null"],
    ["Origin: file://"],
    ["Origin: chrome-extension://localhost"],
    ["Origin: http://localhost:8888", "Origin: http://evil.example"],
    ["Origin: https://evil.example", "Sec-Fetch-Site: same-origin"],
    ["Origin: http://localhost:8888, http://evil.example"],
    ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"],
    ["Sec-Fetch-Site: unheard-of", "Sec-Fetch-Mode: navigate"],
    ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Referer: http://evil.example/"],
    ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"],
    ["Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: navigate"],  # from another host of an allowed one's site
    # An image in the text of a notebook
    ["Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: no-cors", "Referer: http://localhost:8888/"],
    # Browsers under http://0.0.0.0, and old ones, say no more
    [f"User-Agent: {CHROME}"],
    [f"User-Agent: {CHROME}", "Referer: http://evil.example/"],
    [f"User-Agent: {CHROME}", "Referer: http://localhost:8888/"],
]


@pytest.mark.parametrize("host", HOSTS)
def test_requests_to_other_hosts_are_refused(port: int, host: str) -> None:
    status, answer = ask(port, host)
    assert status == 403
    assert "is not this machine" in answer
    assert "--allowed-hosts" in answer
    assert "SGLang is running" not in answer


@pytest.mark.parametrize("headers", PAGES, ids="; ".join)
def test_requests_of_other_pages_are_refused(port: int, headers: list[str]) -> None:
    status, answer = ask(port, "Host: localhost:PORT", *headers)
    assert status == 403
    assert "API key" in answer
    assert "Access-Control-Allow-Origin" not in answer


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("path", ["/flush_cache", "/generate", "/health", "/metrics", "/nothing"])
def test_no_route_and_no_method_is_left_open(port: int, method: str, path: str) -> None:
    for headers in (["Host: evil.example"], ["Host: localhost", "Origin: http://evil.example"]):
        assert ask(port, *headers, request=f"{method} {path} HTTP/1.1")[0] == 403


def test_a_url_in_a_query_is_not_the_host(port: int) -> None:
    assert ask(port, "Host: localhost", request="GET /?from=http://evil.example/ HTTP/1.1")[0] == 200


def test_all_hosts_of_a_request_count(port: int) -> None:
    assert ask(port, "Host: localhost", request="GET http://localhost/ HTTP/1.1")[0] == 200
    assert ask(port, "Host: localhost", request="GET http://evil.example/ HTTP/1.1")[0] == 403
    assert ask(port, "Host: localhost", "Host: evil.example")[0] in (400, 403)
    assert ask(port, "Host: evil.example", "Host: localhost")[0] in (400, 403)


def test_a_form_cannot_send_a_body(port: int) -> None:
    form = ["Host: localhost", "Content-Type: text/plain", "Content-Length: 2", "Origin: http://evil.example"]
    assert ask(port, *form, request="POST /start_profile HTTP/1.1", body="{}")[0] == 403


def test_preflights(port: int) -> None:
    asked = ["Host: localhost", "Access-Control-Request-Method: POST", "Sec-Fetch-Site: cross-site"]
    status, answer = ask(port, *asked, "Origin: http://127.0.0.1:8888", request="OPTIONS /generate HTTP/1.1")
    assert status == 200
    assert "Access-Control-Allow-Origin: http://127.0.0.1:8888" in answer
    assert ask(port, *asked, "Origin: http://evil.example", request="OPTIONS /generate HTTP/1.1")[0] == 403


def test_with_a_key_every_page_that_has_it_is_answered() -> None:
    with serving(ServerArguments(api_key="sk-test")) as port:
        page = ["Host: evil.example", "Origin: http://evil.example", "Sec-Fetch-Site: cross-site"]
        assert ask(port, *page)[0] == 401
        status, answer = ask(port, *page, "Authorization: Bearer sk-test")
        assert status == 200
        assert "Access-Control-Allow-Origin: http://evil.example" in answer


def test_an_admin_key_alone_opens_nothing_to_pages() -> None:
    with serving(ServerArguments(admin_api_key="sk-admin")) as port:
        page = ["Host: localhost", "Origin: http://evil.example", "Authorization: Bearer sk-admin"]
        assert ask(port, *page, request="GET /flush_cache HTTP/1.1")[0] == 403


@pytest.mark.parametrize("given", ["http://hub.example.org", "hub.example.org:8000", "*", "a b"])
def test_allowed_hosts_are_names(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_arguments(["--allowed-hosts", "a, b.example ,"]).allowed_host_names == ["a", "b.example"]
    with pytest.raises(SystemExit):
        parse_arguments(["--allowed-hosts", given])
    assert "--allowed-hosts takes names" in capsys.readouterr().err
