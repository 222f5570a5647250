"""The engine's thread: failures abort the requests they concern, and no request waits for ever."""

from __future__ import annotations

import asyncio
import itertools
import math
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import BPE, WordLevel
from torch import Tensor

from nbruntime.embedded.arguments import ServerArguments
from nbruntime.embedded.cache.token_cache import TokenCache
from nbruntime.embedded.engine.engine import NOT_FINITE, NOTHING_ALLOWED, QUEUE_FULL, Engine, Post
from nbruntime.embedded.engine.request import Request, Update
from nbruntime.embedded.engine.scheduler import Scheduler
from nbruntime.embedded.http.app import make_app
from nbruntime.embedded.http.metrics import Metrics
from nbruntime.embedded.http.state import ServerState
from nbruntime.embedded.runner.batch import ForwardBatch
from nbruntime.embedded.runner.protocol import ModelFacts
from nbruntime.embedded.sampling.logprobs import LogprobRequest
from nbruntime.embedded.sampling.sampler import Sampler, SamplingState
from nbruntime.embedded.service.admission import Admission
from nbruntime.embedded.service.generate_input import check_body
from nbruntime.embedded.service.service import Service
from nbruntime.embedded.text.stream import TextStream
from nbruntime.embedded.text.tokenizer import Tokenizer
from nbruntime.endpoint import AsyncRuntimeEndpoint
from nbruntime.errors import GenerationAbortedError, ServerFailureError
from nbruntime.generation.answer_times import AnswerTimes
from nbruntime.generation.explaining import explain
from nbruntime.protocol.sampling import SamplingParams
from nbruntime.protocol.step_log import Step

VOCAB = 8


class CountingRunner:
    """A model that answers each token with the next one; token 7 breaks it.

    After the tokens in `broken` all it computes is the number given for them.
    """

    facts = ModelFacts((), "counting", VOCAB, 64, frozenset(), 1, 1, 1, "float32", 0, 8)

    def __init__(self) -> None:
        self.steps = 0
        self.gate = threading.Event()
        self.gate.set()
        self.broken: dict[int, float] = {}

    def allocate_cache(self, num_slots: int) -> None: ...

    def warm_up(self) -> None: ...

    def forward(self, batch: ForwardBatch) -> Tensor:
        self.steps += 1
        self.gate.wait(10)
        read = batch.input_ids[batch.logit_rows]
        if (batch.input_ids == 7).any():
            raise RuntimeError("the model cannot read 7")
        return self._break(read, torch.nn.functional.one_hot((read + 1) % 7, VOCAB).float())

    def embed(self, batch: ForwardBatch) -> Tensor:
        return self._break(batch.input_ids[batch.logit_rows], torch.ones(len(batch.logit_rows), 2))

    def _break(self, read: Tensor, rows: Tensor) -> Tensor:
        for token_id, value in self.broken.items():
            rows[read == token_id] = value
        return rows


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    words = {f"w{number}": number for number in range(VOCAB)}
    FastTokenizer(WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    return Tokenizer(folder)


class EngineHarness:
    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_queued: int = 10,
        max_running: int = 4,
        post: Post = lambda function: function(),
    ) -> None:
        self.tokenizer = tokenizer
        self.runner = CountingRunner()
        self.ended = threading.Event()
        scheduler = Scheduler(TokenCache(64), max_running=max_running, chunk=16)
        self.engine = Engine(
            self.runner,
            scheduler,
            Sampler(0),
            max_queued=max_queued,
            post=post,
            on_end=self.ended.set,
        )
        self.engine.start()

    def submit(
        self,
        prompt: list[int],
        new: int = 3,
        *,
        rid: str = "",
        temperature: float = 0,
        sampling: SamplingState | None = None,
        **fields: Any,
    ) -> queue.SimpleQueue[Update]:
        updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        params = SamplingParams(max_new_tokens=new, temperature=temperature)
        request = Request(
            rid=rid,
            prompt_ids=prompt,
            params=params,
            sampling=sampling or SamplingState(params, VOCAB),
            stream=TextStream(self.tokenizer, prompt, params),
            deliver=updates.put,
            **fields,
        )
        self.engine.submit([request])
        return updates


@pytest.fixture
def harness(tokenizer: Tokenizer) -> Iterator[EngineHarness]:
    harness = EngineHarness(tokenizer)
    yield harness
    harness.runner.gate.set()
    harness.engine.stop()


def reason(update: Update) -> dict[str, object]:
    assert update.finish_reason is not None
    return update.finish_reason


