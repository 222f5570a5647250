"""How a program of the frontend language shows itself: as text, as HTML, live in a cell."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import sglang as sgl
from IPython.core.interactiveshell import InteractiveShell
from support.cell import Cell
from support.html_checks import HOSTILE, checked, parsed
from support.ipython_shell import notebook_shell, run
from support.language_model import Model
from support.scripted_server import Asked, Reply, ScriptedServer, Wait, answer, cumulative, stream
from support.server_client import wait_until

from nbruntime.endpoint import RuntimeEndpoint
from nbruntime.errors import ArgumentValueError
from nbruntime.frontend import programs
from nbruntime.notebook import show_program
from nbruntime.notebook.views.program import ProgramView


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        running.on("/generate", Model())
        yield running


@pytest.fixture
def endpoint(server: ScriptedServer) -> Iterator[RuntimeEndpoint]:
    with RuntimeEndpoint(server.url, chat_template_name="chatml") as client:
        sgl.set_default_backend(client)
        yield client
        sgl.set_default_backend(None)


@sgl.function
def tips(s: Any, topic: str) -> None:
    s += sgl.system("Be helpful.")
    s += "Between. " + sgl.user("Tips for " + topic)
    with s.assistant():
        s += "Tips:"
        forks = s.fork(2)
        for number, fork in enumerate(forks):
            fork += f" {number} is" + sgl.gen("tip", max_tokens=2) + "."
        inner = forks[1].fork(2)
        inner += lambda number: f" deeper {number}" + sgl.gen("deep", max_tokens=1)
        inner.join()
        forks.join()
        s += " So" + sgl.gen("sum", max_tokens=2) + ". Good? "
        s += sgl.select("good", choices=["yes", "no", "perhaps so"])
    for _ in range(2):
        s += sgl.user("Again?") + sgl.assistant(sgl.gen("again", max_tokens=1, n=2))


def run_to_the_end(program: Any, **arguments: Any) -> Any:
    state = program.run(**arguments)
    state.sync()
    return state


def card_of(state: Any) -> Any:
    view = ProgramView(state)
    assert view.wait(20)
    return view.card()


def test_a_transcript_with_forks_and_scores(endpoint: RuntimeEndpoint) -> None:
    state = tips.run(topic="health")
    card = card_of(state)
    lines = re.sub(r" [a-f]\b", " x", card.text()).splitlines()
    scores = next((line for line in lines if "mean logprob" in line), "no scores")
    assert lines[:-1] == [
        "Program topic='health' · finished",
        "  system: Be helpful.",
        "  Between. ",
        "  user: Tips for health",
        "  assistant: Tips:",
        "  ├ fork 0",
        "  │    0 is«tip:  x x».",
        "  └ fork 1",
        "       1 is«tip:  x x».",
        "      ├ fork 0",
        "      │    deeper 0«deep:  x»",
        "      └ fork 1",
        "           deeper 1«deep:  x»",
        f"   So«sum:  x x». Good? «good: {state['good']}»",
        scores,
        "  user: Again?",
        "  assistant: «again: x»",
        "  user: Again?",
        "  assistant: «again: x»",
    ]
    assert set(re.findall(r"'([\w ]+)' -\d+\.\d{3}", scores)) == {"yes", "no", "perhaps so"}
    assert re.search(rf"'{state['good']}' -", scores).start() < 45  # the best stands first
    assert re.fullmatch(r"  calls 8 · new 12 tokens · took \d.* m?s", lines[-1])
    said = "".join(parsed(card.html()).itertext())
    for part in ("fork 1", "deeper 0", "chosen", "answer 2", "length (1)", "variables", "deep[0]"):
        assert part in said
    assert state.text() in said, "the whole text can be unfolded"


def test_hostile_text_in_a_program_is_escaped(endpoint: RuntimeEndpoint, server: ScriptedServer) -> None:
    hostile = HOSTILE.replace("\ud800", "")

    def harm(asked: Asked) -> Reply:
        body = asked.json
        if isinstance(body["text"], list):
            meta = {"input_token_logprobs": [[None, 1, hostile], [-1.0, 2, hostile]]}
            return Reply(json=[answer("", [], **meta) for _ in body["text"]])
        return Reply(json=answer(hostile))

    server.on("/generate", harm)

    @sgl.function
    def hostile_program(s: Any, given: str) -> None:
        s += sgl.user(hostile) + sgl.assistant(sgl.gen(hostile))
        forks = s.fork(1)
        forks[0] += sgl.gen(hostile)
        forks.join()
        s += sgl.select(hostile, choices=[hostile, "b"])
        s += sgl.gen("wrong", dtype=hostile)

    with pytest.warns(UserWarning, match="Unknown dtype"):
        state = run_to_the_end(hostile_program, given=HOSTILE)
    said = checked(card_of(state).mimebundle())
    assert said.count("<script>") >= 8
    assert "failed" in said


def test_names_are_right_when_a_variable_is_used_again(endpoint: RuntimeEndpoint) -> None:
    @sgl.function
    def loop(s: Any) -> None:
        for number in range(3):
            s += f"{number}:" + sgl.gen("x", max_tokens=1) + sgl.gen("y", max_tokens=1)

    text = re.sub(r"  [a-f]»", "»", card_of(loop.run()).text())
    assert text.splitlines()[1] == "  0:«x:»«y:»1:«x:»«y:»2:«x:»«y:»"


def test_variables_of_speculative_calls_are_marked(endpoint: RuntimeEndpoint, server: ScriptedServer) -> None:
    server.on("/generate", Reply(json=answer(" Ann\nAge: 17\nHouse: none")))

    @sgl.function(num_api_spec_tokens=16)
    def character(s: Any) -> None:
        s += "Name:" + sgl.gen("name", stop="\n", max_tokens=8)
        s += "\nAge:" + sgl.gen("age", stop="\n", max_tokens=8)

    lines = card_of(run_to_the_end(character)).text().splitlines()
    assert lines[1:3] == ["  Name:«name:  Ann»", "    Age:«age:  17»"]


def test_long_transcripts_are_cut(endpoint: RuntimeEndpoint, server: ScriptedServer) -> None:
    server.on("/generate", Reply(json=answer("y" * 100_000)))

    @sgl.function
    def long(s: Any) -> None:
        s += "x" * 1_000_000 + sgl.gen("answer")

    shown = card_of(run_to_the_end(long)).mimebundle()
    sizes = {kind: len(text) for kind, text in shown.items()}
    print(sizes)
    assert max(sizes.values()) < 100_000


def test_each_fork_is_looked_up_once(endpoint: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    @sgl.function
    def wide(s: Any) -> None:
        s += "Once"
        forks = s.fork(20)
        forks += sgl.gen("x", max_tokens=1)
        forks.join()

    view = ProgramView(run_to_the_end(wide))
    sought: list[Any] = []
    parent = programs._parent
    monkeypatch.setattr(
        programs, "_parent", lambda fork, branches: sought.append(fork) or parent(fork, branches)
    )
    assert "4 forks are not shown" in view.card().text()
    assert len(sought) == 20


def test_a_failed_program_shows_and_raises_its_error(
    endpoint: RuntimeEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    @sgl.function
    def wrong(s: Any) -> None:
        s += "So" + sgl.gen("far", max_tokens=1) + sgl.gen("x", temperature=-1)

    with pytest.warns(UserWarning, match="temperature"):
        state = run_to_the_end(wrong)
    with pytest.raises(ArgumentValueError, match="temperature must be"):
        show_program(state)
    shown = capsys.readouterr().out
    assert "Program · failed" in shown
    assert "So«far: " in shown
    assert "\n  temperature must be" in shown
    assert "\n  Nothing was sent" in shown
    parsed(card_of(state).html())


def test_program_of_another_backend() -> None:
    class Foreign:
        support_concate_and_append = False

        def get_chat_template(self) -> Any:
            from sglang.lang.chat_template import get_chat_template

            return get_chat_template("chatml")

        def generate(self, s: Any, sampling_params: Any) -> tuple[str, dict[str, Any]]:
            return "nothing new", {}

        def end_program(self, s: Any) -> None:
            pass

    @sgl.function
    def ask(s: Any) -> None:
        s += sgl.user("News?") + sgl.assistant("I say: " + sgl.gen("answer") + ".")

    assert card_of(ask.run(backend=Foreign())).text().splitlines() == [
        "Program · finished",
        "  user: News?",
        "  assistant: I say: «answer: nothing new».",
    ]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """The programs that are known, without those of earlier tests, which may end meanwhile."""
    made: dict[int, Any] = {}
    monkeypatch.setattr(programs, "_programs", made)
    return made


def all_forgotten(known: dict[int, Any]) -> bool:
    gc.collect()  # again and again: the threads of forks, which hold them, end by themselves
    return not known


def test_collected_states_are_forgotten(endpoint: RuntimeEndpoint, known: dict[int, Any]) -> None:
    states = [tips.run(topic=str(number)) for number in range(3)]
    for state in states:
        state.sync()
    assert len(known) == 3
    del states, state
    wait_until(lambda: all_forgotten(known))


def test_forks_of_a_batch_with_shared_arguments_stay_apart(endpoint: RuntimeEndpoint) -> None:
    @sgl.function
    def forking(s: Any, named: bool) -> None:
        s += "Once"
        if named:
            s += sgl.gen("own", max_tokens=2)
        forks = s.fork(2)
        forks += lambda number: f" {number}" + sgl.gen("fork", max_tokens=1)
        forks.join()

    shared = {"named": True}
    states = forking.run_batch([shared] * 3, num_threads=3)
    for state in states:
        assert card_of(state).text().count("fork ") == 2, "each has a value of its own to tell them by"
    shared = {"named": False}
    states = forking.run_batch([shared] * 3, num_threads=3)
    for state in states:
        assert card_of(state).text().count("fork ") == 0, "rather none than another's"


def test_a_fork_shows_its_own_part(endpoint: RuntimeEndpoint) -> None:
    kept: list[Any] = []

    @sgl.function
    def forking(s: Any) -> None:
        s += "The beginning." + sgl.gen("own", max_tokens=1)
        kept.extend(s.fork(2))
        kept[1] += " Mine:" + sgl.gen("x", max_tokens=1)

    forking.run().sync()
    first, *lines = re.sub(r" [a-f]\b", " x", card_of(kept[1]).text()).splitlines()
    assert first == "Fork · not joined"
    assert lines[0] == "   Mine:«x:  x»"
    for fork in kept:
        fork.stream_executor.end()


# In IPython


@pytest.fixture
def shell(tmp_path: Any) -> Iterator[InteractiveShell]:
    with notebook_shell(tmp_path) as made:
        run(made, "%load_ext nbruntime")
        yield made
        run(made, "%unload_ext nbruntime")


def test_a_terminal_prints_the_transcript(shell: InteractiveShell, endpoint: RuntimeEndpoint) -> None:
    state = tips.run(topic="health")
    formatted, _ = shell.display_formatter.format(state)
    assert formatted["text/plain"].startswith("Program topic='health' · finished\n  system: Be helpful.")
    formatted, _ = shell.display_formatter.format([state])
    assert formatted["text/plain"].startswith("[Program topic='health' · finished")
    run(shell, "%unload_ext nbruntime")
    assert shell.display_formatter.format(state)[0]["text/plain"].startswith("ProgramState(")
    run(shell, "%load_ext nbruntime")


def test_a_view_grows_while_the_program_streams(
    shell: InteractiveShell,
    endpoint: RuntimeEndpoint,
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait = Wait()
    first, *rest = cumulative(["One", " two", " three"])
    server.on("/generate", stream(first, wait, *rest))
    cell = Cell()
    cell.install(monkeypatch)

    @sgl.function
    def chat(s: Any) -> None:
        s += sgl.user("Count.") + sgl.assistant(sgl.gen("answer"))

    state = chat.run(stream=True)
    assert wait.reached.wait(20)
    assert next(state.text_iter("answer")) == "One"
    shell.display_formatter.format(state)
    live = cell.bundles[0]
    assert "application/vnd.jupyter.widget-view+json" in live
    assert "running" in live["text/plain"]
    assert "assistant: «answer: One»" in live["text/plain"]
    assert "nbr-caret" in live["text/html"]
    wait.go.set()
    assert cell.changed.wait(20)
    assert cell.bundles[-1]["text/plain"].splitlines()[:3] == [
        "Program · finished",
        "  user: Count.",
        "  assistant: «answer: One two three»",
    ]
    assert "TTFT" in cell.bundles[-1]["text/html"]
    assert "widget" not in "".join(cell.bundles[-1])
    state.sync()


def test_a_traced_program_is_not_run(shell: InteractiveShell, endpoint: RuntimeEndpoint) -> None:
    from sglang.lang.tracer import trace_program

    @sgl.function
    def plain(s: Any, name: str) -> None:
        s += "Hello " + name + sgl.gen("x")

    traced = trace_program(plain, {}, endpoint)
    assert shell.display_formatter.format(traced)[0]["text/plain"] == "TracerProgramState()"


def test_the_extension_imports_no_sglang() -> None:
    code = (
        "import sys; from IPython.core.interactiveshell import InteractiveShell as S; s = S.instance();"
        "s.run_line_magic('load_ext', 'nbruntime');"
        "print('sglang' in sys.modules, 'ipywidgets' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["False", "False"]


@pytest.mark.filterwarnings("ignore")
def test_failed_programs_are_forgotten(
    endpoint: RuntimeEndpoint, server: ScriptedServer, known: dict[int, Any]
) -> None:
    server.on("/generate", Reply(json={"detail": "no room"}, status=400))

    @sgl.function
    def forking(s: Any, number: int) -> None:
        forks = s.fork(2)
        forks += sgl.gen("forked")
        forks.join()
        s += sgl.gen("own")

    states = forking.run_batch([{"number": number} for number in range(8)], num_threads=4)
    for state in states:
        state.sync()
    gc.collect()
    assert len(known) == 8
    for state in states:  # the forks are gone, or about to go
        view = ProgramView(state)
        wait_until(lambda view=view: "fork 1\n      The server answered 400" in view.card().text())
    del states, state, view
    server.on("/generate", Reply(json=answer("So")))
    endpoint.complete("x")  # an endpoint knows its last error until the next answer
    wait_until(lambda: all_forgotten(known))


def test_an_interpreter_without_threads(endpoint: RuntimeEndpoint) -> None:
    @sgl.function
    def ask(s: Any) -> None:
        s += "Once" + sgl.gen("x", max_tokens=1)

    view = ProgramView(ask.run(use_thread=False))
    assert view.wait(5)
    assert re.sub("x:  [a-f]", "x:", view.card().text()).splitlines()[:2] == [
        "Program · finished",
        "  Once«x:»",
    ]
