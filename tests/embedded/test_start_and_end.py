"""How the embedded server starts, refuses to start, and ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.embedded_server import PROMPT, STORY, EmbeddedServer
from support.server_client import generate_body, wait_until

from nbruntime.embedded.arguments import parse_arguments


def refused(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nbruntime.embedded", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith("NBRUNTIME_")},
    )


def test_other_machines_need_a_key() -> None:
    done = refused("--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert "no API key is set" in done.stderr
    assert "NBRUNTIME_API_KEY" in done.stderr


def test_keys_are_not_taken_from_the_command_line() -> None:
    done = refused("--api-key", "sk-test")
    assert done.returncode == 2
    assert "unrecognized arguments" in done.stderr


@pytest.mark.model
def test_a_taken_port_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = refused("--port", str(port))
    assert done.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "Give another --port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_an_invalid_port_is_refused(port: str) -> None:
    done = refused("--port", port)
    assert done.returncode == 2
    assert f"--port must be in [0, 65535], got {port}" in done.stderr


@pytest.mark.parametrize(
    ("flag", "value", "least"),
    [
        ("--threads", 0, 1),
        ("--stream-interval", 0, 1),
        ("--max-queued-requests", -1, 0),
        ("--max-body-bytes", 0, 1),
    ],
)
def test_an_argument_below_its_minimum(
    flag: str, value: int, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments([f"{flag}={value}"])
    assert f"{flag} must be at least {least}, got {value}" in capsys.readouterr().err


@pytest.mark.model
@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--tokenizer-path", "/nonexistent", "error: ModelNotFoundError: The tokenizer in /nonexistent"),
        (
            "--context-length",
            "10000",
            "error: LaunchError: --context-length 10000 is more than the model's 8192",
        ),
        (
            "--max-total-tokens",
            "99999999999",
            "error: LaunchError: Not enough memory for a KV cache of 99999999999",
        ),
    ],
)
def test_a_failed_start_is_reported_in_two_lines(flag: str, value: str, said: str) -> None:
    done = refused(flag, value, "--port", "0")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.model
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_ipv6_loopback() -> None:
    server = EmbeddedServer("--host", "::1")
    try:
        assert server.url.startswith("http://[::1]:")
        assert server.get("/health").status_code in (200, 503)  # loaded or not
    finally:
        server.close()


@pytest.mark.model
def test_sigterm_while_loading() -> None:
    for phase in ("starting", "loading weights"):
        server = EmbeddedServer("--dtype", "float32")
        try:
            server.wait_for(f"phase: {phase}")
            if phase == "loading weights":
                assert server.get("/health").status_code == 503
                early = server.post("/generate", generate_body(PROMPT))
                assert early.status_code == 503
                assert "starting (loading" in early.json()["message"]
        finally:
            code, took = server.close()
        print(f"ended within {took:.2f} s while {phase}")
        assert code == 0, server.log
        assert took < 4


@pytest.mark.model
def test_sigterm_while_generating() -> None:
    server = EmbeddedServer("--dtype", "float32").ready()
    try:
        long = generate_body(PROMPT, max_new_tokens=4000, ignore_eos=True)
        with (
            ThreadPoolExecutor(3) as pool,
            server.stream(PROMPT, max_new_tokens=4000, ignore_eos=True) as events,
        ):
            plain = [pool.submit(server.post, "/generate", long) for _ in range(2)]
            wait_until(lambda: server.load()["num_running_reqs"] == 3)
            next(events)
            pool.submit(server.post, "/generate", generate_body(STORY * 100, max_new_tokens=2))
            code, took = server.close()
            last = list(events)[-1]
            answers = [each.result() for each in plain]
    finally:
        server.close()
    print(f"ended within {took:.2f} s")
    assert code == 0, server.log
    assert took < 4
    assert last["meta_info"]["finish_reason"]["message"] == "The server shuts down."
    assert last["text"].startswith(" Paris")
    assert {answer.status_code for answer in answers} == {503}
    assert "Traceback" not in server.log


@pytest.mark.model
def test_sigterm_while_tokenizing() -> None:
    server = EmbeddedServer("--dtype", "float32").ready()
    try:
        with ThreadPoolExecutor(8) as pool:
            large = {"prompt": "hello wor " * 100_000}
            asked = [pool.submit(server.post, "/tokenize", large) for _ in range(8)]
            asked[0].exception()  # until the first is done and the others wait
            code, took = server.close()
    finally:
        server.close()
    print(f"ended within {took:.2f} s")
    assert code == 0, server.log
    assert took < 4
