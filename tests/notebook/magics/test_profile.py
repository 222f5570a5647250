"""`%%sgl_profile`: it records its cell, whatever the cell does."""

from __future__ import annotations

import threading

import pytest
from IPython.core.interactiveshell import InteractiveShell
from support.fake_engine import await_true
from support.ipython_shell import completions, failure, run
from support.kernel import Kernel, shown_in
from support.magics import TEXT, usage_error
from support.scripted_server import Reply, ScriptedServer

COMPLETE = "get_ipython().magics_manager.registry['SglMagics'].servers.find('main').endpoint.complete"


def await_no_recording_threads() -> None:
    await_true(lambda: all(thread.name != "nbruntime-profile" for thread in threading.enumerate()))


def test_the_cell_runs_as_any_other_and_is_recorded(connected: InteractiveShell) -> None:
    shown = run(connected, f"%%sgl_profile -o cost\nfirst = {COMPLETE}('a').text\n{COMPLETE}('b')\n'last'")
    assert shown == "last"
    names = connected.user_ns
    assert names["first"] == TEXT
    assert [request.status for request in names["cost"].requests] == ["finished", "finished"]
    assert names["cost"].ended is not None
    await_no_recording_threads()
    before = len(names["cost"].requests)
    run(connected, f"{COMPLETE}('c')")
    assert len(names["cost"].requests) == before


def test_a_cell_that_fails_keeps_its_profile(connected: InteractiveShell) -> None:
    error = failure(connected, f"%%sgl_profile -o cost main\n{COMPLETE}('a')\n1 / 0\n{COMPLETE}('b')")
    assert isinstance(error, ZeroDivisionError)
    assert error.__traceback__ is not None
    cost = connected.user_ns["cost"]
    assert (len(cost.requests), cost.error) == (1, "ZeroDivisionError: division by zero")
    await_no_recording_threads()


def test_cells_inside_the_cell_do_not_end_it(connected: InteractiveShell) -> None:
    run(connected, f"%%sgl_profile -o cost\nget_ipython().run_cell('1 + 1')\n{COMPLETE}('a')")
    assert len(connected.user_ns["cost"].requests) == 1
    inner = f"%%sgl_profile -o inner\n{COMPLETE}('b')"
    run(connected, f"%%sgl_profile -o outer\n{COMPLETE}('a')\nget_ipython().run_cell({inner!r})\n")
    names = connected.user_ns
    assert (len(names["inner"].requests), len(names["outer"].requests)) == (1, 2)
    connected.run_cell_magic("sgl_profile", "-o called", f"{COMPLETE}('d')")
    assert len(names["called"].requests) == 1
    await_no_recording_threads()


def test_a_cell_magic_inside_is_recorded(connected: InteractiveShell) -> None:
    run(connected, "%%sgl_profile -o cost\n\n%%sgl_generate --no-stream -o answer\nHello")
    names = connected.user_ns
    assert names["answer"].text == TEXT
    assert [request.status for request in names["cost"].requests] == ["finished"]
    assert names["cost"].ended is not None
    await_no_recording_threads()


def test_wrong_lines_run_nothing(connected: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    said = usage_error(connected, "%%sgl_profile --trance\nran = True", capsys)
    assert "Did you mean --trace?" in said
    assert "ran" not in connected.user_ns
    assert "empty" in usage_error(connected, "%%sgl_profile\n", capsys)
    run(connected, "%sgl_profile --help")
    assert "--num-steps" in capsys.readouterr().out
    assert completions(connected, "%%sgl_profile --tr") == ["%%sgl_profile --trace"]
    assert completions(connected, "%%sgl_profile mai") == ["%%sgl_profile main"]


def test_help_runs_nothing(connected: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    connected.run_cell("%%sgl_profile --help\nran = True").raise_error()
    assert "--num-steps" in capsys.readouterr().out
    assert "ran" not in connected.user_ns


def test_a_refused_trace_is_an_error_of_the_cell(
    connected: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("/start_profile", Reply(body=b"Internal Server Error", status=500))
    error = failure(connected, "%%sgl_profile --trace -o cost\nran = True")
    assert "did not start its profiler" in str(error)
    assert not {"ran", "cost"} & connected.user_ns.keys()
    assert "Traceback" not in capsys.readouterr().out
    await_no_recording_threads()


@pytest.mark.kernel
def test_in_a_kernel_the_cell_may_await(kernel: Kernel) -> None:
    kernel.run(
        "from nbruntime import AsyncRuntimeEndpoint\n"
        f"client = AsyncRuntimeEndpoint.beside({COMPLETE.removesuffix('.complete')})"
    )
    ran = kernel.run(
        "%%sgl_profile -o cost\nimport asyncio\n"
        "answers = await asyncio.gather(*(client.complete(p) for p in 'abc'))\nlen(answers)"
    )
    assert ran["status"] == "ok", ran
    assert shown_in(ran, "execute_result", "data")[0]["text/plain"] == "3"
    (card,) = shown_in(ran, "display_data", "data")
    assert "3 finished" in card["text/plain"]
    assert "3 finished" in card["text/html"]
    assert kernel.value("[each.status for each in cost.requests]") == ["finished"] * 3
    # An interrupt is shown as usual, and the profile stays.
    code = f"%%sgl_profile -o cut\n{COMPLETE}('a')\nprint('now', flush=True)\nimport time; time.sleep(60)"

    def interrupt(message: dict[str, object]) -> None:
        if message["msg_type"] == "stream":
            kernel.manager.interrupt_kernel()

    ran = kernel.run(code, on_message=interrupt)
    assert (ran["status"], ran["ename"]) == ("error", "KeyboardInterrupt")
    assert kernel.value("[len(cut.requests), cut.error, cut.ended is not None]") == [
        1,
        "KeyboardInterrupt",
        True,
    ]
