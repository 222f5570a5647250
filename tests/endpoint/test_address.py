"""Checks of a server's URL, and which addresses are this machine's."""

from __future__ import annotations

import socket
from typing import Any

import psutil
import pytest

from nbruntime import errors
from nbruntime.endpoint import RuntimeEndpoint
from nbruntime.endpoint.address import check_base_url, is_this_machine


@pytest.mark.parametrize(
    "url", ["localhost:30000", "ftp://host", "", "http://", "http://user:pw@host", 30000]
)
def test_invalid_addresses_are_refused(url: Any) -> None:
    with pytest.raises(errors.ArgumentError) as caught:
        RuntimeEndpoint(url)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "reached"),
    [
        ("http://0.0.0.0:30000/", "http://127.0.0.1:30000"),
        ("https://[::]:30000/v1", "https://[::1]:30000/v1"),
        ("http://0.0.0.0", "http://127.0.0.1"),
        ("http://0:30000", "http://127.0.0.1:30000"),
        ("http://127.1:30000", "http://127.0.0.1:30000"),
        ("http://10.0.0.7:30000", "http://10.0.0.7:30000"),
        ("http://[fd00::7]:30000", "http://[fd00::7]:30000"),
        ("http://Node1.example:30000", "http://Node1.example:30000"),
    ],
)
def test_an_address_to_listen_at_becomes_one_to_connect_to(given: str, reached: str) -> None:
    assert check_base_url(given) == reached


def own_addresses() -> list[str]:
    families = (socket.AF_INET, socket.AF_INET6)
    found = [each for addresses in psutil.net_if_addrs().values() for each in addresses]
    return [each.address for each in found if each.family in families]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.3.2.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "LOCALHOST",
     "localhost.", "lab.localhost", socket.gethostname(), *own_addresses()],
)  # fmt: skip
def test_addresses_and_names_of_this_machine(host: str) -> None:
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    assert is_this_machine(f"http://{host}:30000")


@pytest.mark.parametrize(
    "host", ["198.51.100.9", "[2001:db8::9]", "sglang.example", "notlocalhost", "localhost.example"]
)
def test_other_machines(host: str) -> None:
    assert not is_this_machine(f"http://{host}:30000")
