"""SGLang's real frontend language (0.5.2) with our endpoint as its backend, against a scripted model."""

from __future__ import annotations

import copy
import math
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import sglang as sgl
from sglang.lang.backend.base_backend import BaseBackend
from sglang.lang.choices import (
    greedy_token_selection,
    token_length_normalized,
    unconditional_likelihood_normalized,
)
from sglang.lang.ir import SglSamplingParams
from support.language_model import ScriptedModel, tokenize
from support.scripted_server import Asked, Reply, ScriptedServer, Wait, answer, cumulative, stream

from nbruntime.chat import get_chat_template
from nbruntime.endpoint import RuntimeEndpoint
from nbruntime.endpoint import server_capabilities as knowledge
from nbruntime.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    BadRequestError,
    NotFoundError,
    ServerTimeoutError,
    StreamError,
    StreamTimeoutError,
)
from nbruntime.frontend import failures, readers
from nbruntime.frontend.failures import ProgramWarning
from nbruntime.frontend.interruption import InFlightRequests


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def endpoint(server: ScriptedServer) -> Iterator[RuntimeEndpoint]:
    with RuntimeEndpoint(server.url, chat_template_name="chatml") as client:
        sgl.set_default_backend(client)
        yield client
        sgl.set_default_backend(None)


@sgl.function
def chatbot(s: Any, user_message: str) -> None:
    s += sgl.system("You are a helpful assistant.")
    s += sgl.user(user_message)
    s += sgl.assistant(sgl.gen("response", max_tokens=100))


PROMPT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nWhat is machine learning?<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def test_a_timeout_of_gen(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    state, params = SimpleNamespace(text_="Hi", images_=[]), SglSamplingParams()
    server.on("/generate", Reply(raw=True, pieces=[Wait()]))
    with pytest.warns(ProgramWarning), pytest.raises(ServerTimeoutError, match=r"0\.3"):
        endpoint.generate(state, params, timeout=0.3)
    with pytest.raises((ServerTimeoutError, StreamTimeoutError), match=r"0\.3"):
        list(endpoint.generate_stream(state, params, timeout=0.3))


def test_the_chatbot_of_the_documentation(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=answer("Learning by machine.")))
    state = chatbot.run(user_message="What is machine learning?")
    assert state["response"] == "Learning by machine."
    assert state.text() == PROMPT + "Learning by machine.<|im_end|>\n"
    sent = server.to("/generate")[0].json
    assert sent["text"] == PROMPT
    assert sent["sampling_params"]["max_new_tokens"] == 100
    assert sent["sampling_params"]["stop"] == ["<|im_end|>"]
    assert sent["sampling_params"]["skip_special_tokens"] is True
    assert "regex" not in sent["sampling_params"]


def test_a_runtime_like_object_is_unwrapped(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=answer("Yes.")))
    state = chatbot.run(user_message="What is machine learning?", backend=SimpleNamespace(endpoint=endpoint))
    assert state["response"] == "Yes."