def test_a_request_is_answered(harness: EngineHarness) -> None:
    update = harness.submit([1, 2], 4).get(timeout=10)
    assert update.token_ids == [3, 4, 5, 6]
    assert update.text.split() == ["w3", "w4", "w5", "w6"]
    assert reason(update) == {"type": "length", "length": 4}


def test_a_failed_step_aborts_its_requests_only(harness: EngineHarness) -> None:
    broken = harness.submit([1, 7]).get(timeout=10)
    assert reason(broken)["type"] == "abort"
    assert reason(broken)["status_code"] == 500
    assert "cannot read 7" in str(reason(broken)["message"])
    assert harness.submit([1, 2]).get(timeout=10).token_ids == [3, 4, 5]
    assert harness.engine.call(harness.engine.flush_cache).result(10)
    assert harness.engine.call(lambda: harness.engine.scheduler.cache.pool.free).result(10) == 64


def log_of(harness: EngineHarness) -> list[Step]:
    harness.engine.call(lambda: None).result(10)  # the step that delivered the last update has ended
    return harness.engine.step_log.read().steps


def test_the_step_log_tells_what_was_computed_for_whom(harness: EngineHarness) -> None:
    harness.submit([1] * 20, 3, rid="a").get(timeout=10)
    harness.submit([2, 3], rid="e", embedding=True).get(timeout=10)
    harness.submit([4, 4], 0, rid="s").get(timeout=10)
    told = [(step.stage, step.rids, step.rid_tokens, step.failed) for step in log_of(harness)]
    assert told == [
        ("EXTEND", ("a",), (16,), False),
        ("EXTEND", ("a",), (4,), False),
        ("DECODE", ("a",), (1,), False),
        ("DECODE", ("a",), (1,), False),
        ("EXTEND", ("e",), (2,), False),
        ("EXTEND", ("s",), (2,), False),
    ]
    assert [step.used_tokens for step in log_of(harness)[:4]] == [20, 20, 21, 22]
    assert all(before.end <= after.start for before, after in itertools.pairwise(log_of(harness)))


def test_the_step_log_holds_failed_steps(harness: EngineHarness) -> None:
    harness.submit([1, 7], rid="broken").get(timeout=10)
    harness.submit([1, 2], 1, rid="whole").get(timeout=10)
    assert [(step.rids, step.failed) for step in log_of(harness)] == [
        (("broken",), True),
        (("whole",), False),
    ]


def test_the_step_log_holds_retractions(harness: EngineHarness) -> None:
    harness.runner.gate.clear()
    together = [harness.submit([number] * 2, 30, rid=str(number)) for number in range(4)]
    harness.runner.gate.set()
    assert [len(updates.get(timeout=10).token_ids) for updates in together] == [30] * 4
    steps = log_of(harness)
    assert max(step.used_tokens or 0 for step in steps) <= 64
    retracted = [(step.number, rid) for step in steps for rid in step.retracted]
    assert retracted
    for number, rid in retracted:
        assert rid not in steps[number].rids
        back = next(step for step in steps[number:] if rid in step.rids)
        assert back.stage == "EXTEND"  # its tokens are computed again
        assert all(step.waiting for step in steps[number : back.number])
    for rid in "0123":
        own = [step for step in steps if rid in step.rids]
        again = [place for _, place in retracted].count(rid)
        times = {"forward_entry_time": own[0].start, "request_finished_ts": own[-1].end}
        total = own[-1].end - own[0].start
        known = AnswerTimes(
            rid, total, server_times=times, prompt_tokens=2, completion_tokens=30, retractions=again
        )
        explained = explain(known, steps)
        assert explained.source == "step log"
        assert (explained.seconds("retraction") > 0) == (again > 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0, 1e-5])
