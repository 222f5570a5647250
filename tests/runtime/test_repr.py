"""The repr of a Runtime through its life."""

from __future__ import annotations

import socket

import pytest
from support.fake_engine import start

import nbruntime
from nbruntime.errors import ArgumentValueError
from nbruntime.launch.phases import Phase
from nbruntime.runtime import Runtime


def test_repr_through_its_life() -> None:
    raw = Runtime.__new__(Runtime)
    seen: list[str] = []

    def look(_: Phase) -> None:
        seen.append(repr(raw))

    raw.__init__("some/model", engine="fake", port=0, progress=look)  # type: ignore[misc]
    assert seen[0].startswith("Runtime some/model · starting\n  fake server\n  http://127.0.0.1:")
    assert any("loading weights · pid" in text for text in seen)
    assert repr(raw) == f"Runtime fake/model · ready · pid {raw.pid}\n  fake server\n  {raw.url}"
    raw.shutdown()
    assert repr(raw) == f"Runtime fake/model · stopped\n  fake server\n  {raw.url}"
    assert all(len(text.splitlines()) <= 3 for text in [*seen, repr(raw)])


def test_repr_of_a_runtime_that_was_not_started() -> None:
    runtime = Runtime.__new__(Runtime)
    with pytest.raises(ArgumentValueError):
        runtime.__init__(engine="nonsense")  # type: ignore[misc]
    assert repr(runtime) == "Runtime with the default model · starting"
    runtime.shutdown()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("org/tiny", "org/tiny"),
        ("/models/tiny/", "tiny"),
        ("./tiny", "tiny"),
        ("models/tiny/", "tiny"),
        ("~/models/tiny.gguf", "tiny.gguf"),
    ],
)
def test_model_has_one_name_everywhere(path: str, name: str) -> None:
    with start(model=path) as runtime:
        # There may be servers of other kernels.
        [listed] = [one for one in nbruntime.servers() if one.url == runtime.url]
        assert listed.state == "ready"
        panel = runtime.panel()
        shown = {
            "servers": listed.model,
            "runtime": runtime._card().name,
            "endpoint": runtime.endpoint._card().name,
            "panel": panel.card().name,
        }
        panel.close()
        assert set(shown.values()) == {name}, shown
        assert repr(runtime).startswith(f"Runtime {name} · ")
        assert f"\n  {name}, answered" in repr(runtime.endpoint)


def test_repr_does_no_io(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a repr must not talk to anybody")

    monkeypatch.setattr(socket.socket, "connect", fail)
    monkeypatch.setattr("builtins.open", fail)
    assert "ready" in repr(runtime)
