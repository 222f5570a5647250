"""Keys that the launcher makes: who has them, and that nothing shows them."""

from __future__ import annotations

import logging
import pickle
import traceback
from pathlib import Path

import pytest
from support.fake_engine import run_elsewhere, start

import nbruntime
from nbruntime.endpoint import RuntimeEndpoint
from nbruntime.errors import ArgumentValueError, AuthenticationError, LaunchError
from nbruntime.launch import registry
from nbruntime.launch.supervisor.processes import descendants
from nbruntime.launch.supervisor.record import KEY


def test_server_has_a_key_of_its_own_that_the_endpoint_knows() -> None:
    with start(api_key="auto") as first, start(api_key="auto", children=1) as second:
        keys = {one.endpoint.api_key for one in (first, second)}
        assert len(keys) == 2
        assert all(key is not None and len(key) > 40 for key in keys)
        assert "Hello" in first.generate("Hi")
        for key in (None, "auto", second.endpoint.api_key):
            with pytest.raises(AuthenticationError):
                RuntimeEndpoint(first.url, key)


@pytest.mark.parametrize("engine", ["fake", "binding"])
def test_nothing_shows_the_key(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with start(engine=engine, api_key="auto", say=["key: {key}"], children=1) as runtime:
        key = runtime.endpoint.api_key
        assert key is not None
        assert runtime._server is not None
        record = runtime._server.record
        panel = runtime.panel()
        panel.monitor.poll()
        texts = [
            *(repr(each) for each in (runtime, runtime.endpoint, nbruntime.servers(), record, vars(runtime))),
            *(str(each._repr_mimebundle_()) for each in (runtime, runtime.endpoint, panel)),
            str(runtime.endpoint.get_server_info()),
            str(pickle.dumps(runtime.endpoint)),
            runtime.logs(),
            caplog.text,
        ]
        panel.close()
        supervisor = runtime._server.supervisor_pid
        pids = supervisor, *descendants(supervisor)
        texts += [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]
        directory = Path(record.directory)
        texts += [path.read_text() for path in directory.iterdir() if path.name != KEY]
        assert (directory.stat().st_mode & 0o777, (directory / KEY).stat().st_mode & 0o777) == (0o700, 0o600)
        assert "key: ***" in runtime.logs()
        for text in texts:
            assert key not in text
    assert not directory.exists()


@pytest.mark.parametrize("given", ["auto", "made-here"])
def test_error_of_a_launch_does_not_show_the_key(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_urlsafe", lambda: "made-here")
    with pytest.raises(LaunchError) as caught:
        start(api_key=given, fail="ValueError: the key is {key}", say=["{key}"])
    error = caught.value
    shown = "\n".join(map(str, [error, repr(error), error.log_lines, error._repr_mimebundle_()]))
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][2:]  # the test's own are left out
    assert "_start_on" in [frame.f_code.co_name for frame in frames]
    shown += "".join(repr(dict(frame.f_locals)) for frame in frames)  # as verbose tracebacks do
    assert "***" in shown
    assert "made-here" not in shown


def test_key_is_found_again() -> None:
    arguments = {"name": "chat", "api_key": "auto", "reuse": True}
    first = start(**arguments)
    again = start(**arguments)
    assert (again.pid, again.endpoint.api_key) == (first.pid, first.endpoint.api_key)
    unnamed = start(api_key="auto", say=["x"])
    assert start(api_key="auto", say=["x"], reuse=True).pid == unnamed.pid


def test_key_of_a_kept_server_is_found_by_another_kernel() -> None:
    cell = 'Runtime(engine="fake", port=0, name="kept", keep_alive=True, reuse=True, api_key="auto")'
    [pid] = run_elsewhere(f"runtime = {cell}\nprint(runtime.pid)")
    runtime = start(name="kept", keep_alive=True, reuse=True, api_key="auto")
    assert str(runtime.pid) == pid
    assert "Hello" in runtime.generate("Hi")
    [record] = registry.records()
    assert registry.key_of(record) == runtime.endpoint.api_key
    runtime.shutdown()
    assert registry.key_of(record) is None


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ("auto", "sesame", "api_key: 'auto', now '***'"),
        ("sesame", "auto", "api_key: '***', now 'auto'"),
        ("auto", None, "api_key: 'auto', now not given"),
        (None, "auto", "api_key: not given, now 'auto'"),
    ],
)
def test_server_with_another_key_is_not_taken(first: str | None, then: str | None, said: str) -> None:
    with start(name="chat", api_key=first), pytest.raises(ArgumentValueError) as caught:
        start(name="chat", api_key=then, reuse=True)
    assert said in str(caught.value)


def test_admin_key_is_not_made() -> None:
    with pytest.raises(ArgumentValueError, match="admin_api_key='auto'"):
        nbruntime.Runtime(engine="embedded", admin_api_key="auto")