def test_numbers_that_are_not_finite_end_their_request_only(
    harness: EngineHarness, value: float, temperature: float
) -> None:
    harness.runner.broken = {4: value}
    harness.runner.gate.clear()
    broken = harness.submit([1, 2], 9, temperature=temperature)
    others = [harness.submit([5], 4), harness.submit([5], 4, temperature=temperature)]
    harness.runner.gate.set()
    update = broken.get(timeout=10)
    assert update.token_ids == [3, 4]
    assert update.text.split() == ["w3", "w4"]
    assert reason(update) == {
        "type": "abort", "message": NOT_FINITE, "status_code": 500, "err_type": "InternalServerError",
    }  # fmt: skip
    assert [other.get(timeout=10).token_ids for other in others] == [[6, 0, 1, 2]] * 2


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        ([1, 4], {}),
        ([1, 4], {"logprobs": LogprobRequest(0, top=2)}),
        ([4, 1], {"logprobs": LogprobRequest(0)}),
        ([1, 4], {"embedding": True}),
    ],
    ids=["score", "logprobs", "logprobs of the prompt", "embedding"],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_and_embeddings_are_finite(
    harness: EngineHarness, prompt: list[int], fields: dict[str, Any], value: float
) -> None:
    assert reason(harness.submit(prompt, 0, **fields).get(timeout=10))["type"] == "length"
    harness.engine.call(harness.engine.flush_cache).result(10)
    harness.runner.broken = {4: value}
    assert reason(harness.submit(prompt, 0, **fields).get(timeout=10))["message"] == NOT_FINITE


def test_a_grammar_that_allows_no_token_says_so(harness: EngineHarness) -> None:
    nothing: Any = AnyGrammar([])
    state = SamplingState(SamplingParams(temperature=0), VOCAB, grammar=lambda: nothing)
    update = harness.submit([1, 2], sampling=state).get(timeout=10)
    assert reason(update)["message"] == NOTHING_ALLOWED
    assert reason(update)["status_code"] == 400


def test_a_seeded_answer_does_not_depend_on_retractions(harness: EngineHarness) -> None:
    def ask(seed: int) -> queue.SimpleQueue[Update]:
        params = SamplingParams(sampling_seed=seed, logit_bias={7: -100.0})
        return harness.submit([1, 2], 30, sampling=SamplingState(params, VOCAB))

    alone = [ask(seed).get(timeout=10).token_ids for seed in range(4)]
    assert len({tuple(ids) for ids in alone}) == 4
    steps = harness.runner.steps
    harness.runner.gate.clear()
    together = [ask(seed) for seed in range(4)]  # twice as long as the cache
    harness.runner.gate.set()
    assert [updates.get(timeout=10).token_ids for updates in together] == alone
    # One step gives each a token, but for those that the cache had no room for.
    assert harness.runner.steps - steps > 40


def test_a_request_beyond_the_queue_limit_is_refused(tokenizer: Tokenizer) -> None:
    harness = EngineHarness(tokenizer, max_queued=2, max_running=1)
    harness.runner.gate.clear()
    first = harness.submit([1])
    while not harness.engine.scheduler.extending:
        pass  # until the first has left the queue
    waiting = [harness.submit([number]) for number in (2, 3, 4)]
    harness.runner.gate.set()
    results = [updates.get(timeout=10) for updates in (first, *waiting)]
    assert [reason(result)["type"] for result in results] == ["length", "length", "length", "abort"]
    assert reason(results[-1])["message"] == QUEUE_FULL
    assert reason(results[-1])["status_code"] == 503
    harness.engine.stop()


def test_abort_by_prefix(harness: EngineHarness) -> None:
    harness.runner.gate.clear()
    aborted, other = harness.submit([1], 50, rid="a-1"), harness.submit([2], 5, rid="b-1")
    harness.engine.abort("a-")
    harness.runner.gate.set()
    assert reason(aborted.get(timeout=10))["type"] == "abort"
    assert reason(other.get(timeout=10))["type"] == "length"


def test_stopping_aborts_waiting_requests(tokenizer: Tokenizer) -> None:
    harness = EngineHarness(tokenizer, max_running=1)
    harness.runner.gate.clear()
    updates = [harness.submit([1], 40)]
    while not harness.runner.steps:
        pass  # until the first is being computed
    updates += [harness.submit([number], 40) for number in (2, 3)]
    stopper = threading.Thread(target=harness.engine.stop)
    stopper.start()
    while harness.engine._inbox.qsize() < 3:
        pass  # until the stop is there, too
    harness.runner.gate.set()
    stopper.join(10)
    assert not stopper.is_alive()
    assert {reason(each.get(timeout=10))["status_code"] for each in updates} == {503}
    assert harness.runner.steps == 1  # stopping does not wait for another step
    assert harness.ended.is_set()
    assert not harness.engine.failed


