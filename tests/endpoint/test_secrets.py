"""The API key and passwords: where they are sent, and that they show nowhere."""

from __future__ import annotations

import copy
import logging
import multiprocessing
import os
import pickle
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.clients import KINDS, connected, failure
from support.scripted_server import KEY, RESET, Reply, ScriptedServer, Wait, answer, events, stream

from nbruntime import errors
from nbruntime.endpoint import RuntimeEndpoint


def test_a_wrong_key_fails_at_once(server: ScriptedServer) -> None:
    server.api_key = KEY
    with pytest.raises(errors.AuthenticationError, match="401 Unauthorized"):
        RuntimeEndpoint(server.url, "sk-wrong")
    with pytest.raises(errors.AuthenticationError):
        RuntimeEndpoint(server.url)


def test_the_key_never_shows(server: ScriptedServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.api_key = KEY
    endpoint = RuntimeEndpoint(server.url, KEY)
    server.on("/generate", lambda asked: Reply(json={"error": f"you sent {asked.headers}"}, status=400))
    with pytest.raises(errors.BadRequestError) as caught:
        endpoint.complete("x")
    assert "you sent" in str(caught.value)
    shown = [
        repr(endpoint),
        str(vars(endpoint)),
        str(vars(endpoint.settings)),
        str(vars(endpoint._transport.adapter)),
        str(caught.value),
        repr(pickle.dumps(endpoint)),
        repr(pickle.dumps(caught.value)),
        str(endpoint.__getstate__()),
        caplog.text,
    ]
    assert [text for text in shown if KEY in text] == []
    loaded = pickle.loads(pickle.dumps(endpoint))
    assert loaded.api_key is None
    assert loaded.base_url == server.url
    with pytest.raises(errors.AuthenticationError):
        loaded.flush_cache()
    loaded.api_key = KEY
    loaded.flush_cache()
    copied = copy.deepcopy(endpoint)
    copied.flush_cache()
    for client in (endpoint, loaded, copied):
        client.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_shows_in_no_representation_of_either_client(server: ScriptedServer, kind: str) -> None:
    server.api_key = KEY
    server.on("/generate", lambda asked: Reply(json={"error": f"you sent {asked.headers}"}, status=400))
    with connected(kind, server.url, api_key=KEY) as driver:
        client = driver.client
        assert client.api_key == KEY
        with pytest.raises(errors.BadRequestError, match="you sent") as caught:
            driver.call("complete", "x")
        shown = {
            "repr": repr(client),
            "vars": str(vars(client)),
            "dict": str(client.__dict__),
            "settings": str(vars(client.settings)),
            "known": str(vars(client._capabilities)),
            "error": f"{caught.value!r} {caught.value} {vars(caught.value)}",
            "pickle": repr(pickle.dumps(client)),
            "pickled error": repr(pickle.dumps(caught.value)),
            "state": str(client.__getstate__()),
        }
        assert [name for name, text in shown.items() if KEY in text] == []
        assert pickle.loads(pickle.dumps(client)).api_key is None
        assert copy.deepcopy(client).api_key == KEY  # stays in the process


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_and_invalid_keys_are_refused(server: ScriptedServer, kind: str) -> None:
    server.api_key = KEY
    for key in ("sk-wrong", None):
        with (
            pytest.raises(errors.AuthenticationError, match="api_key"),
            connected(kind, server.url, api_key=key),
        ):
            pass
    for key in ("sk\nwrong", "schlüssel☂"):
        with (
            pytest.raises(errors.ArgumentValueError, match="api_key"),
            connected(kind, server.url, api_key=key),
        ):
            pass
    print([asked.path for asked in server.asked])


def shown_with_variables(error: BaseException) -> str:
    """Write a traceback as IPython does with %xmode Verbose; this module's own frames know the key."""
    error.__traceback__ = None if error.__traceback__ is None else error.__traceback__.tb_next
    written = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(written.format())


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_does_not_show_in_tracebacks_with_variables(server: ScriptedServer, kind: str) -> None:
    server.api_key = KEY
    with connected(kind, server.url, api_key=KEY) as client:
        server.on("/generate", Reply(raw=True, pieces=[RESET]))
        broken = client.read("x").error
        server.on("/generate", stream(*events()[:2], RESET))
        broken_off = client.read("x").error
        server.on("/generate", stream(*events()[:2], Wait()))
        late = failure(lambda: client.call("complete", "x", timeout=0.2))
        cut_off = client.read("x", timeout=0.2).error
        client.client.base_url = "http://127.0.0.1:9"
        refused = client.read("x").error
    for error in (broken, broken_off, late, cut_off, refused):
        assert isinstance(error, errors.NbruntimeError)
        assert error.__context__ is None or isinstance(error.__context__, errors.NbruntimeError)
        assert KEY not in shown_with_variables(error)


def test_the_key_does_not_show_when_an_endpoint_is_refused() -> None:
    with pytest.raises(errors.ServerConnectionError) as caught:
        RuntimeEndpoint("http://127.0.0.1:9", "sk-" + "x" * 20)
    assert "sk-" + "x" * 20 not in shown_with_variables(caught.value)


def test_the_key_does_not_show_after_an_interrupt(server: ScriptedServer) -> None:
    server.api_key = KEY
    wait = Wait()
    server.on("/generate", stream(wait))
    with RuntimeEndpoint(server.url, KEY) as endpoint:
        interrupting = threading.Thread(target=lambda: (wait.reached.wait(10), os.kill(os.getpid(), 2)))
        interrupting.start()
        with pytest.raises(KeyboardInterrupt) as caught:
            endpoint.complete("x")
        interrupting.join()
    assert KEY not in shown_with_variables(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_an_echoed_key_is_masked(server: ScriptedServer, kind: str) -> None:
    with connected(kind, server.url, api_key=KEY) as client:
        server.on("/generate", Reply(body=b"{}", headers={"content-type": f"text/{KEY}"}))
        assert "text/***" in str(client.read("x").error)
        server.on("/generate", stream({"error": {"message": f"you sent Bearer {KEY}"}}))
        assert "you sent Bearer ***" in str(client.read("x").error)
        server.on("/generate", stream(b"data: " + KEY.encode() + b"\n\n"))
        assert "not a JSON object: ***" in str(client.read("x").error)
        reason = {"type": "abort", "message": f"you sent Bearer {KEY}", "status_code": 500}
        aborted = answer("x", [1], finish_reason=reason)
        server.on(
            "/generate", lambda asked: stream(aborted) if "stream" in asked.json else Reply(json=aborted)
        )
        for error in (client.read("x").error, failure(lambda: client.call("complete", "x"))):
            assert isinstance(error, errors.GenerationAbortedError)
            assert "you sent Bearer ***" in str(error)
            assert KEY not in repr(error.generation)


@pytest.mark.parametrize(
    "url",
    [
        "user:s3cret@localhost:30000",
        "http://user:s3cret@localhost",
        "http://user:s3/cret@localhost",
        "http://user:s3cret@ho\u2100st",
        "ftp://user:s3cret@localhost",
    ],
)
def test_a_password_in_a_url_does_not_show(url: str) -> None:
    with pytest.raises(errors.ArgumentValueError, match="api_key") as caught:
        RuntimeEndpoint(url)
    assert "s3" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [KEY, None])
def test_passwords_of_netrc_are_not_sent(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, key: str | None
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.api_key = key
    elsewhere = server.url.replace("127.0.0.1", "0.0.0.0")
    monkeypatch.setenv("no_proxy", "0.0.0.0")
    with connected(kind, elsewhere, api_key=key) as client:
        server.on("/generate", Reply(json=answer("hi", [1])))
        assert client.call("complete", "x").text == "hi"
    expected = f"Bearer {key}" if key else None
    assert {asked.headers.get("Authorization") for asked in server.asked} == {expected}


PICKLES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda endpoint: pickle.loads(pickle.dumps(endpoint)),
    "pickled twice": lambda endpoint: pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(endpoint)))),
    "a copy of a pickle": lambda endpoint: copy.deepcopy(pickle.loads(pickle.dumps(endpoint))),
}


