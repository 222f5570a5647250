"""Explains the time of one answer, by what its client and its server have measured.

Client and server may have different clocks: only differences of times of the same clock are used, and what
the server does not account for is client and network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nbruntime.generation.answer_times import AnswerTimes
from nbruntime.generation.explanation import Explanation, ExplanationSource, Part, in_order
from nbruntime.generation.step_slices import slices_by_steps
from nbruntime.generation.time_slices import Slice, before_forward, merged, shorten, sums
from nbruntime.protocol.step_log import Step

NO_TIMES = (
    "The server sends no times of queue and prefill. "
    "SGLang sends them if it is started with enable_metrics=True (--enable-metrics)."
)
NO_CLIENT_TIME = "Client and network are not known: the answer has no times of its client."
RUNNING = "It is still running."
NOT_IN_STEPS = "The server's steps do not hold all of this answer, so what other requests did is not known."
RETRACTED = "It was put back into the queue {}, which is not told from decoding here."
WITH_CLIENT = "Client and network are in the part that cannot be divided."
WITH_SIBLINGS = "The wait for the {} of its batch counts as client and network."

_RESOLUTION = 1e-6
"""Seconds; a float that holds a Unix time has steps of a quarter of it."""

_SIBLING_WAIT = 0.001
"""Seconds above which a finished answer has waited for the others of its request."""


def explain(answer: AnswerTimes, steps: Sequence[Step] = (), notes: Sequence[str] = ()) -> Explanation:
    """Divide the time of an answer.

    Parameters
    ----------
    answer : AnswerTimes
        What client and server have measured.
    steps : sequence of Step
        The server's steps during that time, in their order, by any clock.
    notes : sequence of str
        What the caller knows to be missing.

    Examples
    --------
    >>> times = {"request_received_ts": 50.0, "queue_time": 0.2, "forward_entry_time": 50.2,
    ...          "prefill_finished_time": 50.5, "request_finished_ts": 51.5}
    >>> known = AnswerTimes("r", total=2.0, server_times=times, prompt_tokens=90, completion_tokens=11)
    >>> [(part.kind, round(part.seconds, 3)) for part in explain(known).parts]
    [('client', 0.5), ('queue', 0.2), ('prefill', 0.3), ('decode', 1.0)]
    """
    told = list(notes)
    latency = answer.time("e2e_latency")
    total = latency if answer.total is None else answer.total
    if total is None:
        return Explanation((), 0.0, "", (*told, NO_CLIENT_TIME if answer.ttft is None else RUNNING))
    source, slices = _server_slices(answer, total, steps, told)
    if answer.total is None:
        told.append(NO_CLIENT_TIME)
    slices = shorten(slices, total)
    parts = sums(slices, answer)
    rest = total - sum(part.seconds for part in parts)
    if rest > 0:
        held = min(_held_back(answer), rest)
        waited = held if answer.siblings and held > _SIBLING_WAIT else 0.0
        parts += [Part("siblings", waited), Part("server", held - waited), Part("client", rest - held)]
        if answer.siblings and not waited and rest > 0.05 * total:
            others = "other answer" if answer.siblings == 1 else f"{answer.siblings} other answers"
            told.append(WITH_SIBLINGS.format(others))
    return Explanation(in_order(_without_residues(merged(parts))), total, source, tuple(told))


def _server_slices(
    answer: AnswerTimes, total: float, steps: Sequence[Step], told: list[str]
) -> tuple[ExplanationSource, list[Slice]]:
    """Divide the time on the server as exactly as possible, and tell what is not known."""
    if steps:
        exact = slices_by_steps(answer, steps)
        if exact is not None:
            return "step log", exact
        told.append(NOT_IN_STEPS)
    slices = _slices_by_times(answer, told)
    if slices is not None:
        return "server times", slices
    told.append(NO_TIMES)
    return "client", _slices_by_client(answer, total, told)


def _slices_by_times(answer: AnswerTimes, told: list[str]) -> list[Slice] | None:
    """Divide by the server's own times; None if it sent none."""
    entered, prefilled, computing = answer.entered, answer.prefilled, answer.computing
    if entered is None:
        return _slices_of_a_queued_one(answer)
    if computing is None:
        return None
    if answer.ended_in_prefill:
        prefilled = entered + computing
    if prefilled is None:
        return None
    prefill = min(max(prefilled - entered, 0.0), computing)
    slices = [*before_forward(answer), Slice("prefill", prefill)]
    rest = computing - prefill
    if answer.retractions:
        # SGLang's time in the queue holds all waits, also those after a retraction.
        again = min(max(answer.queue_time - sum(each.seconds for each in slices[:-1]), 0.0), rest)
        slices.append(Slice("retraction", again))
        rest -= again
        if again < _RESOLUTION:
            times = "once" if answer.retractions == 1 else f"{answer.retractions} times"
            told.append(RETRACTED.format(times))
    # Without a second token the rest is the way of the first one through the server.
    slices.append(Slice("decode" if answer.decoded_tokens else "server", rest))
    return slices


def _slices_of_a_queued_one(answer: AnswerTimes) -> list[Slice] | None:
    received, finished = answer.received, answer.finished
    if received is None or finished is None or answer.completion_tokens:
        return None
    return [Slice("queue", max(finished - received, 0.0))]


def _slices_by_client(answer: AnswerTimes, total: float, told: list[str]) -> list[Slice]:
    """Divide by the times of the client, and by the server's latency if it is known."""
    latency = answer.time("e2e_latency")
    outside = 0.0 if latency is None else max(total - latency, 0.0)
    if latency is None:
        told.append(WITH_CLIENT)
    if answer.ttft is None or answer.total is None or not answer.decoded_tokens:
        return [Slice("all", total - outside)]
    return [Slice("first", max(answer.ttft - outside, 0.0)), Slice("decode", answer.total - answer.ttft)]


def _without_residues(parts: list[Part]) -> list[Part]:
    """Give what is below the resolution of Unix times to the largest part."""
    largest = max(parts, key=lambda part: part.seconds, default=None)
    kept = [part for part in parts if part is not largest and part.seconds >= _RESOLUTION]
    if largest is None:
        return kept
    small = sum(part.seconds for part in parts if part is not largest and part.seconds < _RESOLUTION)
    return [*kept, replace(largest, seconds=largest.seconds + small)]


def _held_back(answer: AnswerTimes) -> float:
    """Return the seconds for which the server kept a finished answer, or the client its request open."""
    if answer.ttft is not None:
        return answer.after_last if answer.siblings else 0.0
    sent, finished = answer.time("response_sent_to_client_ts"), answer.finished
    return 0.0 if sent is None or finished is None else max(sent - finished, 0.0)
