"""Traces of the engine's steps, as SGLang writes them: ``torch.profiler``, one span per step.

File names, options and span names follow ``srt/utils/profile_utils.py`` of SGLang 0.5.23, so that what reads
its traces reads these.
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
    """What to record.

    Parameters
    ----------
    output_dir : str
        Folder of the traces, on the server's disk.
    num_steps : int or None
        Stop by itself after so many steps.
    start_step : int or None
        Begin at this step of the engine, counted from its start.
    by_stage : bool
        One trace for extend steps and one for decode steps.
    with_stack, record_shapes : bool
        Record Python stacks and shapes of tensors.
    profile_id, prefix : str
        Parts of the file name.
    """

    output_dir: str
    num_steps: int | None = None
    start_step: int | None = None
    by_stage: bool = False
    with_stack: bool = True
    record_shapes: bool = True
    profile_id: str = ""
    prefix: str = ""


class ProfilerBusy(RuntimeError):
    """A trace is being recorded already, or none is."""


class StepProfiler:
    """Records steps between start and stop. All methods belong to the engine's thread."""

    def __init__(self) -> None:
        self._options: ProfileOptions | None = None
        self._profile: profile | None = None
        self._stage = ""
        self._stages_done: set[str] = set()
        self._steps_left: int | None = None
        self._step_count = 0

    @property
    def active(self) -> bool:
        """Whether a trace is being recorded or waited for."""
        return self._options is not None

    def start(self, options: ProfileOptions) -> None:
        """Begin with the next step, or the one that the options name.

        Raises
        ------
        ProfilerBusy
            When a trace is being recorded already.
        """
        if self.active:
            raise ProfilerBusy("Profiling is already in progress. Call /stop_profile first.")
        Path(options.output_dir).mkdir(parents=True, exist_ok=True)
        self._options = options
        self._stages_done.clear()

    def stop(self) -> None:
        """End the recording and write what is left of it.

        Raises
        ------
        ProfilerBusy
            When nothing is being recorded.
        """
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
            self._finish()  # a stage ends with the first step of the other one
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
        """Write what is recorded and wait for the other stage, if it is still to come.

        A disk that is full is no reason to fail the requests of the step.
        """
        options = self._options
        try:
            self._write()
        except OSError:
            logger.exception("the profile could not be written")
        self._stages_done.add(self._stage)
        if options is None or not options.by_stage or self._stages_done == {"EXTEND", "DECODE"}:
            self._options = None

    def _write(self) -> None:
        """Write the trace that is being recorded, if any, under its final name in one move."""
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
    """Read the body of ``/start_profile``; numbers may come as strings, as SGLang's own tool sends them.

    Raises
    ------
    ValueError
        When a value cannot be read.
    """

    def number(name: str) -> int | None:
        value = body.get(name)
        return None if value is None else int(value)

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
