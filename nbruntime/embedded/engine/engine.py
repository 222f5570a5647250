"""The thread that owns the model: takes requests, runs steps, delivers updates."""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

import torch
from torch import Tensor

from nbruntime.embedded.clock import now
from nbruntime.embedded.engine.batching import decode_batch, extend_batch
from nbruntime.embedded.engine.profiler import StepProfiler
from nbruntime.embedded.engine.request import Request, Update
from nbruntime.embedded.engine.scheduler import DecodeStep, ExtendStep, Scheduler
from nbruntime.embedded.engine.stats import EngineStats
from nbruntime.embedded.engine.step_log import EngineStepLog
from nbruntime.embedded.runner.protocol import ModelRunner
from nbruntime.embedded.sampling.grammar import GrammarError
from nbruntime.embedded.sampling.sampler import Sampler
from nbruntime.embedded.text.stream import StopRegexTimeout

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Post = Callable[[Callable[[], None]], object]

QUEUE_FULL = "The request queue is full."
SHUTTING_DOWN = "The server shuts down."
NOT_FINITE = (
    "The model computed numbers that are not finite (NaN or infinity). "
    "Its weights may be damaged; if not, start the server with --dtype float32."
)
NOTHING_ALLOWED = "The grammar allows no token of the model's vocabulary."


