"""The server panel: what it asks, when it asks, what it sends, and what it leaves behind."""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import ipywidgets
import pytest
from support.cell import Cell
from support.fake_engine import await_true, installed
from support.html_checks import HOSTILE, checked, parsed
from support.leftovers import nothing_left_behind
from support.recording_comm import Messages, record_comms
from support.scripted_server import CUT, MODEL_INFO, Asked, Reply, ScriptedServer, Wait, answer
from support.sglang_records import RECORDS

from nbruntime.display.server_fields import fields_html, fields_of, matching
from nbruntime.endpoint import RuntimeEndpoint
from nbruntime.errors import ArgumentValueError
from nbruntime.notebook.views import panel as panels
from nbruntime.notebook.views.panel import ServerPanel
from nbruntime.profiling import monitor as monitor_module
from nbruntime.profiling.monitor import METRICS_EVERY, ServerMonitor, whole_load
from nbruntime.protocol.load import Load
from nbruntime.runtime import Runtime

WIDGET = "application/vnd.jupyter.widget-view+json"


class Server(ScriptedServer):
    """Tells a load that a test sets; can break every connection, and come back."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dead = False
        self.load: dict[str, Any] = {
            "num_running_reqs": 3,
            "num_waiting_reqs": 1,
            "num_used_tokens": 50,
            "max_total_num_tokens": 200,
            "gen_throughput": 42.0,
            "cache_hit_rate": 0.5,
        }
        self.on("/v1/loads", lambda _asked: Reply(json={"loads": [self.load]}))

    def respond(self, asked: Asked) -> Reply:
        reply = super().respond(asked)
        return Reply(pieces=[CUT]) if self.dead else reply

    def asked_for(self, path: str) -> int:
        return sum(asked.path == path for asked in self.asked)


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as started:
        yield started


@pytest.fixture
def panel(server: Server) -> Iterator[ServerPanel]:
    made = ServerPanel(RuntimeEndpoint(server.url), interval=0.05)
    yield made
    made.close()
    await_true(lambda: not made.polling)


def look(panel: ServerPanel) -> None:
    """Poll and draw once, in this thread."""
    panel.monitor.poll()
    panel.draw()


def html(widget: Any) -> str:
    """All that a widget and its children show."""
    inner = "".join(html(child) for child in getattr(widget, "children", ()))
    return f"{widget.value if isinstance(widget, ipywidgets.HTML) else ''}{inner}"


def text(widget: Any) -> str:
    return " ".join(parsed(html(widget)).itertext())


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Messages:
    """The messages that widgets send."""
    return record_comms(monkeypatch)


# What it shows


def test_creating_a_panel_sends_no_request(server: Server) -> None:
    endpoint = RuntimeEndpoint(server.url)
    before = len(server.asked)
    made = ServerPanel(endpoint)
    checked(made._repr_mimebundle_())
    assert len(server.asked) == before
    assert "not asked yet" in text(made)
    made.close()


def test_identity_and_load(panel: ServerPanel, server: Server) -> None:
    look(panel)
    said = text(panel)
    for part in ("scripted-model", "answers", "SGLang 0.5.23", "one rank", "3", "running", "1", "queued"):
        assert part in said
    for part in ("42", "tokens/s", "25 %", "50 %", "enable_metrics=True"):
        assert part in said, said
    assert server.url in said


def test_latencies_are_those_of_the_last_minute(panel: ServerPanel, server: Server) -> None:
    counts = [0, 0]

    def metrics(_asked: Asked) -> Reply:
        lines = [
            f'sglang:time_to_first_token_seconds_bucket{{le="{bound}"}} {count}'
            for bound, count in zip(("0.1", "0.2", "+Inf"), (counts[0], *[sum(counts)] * 2), strict=True)
        ]
        return Reply(body="\n".join(lines).encode())

    server.on("/metrics", metrics)
    look(panel)
    assert "No request has ended yet" in text(panel)
    for _ in range(METRICS_EVERY):
        counts[1] += 2
        look(panel)
    assert server.asked_for("/metrics") == 2, "not at every poll"
    said = text(panel)
    assert "TTFT" in said
    assert "150 ms" in said, "half of those between 100 and 200 ms"
    assert "10" in said


def test_old_servers(panel: ServerPanel, server: Server) -> None:
    server.on("/v1/loads", Reply(json={"detail": "Not Found"}, status=404))
    server.on(
        "/get_load", Reply(json=[{"dp_rank": 0, "num_reqs": 5, "num_waiting_reqs": 2, "num_tokens": 7}])
    )
    monitor = panel.monitor
    monitor.poll()
    load = monitor.load()
    assert load is not None
    assert (load.num_running_reqs, load.num_waiting_reqs, load.gen_throughput) == (3, 2, None)


def test_metrics_replace_missing_loads(panel: ServerPanel, server: Server) -> None:
    server.on("/v1/loads", Reply(json={"detail": "Not Found"}, status=404))
    server.on("/metrics", Reply(body=b'sglang:num_running_reqs{a="b"} 2.0\nsglang:num_used_tokens 5'))
    monitor = panel.monitor
    for _ in range(3):
        monitor.poll()
    load = monitor.load()
    assert load is not None
    assert (load.num_running_reqs, load.num_used_tokens) == (2.0, 5.0)
    assert monitor.gone_since is None


def test_the_load_of_several_ranks() -> None:
    ranks = [
        Load(0, 1, 2, 10, None, 100, 8, 0.1, 5.0, 0.5),
        Load(1, 3, None, 30, None, 100, 8, 0.3, 7.0, 0.0),
    ]
    load = whole_load(ranks)
    assert (load.num_running_reqs, load.num_waiting_reqs, load.gen_throughput) == (4, 2, 12.0)
    assert (load.token_usage, load.cache_hit_rate) == (0.2, 0.25)
    assert whole_load([]) == Load()


def test_a_sglang_server_with_all_of_its_fields(panel: ServerPanel, server: Server) -> None:
    info = json.loads((RECORDS / "get_server_info.json").read_text())["body"]
    server.on("/server_info", Reply(json=info))
    look(panel)
    assert "prompts of up to" in text(panel)
    assert len(panel._fields) > 550
    print(f"{len(panel._fields)} fields, folded in {len(panel._found.value)} characters")
    panel._search.value = "radix cache"
    found = text(panel._found)
    assert "disable_radix_cache" in found
    assert "tp_size" not in found
    panel._search.value = "e"
    assert "the first 60 are shown" in text(panel._found)
    assert len(panel._found.value) < 20_000
    panel._search.value = "no such field"
    assert f"0 of {len(panel._fields)} fields" in text(panel._found)
    panel._search.value = ""
    assert panel._found.value.count("<details>") > 10


def test_secrets_in_nested_fields_are_masked(panel: ServerPanel, server: Server) -> None:
    said = {
        "api_key": "sk-one",
        "ssl_keyfile_password": "pw-two",
        "launch_command": "serve --api-key sk-one --admin-api-key=sk-three --ssl-keyfile-password pw-two",
        "nested": {"admin_api_key": "sk-three", "argv": ["--api-key", "sk-one"]},
        "remotes": [{"api_key": "sk-five"}],
        "internal_states": [{"api_key": "sk-one", "hf_token": "hf-four"}, {"tp_rank": 1}],
    }
    server.on("/server_info", Reply(json=said))
    look(panel)
    fields = panel._fields
    shown = fields_html(fields) + fields_html(fields, "key")
    assert not [
        secret for secret in ("sk-one", "pw-two", "sk-three", "hf-four", "sk-five") if secret in shown
    ]
    assert fields["launch_command"].startswith("serve --api-key *** --admin-api-key=***")
    assert fields["internal_states.1.tp_rank"] == "1"


def test_hostile_fields_are_escaped(panel: ServerPanel, server: Server) -> None:
    server.on("/model_info", Reply(json=MODEL_INFO | {"served_model_name": "<script>alert(1)</script>"}))
    server.on(
        "/server_info", Reply(json={"version": "<img src=x>", "<b>": "\x1b[31m</pre>", "device": "<i>"})
    )
    look(panel)
    assert "<script>alert" in text(panel)
    panel._search.value = HOSTILE[:20]
    parsed(html(panel))
    checked(panel._repr_mimebundle_())
    many = {f"field_{number}": "x" * 1000 for number in range(10_000)}
    assert len(fields_html(fields_of(many))) < 600_000
    assert matching({"a": HOSTILE}, "onerror")


def test_the_key_is_never_shown(sent: Messages) -> None:
    with Server(api_key="sk-hidden") as server:
        server.on("/server_info", Reply(json={"note": "the key is sk-hidden", "tp_size": 1}))
        made = ServerPanel(RuntimeEndpoint(server.url, api_key="sk-hidden"))
        look(made)
        assert made.monitor.gone_since is None
        everything = (
            html(made) + json.dumps(sent) + checked(made._repr_mimebundle_()) + repr(vars(made.monitor))
        )
        assert "sk-hidden" not in everything
        made.close()


# When the server is gone


def test_a_server_that_dies_and_comes_back(panel: ServerPanel, server: Server) -> None:
    look(panel)
    server.dead = True
    for _ in range(3):
        look(panel)
    since = panel.monitor.gone_since
    assert since is not None
    assert time.time() - since < 10
    said = text(panel)
    assert f"no answer since {time.strftime('%H:%M', time.localtime(since))}" in said
    assert "No answer from the server: Response ended prematurely" in said
    assert "–" in said, "no value stands for one that is not known"
    assert panel._actions.buttons["flush"].disabled
    assert not panel._actions.buttons["close"].disabled
    assert panel.monitor.gone_since == since, "since when, not how long"

    server.dead = False
    server.on("/server_info", Reply(json={"version": "0.6.0", "tp_size": 2}))
    look(panel)
    said = text(panel)
    assert "answers" in said
    assert "SGLang 0.6.0" in said, "it is another one now"
    assert not panel._actions.buttons["flush"].disabled
    places = panel.monitor.points("num_running_reqs")
    assert [value for _, value in places] == [3, None, None, None, 3]


def test_a_server_that_refuses_status_requests(panel: ServerPanel, server: Server) -> None:
    look(panel)
    server.on("/v1/loads", Reply(json={"error": "Unauthorized"}, status=401))
    look(panel)
    assert "refuses" in text(panel)


def test_invalid_answers_are_handled(panel: ServerPanel, server: Server) -> None:
    for body in (b"<html>", b"[" * 100_000, b"null", b'{"loads":[{"num_running_reqs":"<b>"}]}', b"\xff"):
        server.on("/v1/loads", Reply(body=body))
        look(panel)
        parsed(html(panel))
    server.on("/metrics", Reply(body=b'sglang:x_bucket{le="\xff"} 1\n' * 100))
    server.on("/model_info", Reply(json=[1]))
    look(panel)
    parsed(html(panel))


# When it asks


def await_polls(server: Server, more: int = 3) -> None:
    before = server.asked_for("/v1/loads")
    await_true(lambda: server.asked_for("/v1/loads") >= before + more)


def test_polls_only_while_shown(panel: ServerPanel, server: Server) -> None:
    assert not panel.polling
    panel._view_count = 1
    await_polls(server)
    panel._view_count = 2  # the same output in a second tab
    pollers = [thread for thread in threading.enumerate() if thread.name == "nbruntime-panel"]
    assert len(pollers) == 1
    panel._view_count = 0
    await_true(lambda: not pollers[0].is_alive())
    assert not panel.polling
    asked = len(server.asked)
    panel._view_count = 1
    await_polls(server)
    assert len(server.asked) > asked
    panel.close()
    await_true(lambda: not panel.polling)


def test_panel_counts_as_shown_before_a_front_end_reports(
    panel: ServerPanel, server: Server, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    show(panel, cell)
    await_polls(server)
    monkeypatch.setattr(panels, "UNREPORTED_SECONDS", 0.0)
    await_true(lambda: not panel.polling)


def test_polls_keep_their_interval(server: Server) -> None:
    made = ServerPanel(RuntimeEndpoint(server.url), interval=0.2)
    began = time.monotonic()
    made._view_count = 1
    await_true(lambda: server.asked_for("/v1/loads") >= 6)
    took = time.monotonic() - began
    made.close()
    print(f"6 polls in {took:.2f} s")
    assert took > 0.9


def test_only_changes_are_sent(
    sent: Messages, panel: ServerPanel, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=panel.monitor.interval)
    now = 0.0
    monkeypatch.setattr(monitor_module, "time", SimpleNamespace(monotonic=lambda: now, time=time.time))

    def look_once() -> None:
        nonlocal now
        now = next(clock)
        look(panel)

    for _ in range(panel.monitor.steps + 10):
        look_once()
    del sent[:]
    for _ in range(5):
        look_once()
    assert sent == [], "an idle server"
    server.load["num_running_reqs"] = 4
    look_once()
    print(f"a change of one chart: {len(sent)} messages, {len(json.dumps(sent))} bytes")
    assert len(sent) == 1
    assert len(json.dumps(sent)) < 3000


def test_history_is_bounded() -> None:
    monitor = ServerMonitor(lambda path: json.dumps([] if "load" in path else {}), steps=10)
    for _ in range(1000):
        monitor.poll()
    assert len(monitor.points("num_running_reqs")) == 10


# What it does


def press(panel: ServerPanel, name: str) -> str:
    """Click a button, and wait for what the panel says about it."""
    panel._actions.buttons[name].click()
    await_true(lambda: "…" not in panel._actions.message.value)
    return " ".join(parsed(panel._actions.message.value).itertext())


def test_buttons(panel: ServerPanel, server: Server, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    server.on("/start_profile", Reply(body=b"Start profiling.\n"))
    server.on("/stop_profile", Reply(body=b"Stop profiling.\n"))
    server.on("/generate", Reply(json=answer("Hello")))
    look(panel)
    assert "the cache is empty" in press(panel, "flush")
    assert "every request is stopped" in press(panel, "abort")
    assert panel.profile is None
    assert "is being recorded" in press(panel, "profile")
    assert panel._actions.buttons["profile"].description == "Stop profile"
    panel.endpoint.complete("x")
    assert "in panel.profile" in press(panel, "profile")
    assert panel._actions.buttons["profile"].description == "Start profile"
    assert panel.profile is not None
    assert panel.profile.ended is not None
    assert [request.status for request in panel.profile.requests] == ["finished"]
    asked = [(each.path, each.json if each.raw else None) for each in server.asked if each.method == "POST"]
    assert [path for path, _ in asked] == [
        "/flush_cache",
        "/abort_request",
        "/start_profile",
        "/generate",
        "/stop_profile",
    ]
    assert asked[1][1]["abort_all"] is True
    assert "shutdown" not in panel._actions.buttons, "it is not ours"


def test_closing_ends_the_recording(panel: ServerPanel, server: Server, cell: Cell) -> None:
    ending = Wait()
    server.on("/start_profile", Reply(body=b"Start profiling.\n"))
    server.on("/stop_profile", Reply(pieces=[ending]))
    look(panel)
    press(panel, "profile")
    panel.stop()  # its cell runs again
    show(panel, cell)
    assert panel._actions.buttons["profile"].description == "Start profile"
    ending.go.set()  # not before: the panel that is closed does not say it
    await_true(lambda: "in panel.profile" in panel._actions.message.value)
    assert panel.profile is not None
    assert panel.profile.ended is not None
    press(panel, "profile")
    panel.close()
    server.wait_for("/stop_profile", 2)


def test_a_panel_closed_while_a_profile_starts_records_none(panel: ServerPanel, server: Server) -> None:
    look(panel)
    starting = Wait()
    server.on("/start_profile", lambda _: Reply(pieces=[starting]))
    server.on("/stop_profile", Reply(body=b"Stop profiling.\n"))
    panel._actions.buttons["profile"].click()
    assert starting.reached.wait(10)
    panel.close()
    assert server.to("/stop_profile") == []
    starting.go.set()
    server.wait_for("/stop_profile")
    await_true(lambda: "nbruntime-profile" not in {thread.name for thread in threading.enumerate()})


def test_the_servers_end_keeps_the_profile(panel: ServerPanel, server: Server) -> None:
    server.on("/start_profile", Reply(body=b"Start profiling.\n"))
    look(panel)
    press(panel, "profile")
    server.dead = True
    panel.monitor.poll()
    panel.draw()
    await_true(lambda: "in panel.profile" in panel._actions.message.value)
    assert panel.profile is not None
    assert any("did not confirm the end of its trace" in note for note in panel.profile.notes)
    panel.draw()
    assert panel._actions.buttons["profile"].description == "Start profile"


def test_a_failed_action_shows_its_error(panel: ServerPanel, server: Server) -> None:
    server.on("/flush_cache", Reply(body=b"<b>Flush cache failed.</b>", status=400))
    look(panel)
    assert "▲" in press(panel, "flush")
    assert "<b>Flush cache failed.</b>" in " ".join(parsed(panel._actions.message.value).itertext())


# In the cell


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    made = Cell()
    made.install(monkeypatch)
    return made


def show(panel: ServerPanel, cell: Cell) -> list[dict[str, Any]]:
    """Display a panel in a cell, and give what its output shows by and by."""
    panel._ipython_display_()
    return cell.outputs[-1]


def test_closing_leaves_a_static_card(panel: ServerPanel, server: Server, cell: Cell) -> None:
    seen = show(panel, cell)
    await_polls(server)
    assert WIDGET in seen[0]
    checked(seen[0])
    await_true(lambda: len(seen) > 1)
    beside = show(panel, cell)
    panel._actions.buttons["close"].click()
    _, asked, last = seen
    assert WIDGET in asked
    assert "42 tokens/s" in checked(asked), "a notebook may be saved while the panel is open"
    assert len(beside) == 2
    assert beside[-1] == last
    assert set(last) == {"text/plain", "text/html"}
    said = checked(last)
    for part in (
        f"answered at {time.strftime('%Y-%m-%d')}",
        "3 running",
        "42 tokens/s",
        "KV cache 25 %",
        "server info",
    ):
        assert part in said, said
    assert panel.comm is None
    assert all(child.comm is None for child in panel.children)
    panel.close()
    assert len(seen) == 3
    assert WIDGET not in panel._repr_mimebundle_()
    assert WIDGET not in show(panel, cell)[0], "shown again, it is a picture"


def test_closing_in_a_layout_leaves_the_card_there(panel: ServerPanel, server: Server, cell: Cell) -> None:
    panel._view_count = 1
    await_polls(server)
    panel._actions.buttons["close"].click()
    assert len(panel.children) == 1
    assert "answered at" in text(panel)
    assert panel.comm is not None
    panel.close()
    assert panel.comm is None


def test_a_panel_in_a_callback_can_be_shown_again(panel: ServerPanel, server: Server, cell: Cell) -> None:
    cell.request = {"header": {"msg_type": "comm_msg", "msg_id": "1"}}
    show(panel, cell)
    await_polls(server)
    panel.stop()
    assert len(panel.children) == 1
    show(panel, cell)
    assert len(panel.children) > 1
    panel.close()
    panel.close()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"include": ["text/plain"]}, {"text/plain"}),
        ({"exclude": ["text/html"]}, {"text/plain", WIDGET}),
        ({"include": ["text/html", WIDGET], "exclude": [WIDGET]}, {"text/html"}),
    ],
)
def test_mime_types_can_be_chosen(panel: ServerPanel, choice: dict[str, Any], expected: set[str]) -> None:
    assert set(panel._repr_mimebundle_(**choice)) == expected


def test_running_the_cell_again_closes_the_panel(server: Server, cell: Cell) -> None:
    def run_cell(name: str, *shown: ServerPanel) -> None:
        cell.request = {"metadata": {"cellId": name}}
        for function in cell.before_cell:
            function(None)
        for each in shown:
            show(each, cell)

    endpoint = RuntimeEndpoint(server.url)
    first, beside, second = (ServerPanel(endpoint, interval=0.05) for _ in range(3))
    run_cell("cell", first, beside)
    assert first.shown
    assert beside.shown, "two in one run of a cell"
    run_cell("another", second)
    assert first.shown
    run_cell("cell")
    assert not first.shown
    assert not beside.shown
    assert first.comm is None
    run_cell("another", second)
    assert second.shown, "shown again, it goes on"
    assert second.comm is not None
    await_true(lambda: "42" in text(second))
    server.load["gen_throughput"] = 77.0
    await_true(lambda: "77" in text(second))
    second.close()
    run_cell("another", second)
    assert not second.shown
    await_true(lambda: not any(each.polling for each in (first, beside, second)))


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("interval", [0, -1, 0.01, float("nan"), float("inf"), "1", None])
def test_invalid_interval(server: Server, interval: Any) -> None:
    with pytest.raises(ArgumentValueError, match=r"interval must be between 0\.05 and 3600"):
        RuntimeEndpoint(server.url).panel(interval=interval)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_unknown_option(server: Server) -> None:
    with pytest.raises(TypeError, match="colour"):
        RuntimeEndpoint(server.url).panel(colour=1)
    gc.collect()  # what was not made is not closed


# With a server of our own


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with installed(), Runtime(engine="fake", port=0, say=["a <b>line</b> of the log"]) as started:
        yield started


def test_panel_of_a_runtime_shows_its_log_and_shuts_it_down(runtime: Runtime) -> None:
    panel: ServerPanel = runtime.panel(interval=0.05)
    panel._view_count = 1
    await_true(lambda: panel.monitor.asked)
    await_true(lambda: "a <b>line</b> of the log" in text(panel))
    assert f"{runtime.pid}" in text(panel)
    panel._actions.buttons["shutdown"].click()
    assert panel._actions.question.layout.display == "", "it asks first"
    assert runtime.phase == "ready"
    sure, keep = panel._actions.question.children[1:]
    keep.click()
    assert panel._actions.question.layout.display == "none"
    panel._actions.buttons["shutdown"].click()
    sure.click()
    await_true(lambda: runtime.phase == "stopped")
    await_true(lambda: "stopped, seen at" in text(panel))
    await_true(lambda: not panel.polling)
    assert panel._actions.buttons["shutdown"].disabled
    checked(panel._repr_mimebundle_())
    panel.close()


def test_a_runtime_that_died_shows_the_cause(runtime: Runtime) -> None:
    panel: ServerPanel = runtime.panel(interval=0.05)
    panel._view_count = 1
    await_true(lambda: panel.monitor.asked)
    assert runtime.pid is not None
    os.kill(runtime.pid, signal.SIGKILL)
    await_true(lambda: "died, seen at" in text(panel))
    assert "killed by SIGKILL" in text(panel)
    assert panel.monitor.load() is None, "nothing is known of now"
    await_true(lambda: not panel.polling)
    late = runtime.panel()
    assert "SIGKILL" in checked(late._repr_mimebundle_())
    for each in (panel, late):
        each.close()


def test_panel_class_is_found_by_name(server: Server) -> None:
    made = RuntimeEndpoint(server.url).panel(interval=5)
    assert isinstance(made, ServerPanel)
    assert made.monitor.interval == 5
    made.close()
