"""Claiming ports."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import pytest

from nbruntime.errors import ArgumentValueError, PortInUseError
from nbruntime.launch.ports import PortClaim, claim_port, holders_of


def test_first_free_port_from_30000_upward() -> None:
    with (
        claim_port("127.0.0.1", None, listen=True) as first,
        claim_port("127.0.0.1", None, listen=True) as second,
    ):
        assert 30000 <= first.port < second.port


def test_given_port_and_any_port() -> None:
    with claim_port("127.0.0.1", 0, listen=True) as free:
        port = free.port
    assert port > 0
    # Below the ports that the system gives to connections.
    with claim_port("127.0.0.1", 27321, listen=True) as claim:
        assert (claim.port, claim.url) == (27321, "http://127.0.0.1:27321")


def test_error_names_the_process_that_holds_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        assert holders_of("127.0.0.1", port) == holders_of("", port) == [os.getpid()]
        assert holders_of("127.0.0.2", port) == []
        with pytest.raises(PortInUseError, match=rf"Port {port} is taken by process {os.getpid()} \("):
            claim_port("127.0.0.1", port, listen=True)
    assert holders_of("127.0.0.1", port) == []


def test_reserved_port_is_skipped_while_its_server_loads() -> None:
    with claim_port("127.0.0.1", None, listen=False) as loading:
        with socket.create_server(("127.0.0.1", loading.port)):
            pass  # nobody listens there yet
        with claim_port("127.0.0.1", None, listen=True) as other:
            assert other.port > loading.port
        with pytest.raises(PortInUseError):
            claim_port("127.0.0.1", loading.port, listen=False)


def test_any_port_is_not_a_reserved_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with claim_port("127.0.0.1", 0, listen=False) as loading:
        chosen = [loading.port]

        class Socket(socket.socket):
            """The system may choose a port that nobody listens at yet."""

            def bind(self, address: Any) -> None:
                super().bind((address[0], chosen.pop()) if chosen else address)

        monkeypatch.setattr(socket, "socket", Socket)
        with claim_port("127.0.0.1", 0, listen=True) as other:
            assert not chosen
            assert other.port != loading.port


@pytest.mark.parametrize("port", [-1, 65536])
def test_invalid_port_is_an_error(port: int) -> None:
    with pytest.raises(ArgumentValueError, match="between 0 and 65535"):
        claim_port("127.0.0.1", port, listen=True)


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host"])
def test_invalid_host_is_an_error(host: str) -> None:
    with pytest.raises(ArgumentValueError, match=host):
        claim_port(host, 0, listen=True)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:30000"),
        ("::1", "http://[::1]:30000"),
        ("::", "http://[::1]:30000"),
        ("localhost", "http://localhost:30000"),
    ],
)
def test_url_of_a_host(host: str, url: str) -> None:
    assert PortClaim(host, 30000).url == url


def test_many_claims_at_once_get_different_ports() -> None:
    claims: list[PortClaim] = []
    barrier = threading.Barrier(16)

    def take() -> None:
        barrier.wait()
        claims.append(claim_port("127.0.0.1", None, listen=len(claims) % 2 == 0))

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ports = {claim.port for claim in claims}
    for claim in claims:
        claim.close()
    assert len(ports) == 16
