"""Programs of SGLang's frontend language, run by whichever version of SGLang stands on the path.

    python frontend_programs.py URL VERSION [FOLDER]

VERSION is what must be found. FOLDER holds the source of a version whose package as a whole needs torch:
its frontend language does not, so the package around it is replaced by an empty one. Writes one line of
JSON: what each program gave.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbruntime.endpoint import RuntimeEndpoint

SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'


def load(folder: str | None) -> Any:
    """Import SGLang, or as much of it as needs no torch."""
    if folder is not None:
        package = types.ModuleType("sglang")
        package.__path__ = [str(Path(folder, "sglang"))]
        sys.modules["sglang"] = package
        from sglang.lang import api, choices

        vars(package).update({**vars(choices), **vars(api)})
    import sglang

    return sglang


def programs(sgl: Any, endpoint: RuntimeEndpoint) -> dict[str, Callable[[], Any]]:
    """Make the programs; each is a function that gives something JSON can hold."""

    @sgl.function
    def chat(s: Any, question: str, tokens: int = 12) -> None:
        s += sgl.system("You are a helpful assistant.")
        s += sgl.user(question)
        s += sgl.assistant(sgl.gen("answer", max_tokens=tokens, temperature=0))

    def chatbot() -> Any:
        state = chat.run(question="Name a colour.")
        return [state["answer"], state.text(), state.messages()]

    def roles() -> Any:
        @sgl.function
        def talk(s: Any) -> None:
            with s.user():
                s += "Count:"
            with s.assistant():
                s += "one"
                with s.var_scope("counted"):
                    s += sgl.gen("more", max_tokens=4, temperature=0) + "."
            s += sgl.user("And " + s["more"]) + sgl.assistant(sgl.gen("last", max_tokens=3, temperature=0))

        state = talk.run()
        assert state["counted"] == state["more"] + "."
        return [state["last"], state.messages()]

    def streaming() -> Any:
        state = chat.run(question="Name a colour.", stream=True)
        pieces = list(state.text_iter("answer"))
        whole = "".join(chat.run(question="Name a colour.", stream=True).text_iter())
        assert whole == state.text()
        assert "".join(pieces) == state["answer"]
        return state["answer"]

    def streaming_in_a_loop() -> Any:
        @sgl.function
        def scored(s: Any) -> None:
            s += "The capital of France is" + sgl.gen(
                "answer", max_tokens=6, temperature=0, ignore_eos=True, return_logprob=True
            )

        async def read() -> tuple[str, int]:
            state, text, tokens = scored.run(stream=True), "", 0
            async for piece, meta in state.text_async_iter("answer", return_meta_data=True):
                text += piece
                tokens += len(meta["output_token_logprobs"])
            await asyncio.to_thread(state.sync)
            return text, tokens

        text, tokens = asyncio.run(read())
        assert 1 <= tokens <= 6  # the interpreter gives the newest alone, however slow the reader
        return text

    def several() -> Any:
        @sgl.function
        def both(s: Any) -> None:
            s += "Once" + sgl.gen("story", n=2, max_tokens=5, temperature=0)

        state = both.run()
        assert state.text() == "Once" + state["story"][0]
        assert len(state.get_meta_info("story")) == 2
        return state["story"]

    def constrained() -> Any:
        @sgl.function
        def values(s: Any) -> None:
            s += "Seven plus one is " + sgl.gen("regex", max_tokens=4, temperature=0, regex="[0-9]{2}") + "\n"
            s += "Seven times two is " + sgl.gen_int("int", max_tokens=6, temperature=0, stop=";") + "\n"
            s += "Half: " + sgl.gen("float", max_tokens=6, temperature=0, dtype=float, stop=[";"]) + "\n"
            s += "Is water wet? " + sgl.gen("bool", max_tokens=6, temperature=0, dtype=bool) + "\n"
            s += "A word: " + sgl.gen_string("str", max_tokens=12, temperature=0) + "\n"
            s += "JSON: " + sgl.gen("json", max_tokens=24, temperature=0, json_schema=SCHEMA)

        state = values.run()
        assert int(state["regex"]) == int(state["regex"].strip())
        assert state["bool"] in ("True", "False")
        int(state["int"]), float(state["float"])
        assert isinstance(json.loads(state["json"])["a"], int)
        return [state[name] for name in ("regex", "int", "float", "bool", "str", "json")]

    def every_parameter() -> Any:
        @sgl.function
        def asks(s: Any) -> None:
            s += "The sky is" + sgl.gen(
                "answer",
                max_tokens=6,
                min_tokens=2,
                n=1,
                stop=["\n\n"],
                stop_token_ids=[1],
                temperature=0,
                top_p=0.9,
                top_k=5,
                min_p=0.01,
                frequency_penalty=0.1,
                presence_penalty=0.1,
                ignore_eos=True,
                return_logprob=True,
                logprob_start_len=1,
                top_logprobs_num=2,
                return_text_in_logprobs=True,
            )

        state = asks.run()
        meta = state.get_meta_info("answer")
        assert len(meta["output_token_logprobs"]) == meta["completion_tokens"]
        assert all(len(top) == 2 for top in meta["output_top_logprobs"])
        assert len(meta["input_token_logprobs"]) == meta["prompt_tokens"] - 1
        return [state["answer"], [entry[2] for entry in meta["output_token_logprobs"]]]

    def selecting() -> Any:
        @sgl.function
        def decide(s: Any, method: Any) -> None:
            s += "Is fire hot? Answer: " + sgl.select(
                "answer", choices=["yes", "no", "yes, very"], choices_method=method
            )
            s += "\nAnd ice? Answer:" + sgl.gen("ice", choices=[" it is cold", " hot"], choices_method=method)

        made = []
        for method in (
            sgl.token_length_normalized,
            sgl.greedy_token_selection,
            sgl.unconditional_likelihood_normalized,
        ):
            state = decide.run(method=method)
            scores = state.get_meta_info("answer")["normalized_prompt_logprobs"]
            assert len(scores) == 3
            assert all(score <= 0 for score in scores)
            assert state.text().startswith(f"Is fire hot? Answer: {state['answer']}\nAnd ice? Answer: ")
            made.append([state["answer"], state["ice"], [round(score, 3) for score in scores]])
        return made

    def forking() -> Any:
        @sgl.function
        def tips(s: Any) -> None:
            s += "Tips to stay healthy:\n"
            forks = s.fork(2)
            for number, fork in enumerate(forks):
                fork += f"Tip {number}:" + sgl.gen("tip", max_tokens=5, temperature=0, stop="\n") + "\n"
            forks.join("concate_and_append")
            s += "So:" + sgl.gen("summary", max_tokens=5, temperature=0, stop="\n")
            forks = s.fork(3)
            forks += lambda number: f" {number}" + sgl.gen("end", max_tokens=2, temperature=0)
            forks.join()
            with s.copy() as draft:
                draft += sgl.gen("thought", max_tokens=2, temperature=0)

        state = tips.run()
        assert len(state["end"]) == 3
        assert state.text().startswith("Tips to stay healthy:\nTip 0:")
        return [state.text(), state["end"], state["thought"]]

    def batches() -> Any:
        @sgl.function
        def count(s: Any, upto: str, prefix: str) -> None:
            s += prefix + upto + ":" + sgl.gen("numbers", max_tokens=4, temperature=0)

        prefix = "We count, as slowly as we can and without any haste, one number after the other, to "
        arguments = [{"upto": str(number)} for number in range(8)]
        count = count.bind(prefix=prefix)
        bar = io.StringIO()
        with contextlib.redirect_stderr(bar):
            states = count.run_batch(arguments, num_threads=4, progress_bar=True)
        assert "8/8" in bar.getvalue()
        alone = count.run_batch(arguments[:2], num_threads=1)
        assert [state["numbers"] for state in alone] == [state["numbers"] for state in states[:2]]
        few = list(count.run_batch(arguments[:3], num_threads=2, generator_style=True))
        assert [state["numbers"] for state in few] == [state["numbers"] for state in states[:3]]
        return [state["numbers"] for state in states]

    def speculating() -> Any:
        @sgl.function(num_api_spec_tokens=16)
        def character(s: Any) -> None:
            s += "Name:" + sgl.gen("name", stop="\n", max_tokens=8, temperature=0)
            s += "\nAge:" + sgl.gen("age", stop="\n", max_tokens=8, temperature=0)

        return character.run().text()

    def images() -> Any:
        @sgl.function
        def look(s: Any, paths: list[str]) -> None:
            for path in paths:
                s += sgl.user(sgl.image(path) + "What is this?")
            s += sgl.assistant(sgl.gen("answer", max_tokens=3, temperature=0))

        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            paths = [Path(folder, name) for name in ("a.png", "b.png")]
            for path in paths:
                path.write_bytes(path.name.encode())
            warnings.simplefilter("ignore")  # a server without eyes refuses
            state = look.run(paths=[str(path) for path in paths])
            state.sync()
        assert state.text().count(endpoint.chat_template.image_token) == 2
        return [state["answer"] if state.error() is None else type(state.error()).__name__]

    def failing() -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            state = chat.run(question="x", top_p=7.0)
            state.sync()
            streamed = chat.run(question="x", top_p=7.0, stream=True)
            text = "".join(streamed.text_iter("answer"))
            streamed.sync()
        told = [warning for warning in caught if warning.category.__name__ == "ProgramWarning"]
        assert len(told) == 1, "the same error in the same second"
        assert text == ""
        errors = [state.error(), streamed.error()]
        return [str(told[0].message), *(f"{type(error).__name__}: {error}" for error in errors)]

    def being_a_backend() -> Any:
        from sglang.lang.backend.base_backend import BaseBackend
        from sglang.lang.interpreter import StreamExecutor

        assert isinstance(endpoint, BaseBackend)
        assert type(endpoint) is RuntimeEndpoint
        assert endpoint.support_concate_and_append is False
        sgl.flush_cache()
        executor = StreamExecutor(endpoint, {}, None, None, False)
        endpoint.begin_program(executor)
        endpoint.fork_program(executor, [executor])
        endpoint.end_request("x")
        endpoint.uncache_prefix("x")
        executor.end()
        endpoint.end_program(executor)
        missing = [name for name in dir(BaseBackend) if not hasattr(endpoint, name)]
        return [missing, sgl.get_server_info()["model_path"] == endpoint.get_model_name()]

    own = ("sgl", "chat")
    return {name: each for name, each in locals().items() if callable(each) and name not in own}


def main() -> None:
    url, version, *folder = sys.argv[1:]
    with RuntimeEndpoint(url) as endpoint:
        assert "sglang" not in sys.modules
        sgl = load(folder[0] if folder else None)
        assert "torch" not in sys.modules
        assert folder or sgl.__version__ == version
        sgl.set_default_backend(endpoint)
        gave = {}
        for name, program in programs(sgl, endpoint).items():
            began = time.monotonic()
            gave[name] = program()
            print(f"{name}: {time.monotonic() - began:.2f} s", file=sys.stderr)
    print(json.dumps(gave))


if __name__ == "__main__":
    main()