class Engine:
    """Runs requests on a model, in its own thread.

    That thread alone touches requests, scheduler and cache. Other threads use `submit`, `abort` and `call`,
    which take effect between two steps.

    Parameters
    ----------
    runner, scheduler, sampler
        The model, with its cache allocated; what decides about a step; what chooses tokens.
    max_queued : int
        Number of requests that may wait; further ones are aborted with status 503.
    post : callable
        Runs a function in the thread that receives updates, such as ``loop.call_soon_threadsafe``.
    on_end : callable
        Called by `post` when the engine's thread has ended, by `stop` or by a failure.
    """

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        sampler: Sampler,
        *,
        max_queued: int,
        post: Post,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.runner = runner
        self.scheduler = scheduler
        self.stats = EngineStats()
        self.profiler = StepProfiler()
        self.step_log = EngineStepLog()
        self._sampler = sampler
        self._max_queued = max_queued
        self._post = post
        self._on_end = on_end
        self.failed = False  # True if a failure of the engine itself ended the thread
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Abort all requests and end the thread."""

        def end() -> None:
            self._stopping = True

        self._inbox.put(end)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, requests: list[Request]) -> None:
        """Queue requests."""
        self._inbox.put(lambda: self._enqueue(requests))

    def abort(self, prefix: str | None) -> None:
        """Abort the requests whose id begins with `prefix`, or all; unknown ids are ignored."""

        def abort() -> None:
            for request in self.scheduler.requests():
                if prefix is None or request.rid.startswith(prefix):
                    request.abort()

        self._inbox.put(abort)

    def abort_requests(self, requests: Iterable[Request]) -> None:
        """Abort requests whose client has gone."""

        def abort() -> None:
            for request in requests:
                request.abort()

        self._inbox.put(abort)

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Run a function in the engine's thread between two steps, and give a future of its result."""
        future: Future[Result] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for the future
                future.set_exception(error)

        self._inbox.put(run)
        return future

    def flush_cache(self) -> bool:
        """Remove all cached prefixes and return True; False without effect while requests run. For `call`."""
        if not self.scheduler.idle:
            return False
        self.scheduler.cache.flush()
        return True

    def _enqueue(self, requests: list[Request]) -> None:
        scheduler = self.scheduler
        for request in requests:
            # A request that fits among the running ones does not wait.
            free = scheduler.max_running - len(scheduler.running) - len(scheduler.extending)
            if len(scheduler.waiting) >= free + self._max_queued:
                request.abort(QUEUE_FULL, status=503)
                self._send([request])
            else:
                scheduler.add(request)

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                self._loop()
        except Exception:
            logger.exception("the engine failed")
            self.failed = True
        try:
            self._end()
        finally:
            self._post(self._on_end)  # otherwise the server would run on without an engine

    def _end(self) -> None:
        """Abort all remaining requests, including those submitted during the last step."""
        self._take_in(wait=False)
        for request in self.scheduler.requests():
            request.abort(SHUTTING_DOWN, status=503)
        self._settle(self.scheduler.requests())
        self.profiler.close()

    def _loop(self) -> None:
        while True:
            self._take_in(wait=self.scheduler.idle)
            if self._stopping:
                return
            self._settle(self.scheduler.requests())
            step = self.scheduler.next_step()
            if step is not None:
                self._execute(step)
            elif not self.scheduler.idle:
                stuck = self.scheduler.waiting.peek()
                stuck.abort("The request does not fit into the KV cache.", status=500)
                self._settle([stuck])

    def _take_in(self, *, wait: bool) -> None:
        if wait:
            self.stats.idle()
            self._inbox.get()()
        while True:
            try:
                self._inbox.get_nowait()()
            except queue.Empty:
                return

    def _execute(self, step: ExtendStep | DecodeStep) -> None:
        touched = (
            [part.request for part in step.parts] if isinstance(step, ExtendStep) else list(step.requests)
        )
        try:
            # The profiler's own work, such as writing a trace, is no part of a step.
            with self.profiler.step(step), self.step_log.step(step, self.scheduler):
                if isinstance(step, ExtendStep):
                    self._extend(step)
                else:
                    self._decode(step)
        except Exception as error:
            logger.exception("a step failed; its requests are aborted")
            for request in touched:
                request.abort(f"The step failed: {error}", status=500)
        self._settle(touched)

    def _extend(self, step: ExtendStep) -> None:
        begin = now()
        for part in step.parts:
            part.request.times.forward_entry = part.request.times.forward_entry or begin
        batch, layout = extend_batch(step)
        embedding = step.parts[0].request.embedding
        rows = self.runner.embed(batch) if embedding else self.runner.forward(batch)
        self.scheduler.computed(step)
        self.stats.extended(sum(part.length for part in step.parts), now() - begin)
        finals: list[tuple[Request, Tensor]] = []
        for place in layout:
            request = place.part.request
            if request.logprobs is not None and not request.output_ids and not embedding:
                self._record_prompt(request, rows[place.prompt_rows], place.part.start, place.first)
            if place.final_row is not None:
                request.times.prefill_finished = request.times.prefill_finished or now()
                finals.append((request, rows[place.final_row]))
        if embedding:
            for request, hidden in finals:
                _check_finite(request, hidden)
                request.hidden_state = torch.nn.functional.normalize(hidden, dim=0).tolist()
                request.finish({"type": "length", "length": 0})
            return
        answering = []
        for request, logits in finals:
            if request.params.max_new_tokens == 0:
                _check_finite(request, logits.max())
                if request.logprobs is not None:
                    # The most likely next tokens, as SGLang reports them, without a chosen one.
                    row = torch.log_softmax(logits, dim=-1).unsqueeze(0)
                    request.new_logprobs.add(row, [], request.logprobs)
                request.finish({"type": "length", "length": 0})
            else:
                answering.append((request, logits))
        if answering:
            requests, logit_rows = zip(*answering, strict=True)
            self._choose(list(requests), torch.stack(logit_rows))

    def _decode(self, step: DecodeStep) -> None:
        logits = self.runner.forward(decode_batch(step))
        self.scheduler.computed(step)
        self._choose(list(step.requests), logits)

    def _record_prompt(self, request: Request, logits: Tensor, start: int, first: int) -> None:
        """Record the log-probabilities of prompt tokens that a part has computed."""
        wanted, prompt, record = request.logprobs, request.prompt_ids, request.input_logprobs
        assert wanted is not None
        if start <= wanted.start < len(prompt) and not record.tokens:
            record.add_unknown(prompt[wanted.start])
        if len(logits):
            _check_finite(request, logits.amax(dim=-1))
            tokens = prompt[first : first + len(logits)]
            record.add(torch.log_softmax(logits, dim=-1), tokens, wanted)

    def _choose(self, requests: list[Request], logits: Tensor) -> None:
        """Choose and append the next token of each request."""
        for request, row in zip(requests, logits, strict=True):
            try:
                request.sampling.shape(row)
            except GrammarError as error:
                request.abort(str(error), status=400)
        choice = self._sampler.choose(
            logits,
            [request.sampling for request in requests],
            logprobs=any(request.logprobs is not None for request in requests),
        )
        for row, (request, token_id) in enumerate(zip(requests, choice.token_ids, strict=True)):
            if not math.isfinite(choice.largest[row]):
                if choice.largest[row] < 0 and request.sampling.matcher is not None:
                    request.abort(NOTHING_ALLOWED, status=400)
                request.abort(NOT_FINITE, status=500)  # the first reason counts
            if request.finish_reason is not None:
                continue
            if request.logprobs is not None and choice.logprobs is not None:
                request.new_logprobs.add(choice.logprobs[row : row + 1], [token_id], request.logprobs)
            try:
                request.append(token_id)
            except (GrammarError, StopRegexTimeout) as error:
                request.abort(str(error), status=400)
        self.stats.decoded(len(requests))

    def _settle(self, requests: list[Request]) -> None:
        """Deliver updates and release ended requests."""
        ended = {request for request in requests if request.finish_reason is not None}
        self._send([request for request in requests if request.wants_update()])
        self.scheduler.release(ended)
        for request in ended:
            request.sampling.forget()
            self.stats.finished(request)

    def _send(self, requests: list[Request]) -> None:
        updates = [(request, request.take_update()) for request in requests]
        if updates:
            self._post(lambda: _deliver(updates))


def _check_finite(request: Request, values: Tensor) -> None:
    if not values.isfinite().all():
        request.abort(NOT_FINITE, status=500)


def _deliver(updates: list[tuple[Request, Update]]) -> None:
    for request, update in updates:
        request.deliver(update)
