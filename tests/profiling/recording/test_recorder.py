"""Recording a profile, against a scripted server: what it asks, what it notes, and how it ends."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import itertools
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest
from support.fake_engine import await_true
from support.leftovers import nothing_left_behind
from support.scripted_server import (
    CUT,
    KEY,
    WORDS,
    Asked,
    Reply,
    ScriptedServer,
    Wait,
    answer,
    cumulative,
    endless,
    stream,
)

from nbruntime import errors
from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint
from nbruntime.profiling.profile import Profile
from nbruntime.profiling.recording import clock, server_samples
from nbruntime.profiling.recording import recorder as recorder_module
from nbruntime.profiling.recording.recorder import Recorder
from nbruntime.protocol.step_log import Step, StepLog


class ProfiledServer(ScriptedServer):
    """Answers prompts, has a profiler like SGLang's, a load, and on demand a step log."""

    def __init__(self) -> None:
        super().__init__()
        self.profiling: dict[str, Any] | None = None
        self.steps: list[Step] = []
        self.clock_ahead = 0.0
        self.on("/generate", self.generate)
        self.on("/v1/loads", lambda _: Reply(json={"loads": [{"num_running_reqs": 2}]}))
        self.on("/start_profile", self.start_profile)
        self.on("/stop_profile", self.stop_profile)

    def generate(self, asked: Asked) -> Reply:
        if asked.json.get("stream"):
            return stream(*cumulative(WORDS, asked.json["rid"]))
        return Reply(json=answer("Once upon", id=asked.json["rid"], num_retractions=1, queue_time=0.25))

    def start_profile(self, asked: Asked) -> Reply:
        if self.profiling is not None:
            return Reply(body=b"Internal Server Error", status=500)
        self.profiling = asked.json or {}
        return Reply(body=b"Start profiling.\n")

    def stop_profile(self, _: Asked) -> Reply:
        options, self.profiling = self.profiling, None
        if options is None:
            return Reply(body=b"Internal Server Error", status=500)
        if folder := options.get("output_dir"):
            name = f"{options['profile_id']}-TP-0.trace.json.gz"
            Path(folder, name).write_bytes(gzip.compress(b'{"traceEvents": []}'))
        return Reply(body=b"Stop profiling.\n")

    def keep_steps(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.on("/step_log", self.step_log)

    def step_log(self, asked: Asked) -> Reply:
        name, _, value = asked.path.partition("?")[2].partition("=")
        after = float(value)
        wanted = [s for s in self.steps if (s.number > after if name == "after" else s.end >= after)]
        log = StepLog(time.time() + self.clock_ahead, 0, wanted[:2], more=len(wanted) > 2)
        return Reply(body=msgspec.json.encode(log))


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture
def server() -> Iterator[ProfiledServer]:
    with ProfiledServer() as running:
        yield running


def statuses(profile: Profile) -> list[str]:
    return [request.status for request in profile.requests]


def test_requests_and_load(server: ProfiledServer, endpoint: RuntimeEndpoint) -> None:
    endpoint.complete("before")
    began = time.time()
    with endpoint.profile(interval=0.02) as profile:
        endpoint.complete("x", rid="whole")
        assert [request.rid for request in profile.requests] == ["whole"], "it fills while it runs"
        threads = [threading.Thread(target=endpoint.stream("y").result) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        await_true(lambda: len(profile.samples) >= 2)
        assert profile.ended is None
    endpoint.complete("after")
    assert statuses(profile) == ["finished"] * 4
    whole, *streamed = profile.requests
    assert began <= profile.started <= whole.sent <= whole.ended <= (profile.ended or 0) <= time.time()
    assert (whole.prompt_tokens, whole.completion_tokens, whole.finish) == (5, 2, "stop")
    assert (whole.retractions, whole.server_times["queue_time"]) == (1, 0.25)
    for request in streamed:
        assert sum(count for _, count in request.arrivals) == request.completion_tokens == 4
        assert 0 < request.arrivals[0][0] <= request.e2e
    assert [request.sent for request in profile.requests] == sorted(r.sent for r in profile.requests)
    assert {sample.load.num_running_reqs for sample in profile.samples} == {2}
    assert (profile.server, profile.model, profile.error) == (server.url, "scripted-model", "")
    assert (profile.clock_offset, profile.steps, profile.notes, profile.trace_files) == (0.0, [], [], [])
    assert server.to("/start_profile") == []


async def test_tasks_of_an_async_client(server: ProfiledServer, endpoint: RuntimeEndpoint) -> None:
    client = AsyncRuntimeEndpoint(server.url)
    async with client.profile(trace=True) as profile:
        await asyncio.gather(*(client.complete("x") for _ in range(3)))
        async with await client.stream("y") as running:
            async for _ in running:
                pass
    await client.close()
    assert statuses(profile) == ["finished"] * 4
    assert (profile.model, server.profiling) == ("scripted-model", None)
    async with AsyncRuntimeEndpoint.beside(endpoint) as beside, beside.profile() as shared:
        await beside.complete("x")
        await asyncio.to_thread(endpoint.complete, "y")
    assert statuses(shared) == ["finished"] * 2


def test_running_requests_and_nested_profiles(server: ProfiledServer, endpoint: RuntimeEndpoint) -> None:
    endpoint.complete("x")
    server.on("/generate", endless())
    with endpoint.profile() as outer:
        early = endpoint.stream("x", rid="early")
        next(early)
        with endpoint.profile() as inner:
            late = endpoint.stream("y", rid="late")
            next(late)
            early.close()
    late.close()
    assert [(each.rid, each.status) for each in outer.requests] == [("early", "stopped"), ("late", "running")]
    assert [(each.rid, each.status) for each in inner.requests] == [("late", "running")]
    assert [len(each.arrivals) for each in outer.requests] == [1, 1]
    assert endpoint.observers._observers == ()


def test_steps_by_the_clients_clock(
    server: ProfiledServer, endpoint: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "ESTIMATE_SECONDS", math.inf)  # one slow answer is not the only one
    server.clock_ahead = 100.0
    server.keep_steps()
    with endpoint.profile(interval=0.01) as profile:
        # Well within the profile, whatever is wrong with the estimate of the clock.
        began = time.time() + server.clock_ahead - 1
        server.steps = [Step("DECODE", began + n / 1e6, 60.0, 1, 1, n) for n in range(8)]
        server.steps.append(Step("DECODE", began + 999, 0.001, 1, 1, 8))
        await_true(lambda: len(profile.steps) >= 8)
    assert profile.clock_offset == pytest.approx(100.0, abs=0.5)
    assert profile.steps_from == "step log"
    assert [step.number for step in profile.steps] == list(range(8)), "what began later is left out"
    assert abs(profile.steps[0].start - (began - 100.0)) < 0.5
    assert profile.notes == []


def test_options_by_sglangs_names(server: ProfiledServer, endpoint: RuntimeEndpoint, tmp_path: Path) -> None:
    with endpoint.profile(
        trace=True, output_dir=str(tmp_path), activities=("CPU",), with_stack=True
    ) as profile:
        body = server.profiling
        assert body is not None
        endpoint.complete("x")
    assert body == {
        "num_steps": 100,
        "with_stack": True,
        "record_shapes": False,
        "profile_id": body["profile_id"],
        "output_dir": str(tmp_path),
        "activities": ["CPU"],
    }
    assert profile.trace_files == [str(tmp_path / f"{body['profile_id']}-TP-0.trace.json.gz")]
    assert profile.notes == []
    parameters = inspect.signature(endpoint.profile).parameters
    assert {"interval", "trace", "trace_seconds", "num_steps", "merge_profiles"} <= parameters.keys()


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"steps": 5}, "Did you mean 'num_steps'?"),
        ({"intervall": 5}, "Did you mean 'interval'?"),
        ({"num_steps": 5}, "Add trace=True"),
        ({"trace": True, "num_steps": "5"}, "give a value of that type"),
        ({"trace": True, "activities": ["TPU"]}, "There are: CPU, GPU"),
        ({"interval": 0}, "Give 0.01 or more."),
        ({"max_requests": "many"}, "Give a number."),
    ],
)
def test_wrong_options(
    server: ProfiledServer, endpoint: RuntimeEndpoint, options: dict[str, Any], hint: str
) -> None:
    asked = len(server.asked)
    with pytest.raises(errors.ArgumentError) as caught:
        endpoint.profile(**options)
    assert hint in str(caught.value)
    assert len(server.asked) == asked