@pytest.mark.parametrize("way", PICKLES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_that_a_pickle_left_the_key_behind(server: ScriptedServer, kind: str, way: str) -> None:
    server.api_key = KEY
    server.on("/generate", Reply(json=answer("Blue!")))
    with connected(kind, server.url, api_key=KEY) as client:
        original = client.client
        for copied in (copy.copy(original), copy.deepcopy(original)):
            client.client = copied
            assert client.call("complete", "x").text == "Blue!"  # a copy in the same process has the key
            client.call("close")
        client.client = PICKLES[way](original)
        assert "left behind" in client.client._card().text()
        for method in ("complete", "stream", "chat", "embed"):
            error = failure(partial(client.call, method, "x"))
            assert isinstance(error, errors.AuthenticationError)
            assert "a pickle holds no key" in str(error.hint)
            assert "endpoint.api_key = " in str(error.hint)
        client.client.api_key = "sk-wrong"
        assert "a pickle" not in str(failure(partial(client.call, "complete", "x")))
        client.client.api_key = KEY
        assert client.call("complete", "x").text == "Blue!"
        client.call("close")
        client.client = original


def test_the_key_stays_behind_in_a_pool_of_processes(server: ScriptedServer) -> None:
    server.api_key = KEY
    with (
        RuntimeEndpoint(server.url, KEY) as endpoint,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        said = str(pool.submit(endpoint.complete, "x").exception(60))
    assert "a pickle holds no key" in said
    assert KEY not in said