def test_a_failure_of_the_engine_aborts_all_requests_and_calls_on_end(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = EngineHarness(tokenizer)

    late: list[queue.SimpleQueue[Update]] = []

    def broken() -> None:
        late.append(harness.submit([2]))
        raise AssertionError("a slot is lost")

    monkeypatch.setattr(harness.engine.scheduler, "next_step", broken)
    update = harness.submit([1]).get(timeout=10)
    assert reason(update)["status_code"] == 503
    assert harness.ended.wait(10)
    assert reason(late[0].get(timeout=10))["status_code"] == 503
    assert harness.engine.failed
    assert not harness.engine.alive


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failure_during_cleanup_calls_on_end(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    harness = EngineHarness(tokenizer)

    def broken(ended: set[Request]) -> None:
        raise AssertionError("a slot is lost")

    monkeypatch.setattr(harness.engine.scheduler, "release", broken)
    harness.submit([1])
    assert harness.ended.wait(10)
    assert harness.engine.failed
    harness.engine._thread.join(10)  # it ends with the error, which must not be the next test's


def test_an_exception_in_a_call_reaches_the_caller(harness: EngineHarness) -> None:
    with pytest.raises(ZeroDivisionError):
        harness.engine.call(lambda: 1 // 0).result(10)
    assert harness.submit([1]).get(timeout=10).token_ids == [2, 3, 4]


class AnyGrammar:
    """Stands for the matcher of a grammar that allows everything, or only what it is told."""

    finished = False

    def __init__(self, allowed: list[int] | None = None) -> None:
        self.allowed = allowed

    def mask(self, logits: Tensor) -> None:
        if self.allowed is not None:
            kept = logits[self.allowed]
            logits.fill_(float("-inf"))
            logits[self.allowed] = kept

    def accept(self, token_id: int) -> None: ...


def test_large_buffers_are_made_at_the_first_token_and_freed_at_the_end(harness: EngineHarness) -> None:
    made: list[weakref.ref[AnyGrammar]] = []

    def grammar() -> Any:
        matcher = AnyGrammar()
        made.append(weakref.ref(matcher))
        return matcher

    states = [
        SamplingState(SamplingParams(temperature=0, frequency_penalty=0.5), VOCAB, grammar=grammar)
        for _ in range(8)
    ]
    harness.runner.gate.clear()
    updates = [harness.submit([1, 2], sampling=state) for state in states]
    assert not made
    harness.runner.gate.set()
    assert [each.get(timeout=10).token_ids for each in updates] == [[3, 4, 5]] * 8
    harness.engine.call(lambda: None).result(10)
    assert len(made) == 8
    assert all(reference() is None for reference in made)


def test_a_finished_grammar_ends_the_answer_before_min_new_tokens() -> None:
    end = 6
    params = SamplingParams(temperature=0, min_new_tokens=10)
    for allowed, chosen in (([end], end), ([3, end], 3)):
        matcher: Any = AnyGrammar(allowed)
        state = SamplingState(params, VOCAB, frozenset({5, end}), lambda matcher=matcher: matcher)
        row = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
        state.shape(row)
        assert int(row.argmax()) == chosen


def test_extreme_temperatures() -> None:
    states = [SamplingState(SamplingParams(temperature=each), VOCAB) for each in (1e300, 10**30, 1e-5, 0)]
    logits = torch.tensor([[float("-inf"), 30.0, 40.0, *[0.0] * 5]] * 4)
    choice = Sampler(0).choose(logits, states, logprobs=True)
    assert 0 not in choice.token_ids[:2]
    assert choice.token_ids[2:] == [2, 2]
    assert choice.logprobs is not None
    assert not choice.logprobs.isnan().any()


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("last", ["Ã", "<end>"], ids=["length", "end token"])
def test_an_incomplete_character_is_shown_at_the_end(tmp_path: Path, last: str, kept: bool) -> None:
    backend = FastTokenizer(BPE({"a": 0, "Ã": 1, "<end>": 2}, []))
    backend.decoder = ByteLevel()
    backend.add_special_tokens(["<end>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    params = SamplingParams(max_new_tokens=2 if last == "Ã" else 9, no_stop_trim=kept)
    stream = TextStream(Tokenizer(tmp_path), [0], params)
    request = Request("", [0], params, SamplingState(params, 3, frozenset({2})), stream, lambda _update: None)
    for token in ("a", "Ã", last):
        if request.finish_reason is None:
            request.append(backend.token_to_id(token))
    assert request.finish_reason is not None
    assert stream.text == "a\ufffd"


def service_of(harness: EngineHarness) -> Service:
    no_grammars: Any = None
    facts = harness.runner.facts
    return Service(harness.engine, harness.tokenizer, no_grammars, facts, frozenset(), "", "", "", 64, 40)


async def test_requests_are_admitted_and_answered_without_http(tokenizer: Tokenizer) -> None:
    harness = EngineHarness(tokenizer, post=asyncio.get_running_loop().call_soon_threadsafe)
    service = service_of(harness)
    admission = Admission(ServerArguments(), lambda: service)
    params = {"max_new_tokens": 3, "temperature": 0}
    checked = check_body({"text": ["w1", "w2"], "rid": "r", "sampling_params": params})
    async with admission.submit(service, *checked, received=0.0) as submission:
        assert admission.active == {"r_0": False, "r_1": False}
        answers = await submission.collect()
    assert [answer["output_ids"] for answer in answers] == [[2, 3, 4], [3, 4, 5]]
    assert not admission.active
    admission.close()
    harness.engine.stop()


# --- over HTTP -----------------------------------------------------------------------------------------


class GatedTokenizer(Tokenizer):
    """Tells when it is asked to tokenize, and waits."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked, self.gate = threading.Event(), threading.Event()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        self.asked.set()
        self.gate.wait(10)
        return super().encode(text, add_special_tokens=add_special_tokens)


class HttpServer:
    """The server's routes over an engine harness, in this process."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = GatedTokenizer(tokenizer.folder)
        self.harness = EngineHarness(
            self.tokenizer, max_queued=40, post=asyncio.get_running_loop().call_soon_threadsafe
        )
        self.state = ServerState(ServerArguments(), Metrics())
        self.state.open(service_of(self.harness))
        self.client = TestClient(TestServer(make_app(self.state)))

    async def ask(self) -> asyncio.Task[ClientResponse]:
        """Send a batch of 33 prompts, and return when it is being tokenized."""
        params = {"max_new_tokens": 3, "temperature": 0}
        body = {"text": ["w1"] * 33, "rid": "early", "sampling_params": params}
        asked = asyncio.create_task(self.client.post("/generate", json=body))
        await asyncio.to_thread(self.tokenizer.asked.wait, 10)
        return asked


@pytest.fixture
async def http_server(tokenizer: Tokenizer) -> AsyncIterator[HttpServer]:
    http_server = HttpServer(tokenizer)
    async with http_server.client:
        yield http_server
    http_server.tokenizer.gate.set()
    http_server.harness.engine.stop()
    http_server.state.admission.close()


@pytest.mark.parametrize("abort", [{"rid": "early_32"}, {"abort_all": True}], ids=["one", "all"])
async def test_an_abort_reaches_requests_that_are_being_tokenized(
    http_server: HttpServer, abort: dict[str, Any]
) -> None:
    asked = await http_server.ask()
    doubled = await http_server.client.post("/generate", json={"text": "w1", "rid": "early_5"})
    assert doubled.status == 400
    assert "Duplicate request ID detected: early_5" in await doubled.text()
    assert (await http_server.client.post("/abort_request", json=abort)).status == 200
    http_server.tokenizer.gate.set()
    answers = await (await asked).json()
    kinds = [answer["meta_info"]["finish_reason"]["type"] for answer in answers]
    assert kinds == (["abort"] * 33 if "abort_all" in abort else ["length"] * 32 + ["abort"])
    assert answers[-1]["output_ids"] == []
    assert not http_server.state.admission.active


async def test_a_request_that_is_tokenized_while_the_server_stops_gets_503(http_server: HttpServer) -> None:
    asked = await http_server.ask()
    http_server.state.stopping = True
    http_server.harness.engine.stop()
    http_server.tokenizer.gate.set()
    answer = await asyncio.wait_for(asked, 10)
    assert answer.status == 503
    assert "The server shuts down." in await answer.text()
    assert (await http_server.client.post("/generate", json={"text": "w1"})).status == 503


async def test_a_client_keeps_the_text_before_a_number_that_is_not_finite(http_server: HttpServer) -> None:
    http_server.tokenizer.gate.set()
    http_server.harness.runner.broken = {4: math.nan}
    url = str(http_server.client.make_url("")).rstrip("/")
    async with AsyncRuntimeEndpoint(url) as endpoint:
        stream = await endpoint.stream("w1", temperature=0, max_new_tokens=9)
        with pytest.raises(GenerationAbortedError, match=r"not finite \(NaN") as streamed:
            async for _ in stream:
                pass
        assert streamed.value.status == 500
        assert streamed.value.text.split() == ["w2", "w3", "w4"]
        with pytest.raises(ServerFailureError, match=r"not finite \(NaN"):
            await endpoint.complete("w1", temperature=0, max_new_tokens=9)
