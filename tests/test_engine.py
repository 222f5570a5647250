"""The engine's thread: what fails in it ends those whom it concerns, and nobody waits for ever."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordLevel
from torch import Tensor

from nbruntime.embedded.cache.token_cache import TokenCache
from nbruntime.embedded.engine.engine import QUEUE_FULL, Engine
from nbruntime.embedded.engine.request import Request, Update
from nbruntime.embedded.engine.scheduler import Scheduler
from nbruntime.embedded.runner.batch import ForwardBatch, ModelFacts
from nbruntime.embedded.sampling.sampler import Sampler, SamplingState
from nbruntime.embedded.text.stream import TextStream
from nbruntime.embedded.text.tokenizer import Tokenizer
from nbruntime.protocol.sampling import SamplingParams

VOCAB = 8


class CountingRunner:
    """A model that answers each token with the next one; token 7 breaks it."""

    facts = ModelFacts((), "counting", VOCAB, 64, frozenset(), 1, 1, 1, "float32", 0, 8)

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def allocate_cache(self, num_slots: int) -> None: ...

    def forward(self, batch: ForwardBatch) -> Tensor:
        self.gate.wait(10)
        read = batch.input_ids[batch.logit_rows]
        if (batch.input_ids == 7).any():
            raise RuntimeError("the model cannot read 7")
        return torch.nn.functional.one_hot((read + 1) % 7, VOCAB).float()

    def embed(self, batch: ForwardBatch) -> Tensor:
        return torch.ones(len(batch.logit_rows), 2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    words = {f"w{number}": number for number in range(VOCAB)}
    FastTokenizer(WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    return Tokenizer(folder)


class Bench:
    def __init__(self, tokenizer: Tokenizer, *, max_queued: int = 10, max_running: int = 4) -> None:
        self.tokenizer = tokenizer
        self.runner = CountingRunner()
        self.ended = threading.Event()
        scheduler = Scheduler(TokenCache(64), max_running=max_running, chunk=16)
        self.engine = Engine(
            self.runner,
            scheduler,
            Sampler(0),
            max_queued=max_queued,
            post=lambda function: function(),
            on_end=self.ended.set,
        )
        self.engine.start()

    def submit(self, prompt: list[int], new: int = 3, *, rid: str = "") -> queue.SimpleQueue[Update]:
        updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        params = SamplingParams(max_new_tokens=new, temperature=0)
        request = Request(
            rid=rid,
            prompt_ids=prompt,
            params=params,
            sampling=SamplingState(params, VOCAB),
            stream=TextStream(self.tokenizer, prompt, params),
            deliver=updates.put,
        )
        self.engine.submit([request])
        return updates


@pytest.fixture
def bench(tokenizer: Tokenizer) -> Iterator[Bench]:
    bench = Bench(tokenizer)
    yield bench
    bench.runner.gate.set()
    bench.engine.stop()


def reason(update: Update) -> dict[str, object]:
    assert update.finish_reason is not None
    return update.finish_reason


def test_an_answer(bench: Bench) -> None:
    update = bench.submit([1, 2], 4).get(timeout=10)
    assert update.token_ids == [3, 4, 5, 6]
    assert update.text.split() == ["w3", "w4", "w5", "w6"]
    assert reason(update) == {"type": "length", "length": 4}


def test_a_step_that_fails_ends_its_requests_and_no_other(bench: Bench) -> None:
    broken = bench.submit([1, 7]).get(timeout=10)
    assert reason(broken)["type"] == "abort"
    assert reason(broken)["status_code"] == 500
    assert "cannot read 7" in str(reason(broken)["message"])
    assert bench.submit([1, 2]).get(timeout=10).token_ids == [3, 4, 5]
    assert bench.engine.call(bench.engine.flush_cache).result(10)
    assert bench.engine.call(lambda: bench.engine.scheduler.cache.pool.free).result(10) == 64


def test_beyond_the_queue_s_limit_a_request_is_refused(tokenizer: Tokenizer) -> None:
    bench = Bench(tokenizer, max_queued=2, max_running=1)
    bench.runner.gate.clear()
    first = bench.submit([1])
    while not bench.engine.scheduler.extending:
        pass  # until the first has left the queue
    waiting = [bench.submit([number]) for number in (2, 3, 4)]
    bench.runner.gate.set()
    results = [updates.get(timeout=10) for updates in (first, *waiting)]
    assert [reason(result)["type"] for result in results] == ["length", "length", "length", "abort"]
    assert reason(results[-1])["message"] == QUEUE_FULL
    assert reason(results[-1])["status_code"] == 503
    bench.engine.stop()


def test_abort_by_prefix_keeps_what_has_come(bench: Bench) -> None:
    aborted, other = bench.submit([1], 50, rid="a-1"), bench.submit([2], 5, rid="b-1")
    bench.engine.abort("a-")
    assert reason(aborted.get(timeout=10))["type"] == "abort"
    assert reason(other.get(timeout=10))["type"] == "length"


def test_stopping_ends_whoever_still_waits(tokenizer: Tokenizer) -> None:
    bench = Bench(tokenizer, max_running=1)
    bench.runner.gate.clear()
    updates = [bench.submit([number], 40) for number in range(1, 4)]
    stopper = threading.Thread(target=bench.engine.stop)
    stopper.start()
    bench.runner.gate.set()
    stopper.join(10)
    assert not stopper.is_alive()
    assert {reason(each.get(timeout=10))["status_code"] for each in updates} == {503}
    assert bench.ended.is_set()
    assert not bench.engine.failed


def test_a_failure_of_the_engine_itself_is_told_and_leaves_nobody_waiting(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tokenizer)

    def broken() -> None:
        raise AssertionError("a slot is lost")

    monkeypatch.setattr(bench.engine.scheduler, "next_step", broken)
    update = bench.submit([1]).get(timeout=10)
    assert reason(update)["status_code"] == 503
    assert bench.ended.wait(10)
    assert bench.engine.failed
    assert not bench.engine.alive


def test_what_a_call_raises_goes_to_the_caller(bench: Bench) -> None:
    with pytest.raises(ZeroDivisionError):
        bench.engine.call(lambda: 1 // 0).result(10)
    assert bench.submit([1]).get(timeout=10).token_ids == [2, 3, 4]