def test_streaming(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    wait = Wait()  # the interpreter's iterator gives nothing if the stream ends before it begins
    first, *rest = cumulative(["Learning", " by", " machine", "."])
    server.on("/generate", stream(first, wait, *rest))
    state = chatbot.run(user_message="What is machine learning?", stream=True)
    texts = state.text_iter("response")
    seen = next(texts)
    wait.go.set()
    assert seen + "".join(texts) == "Learning by machine."
    assert state.text() == PROMPT + "Learning by machine.<|im_end|>\n"


def test_deltas_have_their_own_logprobs(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    words = ["a", "b", "c"]
    made = cumulative(words)
    for n, event in enumerate(made, 1):
        event["meta_info"]["output_token_logprobs"] = [[-float(i), 100 + i, words[i]] for i in range(n)]
    server.on("/generate", stream(*made))
    params = SglSamplingParams(return_logprob=True)
    found = list(endpoint.generate_stream(state("x"), params))
    assert [(text, meta["output_token_logprobs"]) for text, meta in found] == [
        ("a", [[-0.0, 100, "a"]]),
        ("b", [[-1.0, 101, "b"]]),
        ("c", [[-2.0, 102, "c"]]),
    ]
    sent = server.to("/generate")[0].json
    assert (sent["return_logprob"], sent["stream"]) == (True, True)


def test_text_comes_while_the_server_still_writes(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    wait = Wait()
    first, *rest = cumulative(["Learning", " by", " machine"])
    server.on("/generate", stream(first, wait, *rest))
    texts = chatbot.run(user_message="x", stream=True).text_iter("response")
    assert next(texts) == "Learning"
    wait.go.set()
    assert "".join(texts) == " by machine"


@pytest.mark.parametrize("variable", ["response", None], ids=["variable", "text"])
def test_a_slow_reader_gets_the_end(
    server: ScriptedServer, endpoint: RuntimeEndpoint, variable: str | None
) -> None:
    wait = Wait()
    first, *rest = cumulative(["Learning", " by", " machine", "."])
    server.on("/generate", stream(first, wait, *rest))
    state = chatbot.run(user_message="x", stream=True)
    texts = []
    for text in state.text_iter(variable):
        texts.append(text)
        if "Learning" in text:
            wait.go.set()
            time.sleep(0.3)  # the stream ends meanwhile
    assert "Learning by machine." in "".join(texts)


def test_a_slow_reader_of_the_text_gets_a_short_answer(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    @sgl.function
    def two(s: Any) -> None:
        s += sgl.gen("first")
        s += sgl.gen("second")

    wait = Wait()
    replies = iter([stream(*cumulative(["One", " and"])), stream(wait, *cumulative([" two."]))])
    server.on("/generate", lambda asked: next(replies))
    seen = ""
    for text in two.run(stream=True).text_iter():
        seen += text
        if seen == "One and":
            wait.go.set()
            time.sleep(0.3)
    assert seen == "One and two."


def test_stream_does_not_wait_again_for_a_reader_that_left(
    server: ScriptedServer, endpoint: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "PATIENCE", 0.2)
    wait = Wait()
    first, *rest = cumulative(["Learning", " by", " machine", "."])
    server.on("/generate", stream(first, wait, *rest))
    state = chatbot.run(user_message="x", stream=True)
    for text in state.text_iter("response"):
        assert text == "Learning"
        break
    wait.go.set()
    assert state["response"] == "Learning by machine."


def test_program_may_submit_calls_while_a_stream_begins(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    class Submitting(threading.Event):
        """The thread of the program enters another variable while that of the stream looks at this one."""

        def is_set(self) -> bool:
            s.stream_var_event["later"] = threading.Event()
            return False

    server.on("/generate", stream(*cumulative(["Learning", "."])))
    s = state("x")
    s.variables, s.variable_event = {"now": ""}, {"now": Submitting()}
    s.stream_var_event, s.stream_text_event = {"now": threading.Event()}, threading.Event()
    assert [text for text, _ in endpoint.generate_stream(s, SglSamplingParams())] == ["Learning", "."]


def test_failed_streaming_program_warns(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", stream({"error": {"message": "no room", "code": 503}}))
    with pytest.warns(ProgramWarning, match="no room") as caught:
        failed = run_to_the_end(chatbot, user_message="x", stream=True)
    assert "".join(failed.text_iter("response")) == ""
    assert isinstance(failed.error(), StreamError)
    (told,) = [str(warning.message) for warning in caught if warning.category is ProgramWarning]
    assert told.split("\n") == [
        f"StreamError: The server sent an error in the stream: no room ({server.url}/generate)",
        "Nothing was generated.",
    ]


def run_to_the_end(program: Any, **arguments: Any) -> Any:
    state = program.run(**arguments)
    state.sync()
    return state


def test_every_error_warns_but_once_for_a_batch(
    server: ScriptedServer, endpoint: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("/generate", Reply(json={"detail": "no"}, status=400))

    def told_by(run: Callable[[], Any]) -> int:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")  # as Python does by itself: the same place, only once
            run()
        return sum(warning.category is ProgramWarning for warning in caught)

    @sgl.function
    def short(s: Any, number: int) -> None:
        s += f"{number}" + sgl.gen("x")

    batch = [{"number": number} for number in range(8)]
    assert told_by(lambda: short.run_batch(batch, num_threads=8)) == 1
    monkeypatch.setattr(failures, "QUIET_SECONDS", 0.0)
    for _ in range(2):
        assert told_by(lambda: run_to_the_end(chatbot, user_message="x")) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProgramWarning)
        warnings.filterwarnings("ignore", message="Error in stream_executor")
        assert isinstance(run_to_the_end(chatbot, user_message="x").error(), BadRequestError)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("streaming", [False, True])
def test_a_program_that_goes_on_after_an_error_does_not_hang(
    server: ScriptedServer, endpoint: RuntimeEndpoint, streaming: bool
) -> None:
    server.on("/generate", Reply(json={"detail": "no"}, status=400))
    reached = threading.Event()
    failed = threading.Event()

    @sgl.function
    def goes_on(s: Any) -> None:
        s += "Once" + sgl.gen("first")
        failed.wait(20)
        s += sgl.gen("second")
        forks = s.fork(2)
        forks += sgl.gen("forked")
        for fork in forks.states:
            fork.sync()
        s.sync()
        reached.set()

    done = goes_on.run(stream=True) if streaming else None
    if done is None:
        running: list[Any] = []
        thread = threading.Thread(target=lambda: running.append(goes_on.run()), daemon=True)
        thread.start()
    server.wait_for("/generate")
    failed.set()
    assert reached.wait(20), "the program hangs"
    if done is None:
        thread.join(20)
        (done,) = running
    with pytest.raises(KeyError, match="second"):
        done["second"]
    assert isinstance(done.error(), BadRequestError)
    if streaming:
        assert list(done.text_iter("second")) == [""]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("streaming", [False, True])
def test_a_program_that_fails_where_warnings_are_errors_does_not_hang(
    server: ScriptedServer, endpoint: RuntimeEndpoint, streaming: bool
) -> None:
    server.on("/generate", Reply(json={"detail": "no"}, status=400))

    @sgl.function
    def goes_on(s: Any) -> None:
        s += "Once" + sgl.gen("first") + sgl.gen("second")
        s += sgl.gen("third")

    ended: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = goes_on.run(stream=streaming)
        thread = threading.Thread(target=lambda: ended.extend([list(state.text_iter()), state.error()]))
        thread.daemon = True
        thread.start()
        thread.join(20)
    assert ended, "the program hangs"
    assert isinstance(ended[1], BadRequestError)
    assert state.stream_executor.is_finished


def test_the_endpoint_is_a_backend_of_sglang(endpoint: RuntimeEndpoint) -> None:
    assert isinstance(endpoint, BaseBackend)
    assert isinstance(endpoint, RuntimeEndpoint)
    assert type(endpoint) is RuntimeEndpoint
    assert endpoint.__class__.__name__ == "RuntimeEndpoint"
    assert [name for name in vars(BaseBackend) if not hasattr(endpoint, name)] == []
    for again in (pickle.loads(pickle.dumps(endpoint)), copy.copy(endpoint)):
        assert again.base_url == endpoint.base_url
        assert isinstance(again, BaseBackend)
        again.close()
    assert endpoint.support_concate_and_append is False
    with pytest.raises(NotFoundError, match="join"):
        endpoint.concatenate_and_append(["a"], "b")


def test_repeated_gen_sends_each_stop_text_once(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=answer("x")))
    stop = ["\n"]

    @sgl.function
    def often(s: Any) -> None:
        for _ in range(3):
            s += sgl.gen("x", stop=stop)

    often.run().sync()
    assert [asked.json["sampling_params"]["stop"] for asked in server.to("/generate")] == [
        ["\n", "<|im_end|>"]
    ] * 3


def test_several_samples(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=[answer("one"), answer("two")]))

    @sgl.function
    def both(s: Any) -> None:
        s += "x" + sgl.gen("y", n=2)

    done = both.run()
    assert done["y"] == ["one", "two"]
    assert done.text() == "xone"
    assert [meta["id"] for meta in done.get_meta_info("y")] == ["scripted"] * 2
    with pytest.warns(ProgramWarning), pytest.raises(ArgumentValueError, match="n > 1"):
        next(endpoint.generate_stream(state("x"), SglSamplingParams(n=2)))


def state(text: str, images: list[tuple[str, str]] | None = None) -> SimpleNamespace:
    return SimpleNamespace(text_=text, images_=images or [], messages_=[], sid="s")


@pytest.mark.filterwarnings("ignore::nbruntime.frontend.failures.ProgramWarning")
@pytest.mark.parametrize("stop", ["x", ["x"], ("x",), ()])
@pytest.mark.parametrize(
    ("dtype", "regex"), [(int, r"[-+]?[0-9]+[ \n]*"), ("float", None), (bool, "(True|False)")]
)
def test_dtype_does_not_change_the_parameters_object(
    server: ScriptedServer, endpoint: RuntimeEndpoint, stop: Any, dtype: Any, regex: str | None
) -> None:
    server.on("/generate", Reply(json=answer("7")))
    params = SglSamplingParams(stop=stop, dtype=dtype)
    before = (params.stop, params.regex, params.dtype)
    endpoint.generate(state("x"), params)
    endpoint.generate(state("x"), params)
    assert (params.stop, params.regex, params.dtype) == before
    first, second = (asked.json["sampling_params"] for asked in server.to("/generate"))
    assert first == second
    assert first["stop"] == ["x"] * bool(stop) + ([] if dtype is bool else [" ", "\n"])
    if regex is not None:
        assert first["regex"] == regex
    with pytest.raises(ArgumentValueError, match="complex"):
        endpoint.generate(state("x"), SglSamplingParams(dtype=complex))


def test_images(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=answer("a cat")))
    endpoint.generate(state("x", [("a.png", "QUE=")]), SglSamplingParams())
    endpoint.generate(state("x", [("a.png", "QUE="), ("b.png", "QkI=")]), SglSamplingParams())
    endpoint.generate(state("x"), SglSamplingParams())
    assert [asked.json.get("image_data") for asked in server.to("/generate")] == [
        "QUE=",
        ["QUE=", "QkI="],
        None,
    ]


# select


def choose(
    endpoint: RuntimeEndpoint, text: str, choices: list[str], method: Any = token_length_normalized
) -> Any:
    return endpoint.select(state(text), choices, 0.0, method)


@pytest.fixture(params=["it tokenizes", "it does not"])
def tokenizes(request: pytest.FixtureRequest, server: ScriptedServer) -> bool:
    """Have the scripted model score, on a server that tokenizes or on an older one."""
    server.on("/generate", ScriptedModel())
    if request.param == "it tokenizes":
        server.on("/tokenize", lambda asked: Reply(json={"tokens": [*map(tokenize, asked.json["prompt"])]}))
    return bool(request.param == "it tokenizes")


def test_select_in_a_program(server: ScriptedServer, endpoint: RuntimeEndpoint, tokenizes: bool) -> None:

    @sgl.function
    def decide(s: Any) -> None:
        s += "The answer is" + sgl.select("answer", choices=[" no", " yes", " maybe!"])

    done = decide.run()
    assert done["answer"] == " yes"
    assert done.text() == "The answer is yes"
    requests = [asked.json for asked in server.to("/generate")]
    texts = ["The answer is no", "The answer is yes", "The answer is maybe!"]
    if tokenizes:
        (only,) = requests  # so short a prompt is not worth a request
        assert only["input_ids"] == [tokenize(text) for text in texts]
        assert only["logprob_start_len"] == [2, 2, 2]  # no token more than is needed
    else:
        assert len(requests) == 2  # the prompt, then all choices together
        assert requests[1]["text"] == ["The answer is", *texts]


def test_select_through_a_router_that_takes_no_batches(
    server: ScriptedServer, endpoint: RuntimeEndpoint, tokenizes: bool
) -> None:
    model = ScriptedModel()

    def refuse_batches(asked: Asked) -> Reply:
        if isinstance(asked.json["rid"], list):
            return Reply(body=b"Failed to deserialize: rid: invalid type: sequence", status=422)
        return model(asked)

    server.on("/generate", refuse_batches)
    decision = choose(endpoint, "The answer is", [" no", " yes", " maybe!"])
    assert decision.decision == " yes"
    assert decision.meta_info["normalized_prompt_logprobs"] == [-1.5, -0.5, pytest.approx(-1.55)]


def test_select_caches_a_long_prompt(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", ScriptedModel())
    server.on("/tokenize", lambda asked: Reply(json={"tokens": [*map(tokenize, asked.json["prompt"])]}))
    prompt = "The" + " answer" * 150
    assert choose(endpoint, prompt, [" no", " yes", " maybe"]).decision == " yes"
    cached, scored = (asked.json for asked in server.to("/generate"))
    assert (cached["input_ids"], cached["sampling_params"]) == (tokenize(prompt), {"max_new_tokens": 0})
    assert scored["logprob_start_len"] == [150] * 3


def test_select_asks_once_whether_a_server_tokenizes(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", ScriptedModel())
    for _ in range(3):
        choose(endpoint, "The answer is", [" no", " yes"])
    assert len(server.to("/tokenize")) == 1
    choose(endpoint, "", ["yes!", "no!"])
    assert [len(asked.json["text"]) for asked in server.to("/generate")[-1:]] == [2]


@pytest.mark.parametrize(
    "method", [token_length_normalized, greedy_token_selection, unconditional_likelihood_normalized]
)
@pytest.mark.parametrize("text", ["The answer is", "A", "no!!"])
def test_select_with_every_choices_method(
    endpoint: RuntimeEndpoint, tokenizes: bool, method: Any, text: str
) -> None:
    decision = choose(endpoint, text, [" no", " yes"], method)
    assert decision.decision in (" no", " yes")
    assert [len(tokens) for tokens in decision.meta_info["input_token_logprobs"]] == [1, 1]
    if text != "no!!":
        assert decision.meta_info["normalized_prompt_logprobs"] == [-1.5, -0.5]
        if method is not unconditional_likelihood_normalized:
            assert decision.decision == " yes"


def test_select_heals_tokens(endpoint: RuntimeEndpoint, tokenizes: bool) -> None:
    # With the space at its end the prompt has a token that "yes" swallows and "!" does not.
    decision = choose(endpoint, "The answer is ", ["yes!", "!"])
    found = decision.meta_info["input_token_logprobs"]
    assert [[token[2] for token in tokens] for tokens in found] == [[" yes", "!"], ["!"]]
    assert decision.meta_info["normalized_prompt_logprobs"] == [pytest.approx((-0.5 - 0.1) / 2), -0.1]
    assert decision.decision == "!"


def test_select_counts_certain_tokens(endpoint: RuntimeEndpoint, tokenizes: bool) -> None:
    decision = choose(endpoint, "The", ["A", "A!", "a"])  # "A" has logprob 0.0
    assert decision.meta_info["normalized_prompt_logprobs"] == [0.0, pytest.approx(-0.05), -1.0]
    assert decision.decision == "A"


def test_select_when_the_first_token_merges(endpoint: RuntimeEndpoint, tokenizes: bool) -> None:
    # Prompt "A" + "A" is the token "AA": nothing stands before it, so it has no logprob of its own.
    decision = choose(endpoint, "A", ["A!", " no"])
    found = decision.meta_info["input_token_logprobs"]
    assert [[token[2] for token in tokens] for tokens in found] == [["!"], [" no"]]
    assert all(math.isfinite(token[0]) for tokens in found for token in tokens)


@pytest.mark.filterwarnings("ignore::nbruntime.frontend.failures.ProgramWarning")
@pytest.mark.parametrize(("text", "choices"), [("A", [" no", "A"]), ("", [" no", " yes"])])
def test_select_refuses_a_choice_that_is_the_very_first_token(
    endpoint: RuntimeEndpoint, tokenizes: bool, text: str, choices: list[str]
) -> None:
    with pytest.raises(ArgumentValueError, match=r"one token, '(AA| no)', the very first"):
        choose(endpoint, text, choices)


@pytest.mark.filterwarnings("ignore::nbruntime.frontend.failures.ProgramWarning")
def test_select_refuses_wrong_arguments(endpoint: RuntimeEndpoint) -> None:
    with pytest.raises(ArgumentValueError, match="nothing to choose"):
        choose(endpoint, "x", [])
    with pytest.raises(ArgumentValueError, match="empty"):
        choose(endpoint, "x", ["a", ""])
    with pytest.raises(ArgumentValueError, match="temperature"):
        endpoint.select(state("x"), ["a"], 0.7, token_length_normalized)


# Programs


def test_forks_and_batches(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    threads: set[int] = set()

    def echo(asked: Asked) -> Reply:
        threads.add(threading.get_ident())
        body = asked.json
        assert body["sampling_params"].get("stop", []) in ([], ["<|im_end|>"])
        return Reply(json=answer("" if body["sampling_params"]["max_new_tokens"] == 0 else body["text"][-1]))

    server.on("/generate", echo)

    @sgl.function
    def tips(s: Any, topic: str) -> None:
        s += "A beginning that is so long that it is worth the while to have it in the cache. " + topic
        forks = s.fork(2)
        for n, fork in enumerate(forks):
            fork += f" tip {n}" + sgl.gen("tip", max_tokens=8)
        forks.join("concate_and_append")
        s += "|" + forks[0]["tip"] + forks[1]["tip"]
        s += sgl.gen("summary", max_tokens=8)

    states = tips.run_batch([{"topic": str(n)} for n in range(96)], num_threads=96, progress_bar=False)
    assert [done["summary"] for done in states] == ["1"] * 96
    assert states[7].text().endswith("7 tip 00 tip 11|011")
    cached = [
        asked.json
        for asked in server.to("/generate")
        if asked.json["sampling_params"] == {"max_new_tokens": 0}
    ]
    assert cached
    print(f"{len(threads)} threads, {server.connections} connections, {len(cached)} texts cached ahead")


def test_many_threads_share_connections_and_a_template(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("/generate", lambda asked: Reply(json=answer(asked.json["text"].split("|")[-2])))
    loaded: list[str] = []

    def slowly(info: Any) -> Any:
        loaded.append(info["model_path"])
        gate.wait(20)
        return get_chat_template("chatml")

    monkeypatch.setattr(knowledge, "find_chat_template", slowly)
    gate = threading.Event()

    @sgl.function
    def echo(s: Any, number: int) -> None:
        for again in range(4):
            s += f"|{number}.{again}|" + sgl.gen(f"x{again}", max_tokens=4)

    with RuntimeEndpoint(server.url) as endpoint:
        states: list[Any] = [None] * 96

        def run(number: int) -> None:
            states[number] = run_to_the_end(echo, number=number, backend=endpoint)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(96)]
        for thread in threads:
            thread.start()
        gate.set()
        for thread in threads:
            thread.join(60)
    asked = len(server.to("/generate"))
    print(f"{asked} requests of 96 threads over {server.connections} connections")
    assert len(loaded) == 1
    assert asked == 96 * 4
    assert server.connections <= 97
    for number, done in enumerate(states):
        assert [done[f"x{again}"] for again in range(4)] == [f"{number}.{again}" for again in range(4)]


def test_an_interrupt_reaches_the_calls_of_every_endpoint(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/abort_request", Reply())
    running = InFlightRequests()
    with ScriptedServer() as other, RuntimeEndpoint(other.url) as router:
        other.forget("/abort_request")
        with running.track(router), running.track(endpoint) as rid:
            running.interrupted()
            asked = server.wait_for("/abort_request")
            other.wait_for("/abort_request")
    assert asked[0].json == {"rid": rid}


@pytest.mark.parametrize("given", ["Hi", ["Hi"], None, {"text": "Hi"}, 5])
@pytest.mark.parametrize(
    ("method", "arguments", "instead"),
    [
        ("generate", (), "endpoint.complete("),
        ("generate", ({"temperature": 0},), "endpoint.stream("),
        ("generate_stream", (), "endpoint.stream("),
        ("select", (["a", "b"],), "sgl.select"),
        ("select", (["a", "b"], 0.0, greedy_token_selection), "endpoint.complete("),
        ("commit_lazy_operations", (), "endpoint.cache_prefix("),
        ("fill_image", (), "endpoint.cache_prefix("),
    ],
)
def test_a_prompt_instead_of_a_state_is_refused(
    server: ScriptedServer, endpoint: RuntimeEndpoint, method: str, arguments: Any, instead: str, given: Any
) -> None:
    asked = len(server.asked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            ArgumentTypeError, match=rf"calls {method}\(\) with the state of a program"
        ) as caught:
            getattr(endpoint, method)(given, *arguments)
    assert instead in str(caught.value.hint)
    assert len(server.asked) == asked


def test_prompts_by_name_and_wrong_parameters_are_refused(endpoint: RuntimeEndpoint) -> None:
    with pytest.raises(ArgumentTypeError, match=r"(?s)generate\(\) with the state.*endpoint.complete"):
        endpoint.generate(prompt="Hi", sampling_params={"temperature": 0})
    with pytest.raises(ArgumentTypeError, match=r"(?s)SglSamplingParams, not a dict.*endpoint.complete"):
        endpoint.generate(state("Hi"), {"temperature": 0})


def test_remaining_backend_methods(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    sgl.flush_cache()
    assert sgl.get_server_info()["tp_size"] == 1
    server.on("/generate", Reply(json=answer("")))
    endpoint.begin_program(None)
    endpoint.fork_program(None, None)
    endpoint.commit_lazy_operations(state("x"))
    endpoint.fill_image(state("x", [("a.png", "QUE=")]))
    endpoint.uncache_prefix("r")
    endpoint.end_request("r")
    endpoint.end_program(type("State", (), {})())
    assert [asked.json.get("image_data") for asked in server.to("/generate")] == [None, "QUE="]