def test_a_profiler_that_runs_already(server: ProfiledServer, endpoint: RuntimeEndpoint) -> None:
    endpoint.start_profile()
    recording = endpoint.profile(trace=True)
    with pytest.raises(errors.ServerFailureError, match="did not start its profiler") as caught, recording:
        raise AssertionError
    assert "endpoint.stop_profile()" in str(caught.value)
    assert server.to("/stop_profile") == []
    assert endpoint.observers._observers == ()
    with pytest.raises(errors.ArgumentError, match="recorded already"):
        recording.start()


def test_the_server_says_why_there_is_no_trace(
    server: ProfiledServer, endpoint: RuntimeEndpoint, tmp_path: Path
) -> None:
    refusal = Reply(body=b"Internal Server Error: [Errno 28] No space left on device\n", status=500)
    with endpoint.profile(trace=True, output_dir=str(tmp_path)) as profile:
        server.on("/stop_profile", refusal)
    assert profile.notes[0] == "The server could not end its trace: [Errno 28] No space left on device."
    server.on("/start_profile", refusal)
    with pytest.raises(errors.ServerFailureError, match=r"its profiler: \[Errno 28\] No space left"):
        Recorder(endpoint, trace=True).start()


@pytest.mark.parametrize("error", [ValueError("wrong\nat all"), KeyboardInterrupt()])
def test_an_exception_keeps_what_there_is(
    server: ProfiledServer, endpoint: RuntimeEndpoint, error: BaseException
) -> None:
    profiles = []

    def work() -> None:
        with endpoint.profile(trace=True) as profile:
            profiles.append(profile)
            endpoint.complete("x")
            raise error

    with pytest.raises(type(error)):
        work()
    (profile,) = profiles
    assert server.profiling is None
    assert statuses(profile) == ["finished"]
    is_interrupt = isinstance(error, KeyboardInterrupt)
    assert profile.error == ("KeyboardInterrupt" if is_interrupt else "ValueError: wrong")
    assert profile.ended is not None


