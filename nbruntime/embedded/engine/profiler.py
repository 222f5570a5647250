"""Traces of the engine's steps by ``torch.profiler``, one span per step.

File names, options and span names follow ``srt/utils/profile_utils.py`` of SGLang 0.5.23, so that tools for
its traces read these.
"""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from nbruntime.embedded.engine.scheduler import DecodeStep, ExtendStep

logger = logging.getLogger(__name__)

DIRECTORY_VARIABLE = "SGLANG_TORCH_PROFILER_DIR"


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """Options of a recording."""

    output_dir: str
    num_steps: int | None = None  # stop after this many steps
    start_step: int | None = None  # first step, counted from the engine's start
    by_stage: bool = False  # one trace for extend steps and one for decode steps
    with_stack: bool = True
    record_shapes: bool = True
    profile_id: str = ""  # part of the file name, as the prefix
    prefix: str = ""


class ProfilerBusy(RuntimeError):
    """A trace is being recorded already, or none is."""


class StepProfiler:
    """Records steps between start and stop. All methods run in the engine's thread."""

    def __init__(self) -> None:
        self._options: ProfileOptions | None = None
        self._profile: profile | None = None
        self._stage = ""
        self._stages_done: set[str] = set()
        self._steps_left: int | None = None
        self._step_count = 0

    @property
    def active(self) -> bool:
        """Whether a trace is being recorded or is about to be."""
        return self._options is not None

    def start(self, options: ProfileOptions) -> None:
        """Record from the next step, or from the options' first step; ProfilerBusy if a trace is active."""
        if self.active:
            raise ProfilerBusy("Profiling is already in progress. Call /stop_profile first.")
        Path(options.output_dir).mkdir(parents=True, exist_ok=True)
        self._options = options
        self._stages_done.clear()

    def stop(self) -> None:
        """End the recording and write its trace; ProfilerBusy if nothing is recorded."""
        if not self.active:
            raise ProfilerBusy("Profiling is not in progress. Call /start_profile first.")
        try:
            self._write()
        finally:
            self._options = None

    def close(self) -> None:
        """End the recording if there is one."""
        if self._profile is not None:
            self._finish()

    @contextmanager
    def step(self, step: ExtendStep | DecodeStep) -> Iterator[None]:
        """Wrap one step of the engine."""
        self._step_count += 1
        options = self._options
        if options is None or self._step_count < (options.start_step or 0):
            yield
            return
        stage = "EXTEND" if isinstance(step, ExtendStep) else "DECODE"
        if self._profile is not None and options.by_stage and stage != self._stage:
            self._finish()  # a stage ends at the first step of the other
        if self._profile is None and not (options.by_stage and stage in self._stages_done):
            self._begin(options, stage if options.by_stage else "")
        with record_function(_span_name(step)):
            yield
        if self._profile is not None and self._steps_left is not None:
            self._steps_left -= 1
            if self._steps_left <= 0:
                self._finish()

    def _begin(self, options: ProfileOptions, stage: str) -> None:
        self._stage = stage
        self._steps_left = options.num_steps
        self._profile = profile(
            activities=[ProfilerActivity.CPU],
            with_stack=options.with_stack,
            record_shapes=options.record_shapes,
        )
        self._profile.start()

    def _finish(self) -> None:
        """Write the trace and wait for the other stage, if it is still to come."""
        options = self._options
        try:
            self._write()
        except OSError:
            logger.exception("the profile could not be written")  # the step's requests must not fail
        self._stages_done.add(self._stage)
        if options is None or not options.by_stage or self._stages_done == {"EXTEND", "DECODE"}:
            self._options = None

    def _write(self) -> None:
        """Write the current trace, if any, and rename it to its final name."""
        recorded, options = self._profile, self._options
        if recorded is None or options is None:
            return
        self._profile = None
        recorded.stop()
        suffix = f"-{self._stage}" if self._stage else ""
        name = f"{options.profile_id}-TP-0{suffix}.trace.json.gz"
        if options.prefix:
            name = f"{options.prefix}-{name}"
        target = Path(options.output_dir) / name
        with tempfile.TemporaryDirectory(dir=options.output_dir, prefix=".trace-") as folder:
            plain = Path(folder) / "trace.json"
            recorded.export_chrome_trace(str(plain))
            packed = Path(folder) / name
            with plain.open("rb") as source, gzip.open(packed, "wb", compresslevel=5) as sink:
                shutil.copyfileobj(source, sink)
            packed.replace(target)
        logger.info("profile written to %s", target)


def profile_options(body: dict[str, Any]) -> ProfileOptions:
    """Read the body of ``/start_profile``; ValueError if a value is wrong."""

    def number(name: str) -> int | None:
        value = body.get(name)
        return None if value is None else int(value)  # SGLang's own tool sends strings

    def flag(name: str, default: bool) -> bool:
        value = body.get(name)
        return default if value is None else bool(value)

    def text(name: str) -> str:
        value = body.get(name) or ""
        if not isinstance(value, str) or "\0" in value:
            raise ValueError(f"{name} must be a text")
        return value

    def part_of_name(name: str) -> str:
        value = text(name)
        if Path(value).name != value:
            raise ValueError(f"{name} must be a part of a file name, not {value!r}")
        return value

    return ProfileOptions(
        output_dir=text("output_dir") or os.environ.get(DIRECTORY_VARIABLE) or tempfile.gettempdir(),
        num_steps=number("num_steps"),
        start_step=number("start_step"),
        by_stage=flag("profile_by_stage", False),
        with_stack=flag("with_stack", True),
        record_shapes=flag("record_shapes", True),
        profile_id=part_of_name("profile_id") or str(time.time()),
        prefix=part_of_name("profile_prefix"),
    )


def _span_name(step: ExtendStep | DecodeStep) -> str:
    if isinstance(step, ExtendStep):
        tokens = sum(part.length for part in step.parts)
        return f"step[EXTEND bs={len(step.parts)} toks={tokens}]"
    return f"step[DECODE bs={len(step.requests)}]"