def test_interrupts_of_start_and_stop(
    server: ProfiledServer, endpoint: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt while the caller waits: the recorder's own thread does the rest."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    recorder = Recorder(endpoint, trace=True)
    with monkeypatch.context() as patch:
        patch.setattr(recorder._ready, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            recorder.start()
    recorder._done.result(20)
    assert len(server.to("/stop_profile")) == 1
    assert server.profiling is None
    recorder = Recorder(endpoint, trace=True)
    profile = recorder.start()
    endpoint.complete("x")
    slow = Wait()
    server.on("/stop_profile", lambda _: Reply(pieces=[slow]))
    with monkeypatch.context() as patch:
        patch.setattr(recorder._done, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            recorder.stop()
    assert (profile.error, statuses(profile)) == ("KeyboardInterrupt", ["finished"])
    assert slow.reached.wait(10)
    assert any("interrupted" in note for note in profile.notes)
    slow.go.set()
    assert recorder.stop() is profile


def test_an_interrupt_at_any_line_ends_the_recording(
    server: ProfiledServer, endpoint: RuntimeEndpoint, tmp_path: Path
) -> None:
    """At each line of the recorder that the caller runs, in turn, but those before the first `try`."""

    def interrupted_at(number: int) -> bool:
        lines = itertools.count(1)

        def trace(frame: FrameType, event: str, _: object) -> Any:
            if frame.f_code.co_filename != inspect.getfile(Recorder):
                return None
            return first_line if frame.f_code.co_name in ("stop", "__exit__") else any_line

        def first_line(frame: FrameType, event: str, _: object) -> Any:
            return any_line

        def any_line(frame: FrameType, event: str, _: object) -> Any:
            if event == "line" and frame.f_code.co_name != "__exit__" and next(lines) == number:
                raise KeyboardInterrupt
            return any_line

        recorder, before = Recorder(endpoint, trace=True, output_dir=str(tmp_path)), sys.gettrace()
        sys.settrace(trace)
        try:
            with recorder:
                endpoint.complete("x")
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
            if recorder._thread is not None and recorder._thread.ident is not None:
                recorder._thread.join(20)
                assert not recorder._thread.is_alive(), f"line {number}"
        return False

    number = 1
    while interrupted_at(number):
        assert server.profiling is None
        assert not endpoint.observers._observers
        number += 1
    assert number > 10


def test_a_forked_process_leaves_the_recording_alone(
    server: ProfiledServer, endpoint: RuntimeEndpoint, tmp_path: Path
) -> None:
    recorder = Recorder(endpoint, trace=True, output_dir=str(tmp_path))
    with recorder as profile:
        child = os.fork()
        if child == 0:
            recorder.stop()
            os._exit(0)
        try:
            await_true(lambda: os.waitpid(child, os.WNOHANG)[0] == child)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        assert server.profiling is not None
        endpoint.complete("x")
    assert statuses(profile) == ["finished"]
    assert server.profiling is None


async def test_a_cancelled_task(server: ProfiledServer) -> None:
    client = AsyncRuntimeEndpoint(server.url)
    inside = asyncio.Event()
    profiles = []

    async def work() -> None:
        async with client.profile(trace=True) as profile:
            profiles.append(profile)
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await client.close()
    assert server.profiling is None
    assert (profiles[0].error, profiles[0].ended is not None) == ("CancelledError", True)


def test_bounds_of_a_trace(server: ProfiledServer, endpoint: RuntimeEndpoint, tmp_path: Path) -> None:
    with endpoint.profile(trace=True, trace_seconds=0.1, output_dir=str(tmp_path)) as profile:
        server.wait_for("/stop_profile")
        endpoint.complete("after the trace")
    assert profile.notes == ["The trace ends after 0.1 s; trace_seconds=... changes that."]
    assert statuses(profile) == ["finished"]
    with endpoint.profile(trace=True, num_steps=7, output_dir=str(tmp_path)) as profile:
        server.stop_profile(server.asked[0])  # by itself
    assert profile.notes == ["The trace holds at most 7 steps; num_steps=... changes that."]
    assert len(profile.trace_files) == 1


def test_bounds_of_requests_and_samples(server: ProfiledServer, endpoint: RuntimeEndpoint) -> None:
    with endpoint.profile(interval=0.01, max_requests=2, max_samples=8) as profile:
        for _ in range(5):
            endpoint.complete("x")
        await_true(lambda: any("apart" in note for note in profile.notes))
    assert len(profile.requests) == 2
    assert len(profile.samples) <= 8
    assert profile.notes[-1] == (
        "More than 2 requests were made, and 3 of them left out; max_requests=... keeps more."
    )
    apart = [note for note in profile.notes if note.startswith("Samples are ")]
    assert len(apart) == 1
    assert apart[0].endswith("to keep at most 8 of them; max_samples=... keeps more.")


def test_bounds_of_steps(
    server: ProfiledServer, endpoint: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_samples, "MOST_STEPS", 4)
    now = time.time() + 60
    server.keep_steps(*(Step("DECODE", now - 60, 61, 1, 1, n) for n in range(9)))
    with endpoint.profile(interval=0.01) as profile:
        pass
    assert len(profile.steps) == 4
    assert profile.notes == ["Only the server's first 4 steps are kept."]


def test_a_server_that_dies(server: ProfiledServer, endpoint: RuntimeEndpoint, tmp_path: Path) -> None:
    with endpoint.profile(interval=0.01, trace=True, output_dir=str(tmp_path)) as profile:
        endpoint.complete("x")
        await_true(lambda: bool(profile.samples))
        for path in ("/generate", "/v1/loads", "/model_info", "/metrics", "/stop_profile", "/step_log"):
            server.on(path, lambda _: Reply(pieces=[CUT], raw=True))
        with pytest.raises(errors.ServerConnectionError):
            endpoint.complete("y")
        await_true(lambda: bool(profile.notes))
    assert statuses(profile) == ["finished", "failed"]
    assert profile.requests[1].error.startswith("ServerConnectionError: ")
    first, *others = profile.notes
    assert first.startswith("The server's load could not be read at ")
    assert any(note.startswith("The server did not confirm the end of its trace") for note in others)
    assert any(note.startswith(f"No trace was found in {tmp_path}") for note in others)
    assert profile.ended is not None


def test_a_remote_server(
    server: ProfiledServer, endpoint: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(type(endpoint.settings), "local", False)
    for folder in (None, str(tmp_path)):
        with endpoint.profile(trace=True, output_dir=folder) as profile:
            assert server.profiling is not None
            name, sent = server.profiling["profile_id"], server.profiling.get("output_dir")
        assert sent == folder
        assert profile.trace_files == ([] if folder is None else [f"{tmp_path}/*{name}*.trace.json*"])
        clock, where = profile.notes
        assert "does not tell its time" in clock
        assert name in where
        assert (folder or "/tmp") in where
        assert "profile.load_trace(path)" in where


def test_metrics(server: ProfiledServer, endpoint: RuntimeEndpoint) -> None:
    counts = {"seen": 1.0}

    def metrics(_: Asked) -> Reply:
        name = "sglang:time_to_first_token_seconds_bucket"
        return Reply(
            body=f'{name}{{le="0.1"}} {counts["seen"]}\n{name}{{le="+Inf"}} {counts["seen"]}\n'.encode()
        )

    server.on("/metrics", metrics)
    with endpoint.profile() as profile:
        await_true(lambda: bool(profile.samples) and len(server.to("/metrics")) > 0)
        counts["seen"] = 4.0
    assert profile.latencies["time_to_first_token_seconds"].total == 3.0
    assert len(server.to("/metrics")) == 2, "80 kB each: at the begin and at the end"


def test_an_endless_interval_takes_the_first_and_last_sample(endpoint: RuntimeEndpoint) -> None:
    with endpoint.profile(interval=float("inf")) as profile:
        time.sleep(0.05)  # the recorder waits
    assert len(profile.samples) == 2


def test_the_key_is_not_in_the_error(server: ProfiledServer, tmp_path: Path) -> None:
    with RuntimeEndpoint(server.url, api_key=KEY) as endpoint:
        recorder = Recorder(endpoint)
        with pytest.raises(ValueError, match="bad"), recorder:
            raise ValueError(f"{KEY} is bad")
    profile = recorder.profile
    assert profile.error == "ValueError: *** is bad"
    assert KEY not in profile.save(tmp_path / "p.json").read_text()


def test_a_silent_server_is_not_waited_for_as_long_as_one_that_writes_traces(
    server: ProfiledServer, endpoint: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recorder_module, "SAMPLE_SECONDS", 0.2)
    monkeypatch.setattr(recorder_module, "SILENT_STOP_SECONDS", 0.2)
    silent = Wait()
    with endpoint.profile(trace=True, output_dir=str(tmp_path)) as profile:
        for path in ("/v1/loads", "/stop_profile"):
            server.on(path, lambda _: Reply(pieces=[silent]))
    assert not silent.go.is_set()
    silent.go.set()
    assert "The server did not confirm the end of its trace: No answer in time." in profile.notes


def test_an_error_page_makes_a_short_note(server: ProfiledServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/v1/loads", lambda _: Reply(body=b"<html>\n<body>\n" + b"long " * 200, status=503))
    with endpoint.profile() as profile:
        pass
    (note,) = profile.notes
    assert "\n" not in note
    assert len(note) < 300


def test_a_recorder_is_started_once(endpoint: RuntimeEndpoint) -> None:
    recorder = Recorder(endpoint)
    with pytest.raises(errors.ArgumentError, match="was not started"):
        recorder.stop()
    assert not recorder.running
    profile = recorder.start()
    assert recorder.running
    assert recorder.stop() is recorder.stop() is profile
    assert not recorder.running
    assert json.loads(json.dumps(profile.to_dict()))["requests"] == []


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 10**400], ids=["nan", "inf", "huge"])
def test_nonsense_of_a_server_is_no_error(
    server: ProfiledServer, endpoint: RuntimeEndpoint, wrong: float
) -> None:
    nonsense = {"prompt_tokens": wrong, "completion_tokens": 1, "queue_time": wrong, "forward_entry_time": 5}
    server.on("/generate", Reply(body=json.dumps(answer("Hi", [7], id="r", **nonsense)).encode()))
    with endpoint.profile() as profile:
        endpoint.complete("x")
    (record,) = profile.requests
    assert record.prompt_tokens == 0
    assert (record.server_times.get("queue_time"), record.server_times["forward_entry_time"]) == (None, 5.0)
    assert record.completion_tokens == 1
