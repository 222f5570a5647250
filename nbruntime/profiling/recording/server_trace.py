"""Starts and stops a server's own profiler, within bounds, and finds its traces."""

from __future__ import annotations

import math
import os
import tempfile
import time
import uuid
from collections.abc import Mapping
from typing import Any

from nbruntime.display.html import shortened
from nbruntime.endpoint.http import HttpRequest
from nbruntime.endpoint.transport import Transport
from nbruntime.errors import NbruntimeError, ServerFailureError
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.recording.trace_files import find_traces, pattern_of
from nbruntime.protocol.profile import build_profile_request

TRACE_STEPS = 100
"""Steps that a trace holds by default: of the embedded server about 10 MB, compressed."""

TRACE_SECONDS = 30.0
"""Seconds after which a trace is stopped by default."""

FOLDER_VARIABLE = "SGLANG_TORCH_PROFILER_DIR"
"""Environment variable with the default folder of traces, also in SGLang."""

CONNECT_SECONDS = 5.0
START_SECONDS = 60.0

STOP_SECONDS = 300.0
"""Seconds to wait for the end of a trace: a server answers when it has written its files."""

SILENT_STOP_SECONDS = 20.0
"""The same for a server that has not answered before."""


class ServerTrace:
    """One recording by a server's profiler.

    Parameters
    ----------
    transport : Transport
        Sends the requests.
    profile : ProfileData
        Gets the paths of the traces, and notes.
    options : mapping
        SGLang's options by their names, checked here; None means not given.
    seconds : float
        Time after which it is to be stopped; see `due`.
    """

    def __init__(
        self, transport: Transport, profile: ProfileData, options: Mapping[str, Any], seconds: float
    ) -> None:
        self._transport = transport
        self._profile = profile
        self._local = transport.settings.local
        self._seconds = seconds
        self._body = trace_request(options, local=self._local)
        self._begun = math.inf  # by `time.time`
        self.running = False

    @property
    def due(self) -> float:
        """Seconds until it must be stopped; infinite if it does not run."""
        return max(self._begun + self._seconds - time.time(), 0.0) if self.running else math.inf

    def start(self) -> None:
        """Start the server's profiler.

        Raises
        ------
        ServerFailureError
            If the server does not start it; most often it is running already.
        """
        self._begun = time.time()
        self.running = True
        try:
            self._post("/start_profile", self._body, START_SECONDS)
        except ServerFailureError as error:
            self.running = False
            raise ServerFailureError(
                f"The server did not start its profiler{_reason(error)}",
                status=error.status,
                server_message=error.server_message,
                where=error.where,
                hint="It may be running already (endpoint.stop_profile() stops it), or it cannot write into "
                f"{self._body.get('output_dir') or 'its folder'}. Nothing was recorded.",
            ) from error
        except NbruntimeError as error:
            self.running = getattr(error, "sent", False)  # it may have begun
            self.stop(patience=SILENT_STOP_SECONDS)
            raise

    def stop(self, why: str = "", *, patience: float = STOP_SECONDS) -> None:
        """Stop the profiler if it runs, and note why it ended before the profile did.

        Parameters
        ----------
        why : str
            The note.
        patience : float
            Seconds to wait for the server's answer.
        """
        if not self.running:
            return
        self.running = False
        notes = self._profile.notes
        try:
            self._post("/stop_profile", None, patience)
        except ServerFailureError as error:
            reason = _reason(error)
            if reason and "not in progress" not in reason:
                notes.append(f"The server could not end its trace{reason}.")
                return
            steps, stages = self._body["num_steps"], self._body.get("profile_by_stage")
            notes.append(  # it has stopped by itself
                f"The trace holds at most {steps:,} steps{' of each stage' if stages else ''}; "
                "num_steps=... changes that."
            )
        except NbruntimeError as error:
            notes.append(f"The server did not confirm the end of its trace: {shortened(error.message, 200)}.")
        else:
            if why:
                notes.append(why)

    def _post(self, path: str, body: dict[str, Any] | None, patience: float) -> None:
        self._transport.send(HttpRequest("POST", path, body, limits=(CONNECT_SECONDS, patience)))

    def stop_if_due(self) -> None:
        """Stop the profiler if its time is up."""
        if self.due == 0.0:
            self.stop(f"The trace ends after {self._seconds:g} s; trace_seconds=... changes that.")

    def find_files(self, server_info: Mapping[str, Any]) -> None:
        """Put the paths of the traces into the profile."""
        if math.isinf(self._begun):
            return
        folder, name = self._body.get("output_dir"), self._body["profile_id"]
        profile = self._profile
        if self._local and folder is not None:
            ranks = _ranks(server_info)
            merged = bool(self._body.get("merge_profiles"))
            profile.trace_files = find_traces(folder, name, since=self._begun, ranks=ranks, merged=merged)
            if profile.trace_files:
                return
            profile.notes.append(
                f"No trace was found in {folder}: the profiler recorded no step or was running already, or "
                f"the server runs on another machine. Its files would have {name} in their names."
            )
            return
        where = folder or f"/tmp, or the folder that {FOLDER_VARIABLE} names there"
        if folder:
            profile.trace_files = [pattern_of(folder, name)]
        profile.notes.append(
            f"The traces are on the server's disk, in {where}, with {name} in their names. "
            "Copy them here, and read them with profile.load_trace(path)."
        )


def trace_request(options: Mapping[str, Any], *, local: bool) -> dict[str, Any]:
    """Check the options of a trace, and bound it.

    Examples
    --------
    >>> body = trace_request({"num_steps": 5, "profile_id": "mine"}, local=False)
    >>> body
    {'num_steps': 5, 'with_stack': False, 'record_shapes': False, 'profile_id': 'mine'}
    """
    given = {name: value for name, value in options.items() if value is not None}
    body = build_profile_request(
        {
            "num_steps": TRACE_STEPS,
            "with_stack": False,  # Python's frames are half of a trace
            "record_shapes": False,  # a third
            "profile_id": f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
            **given,
        }
    )
    assert body is not None
    if local:
        folder = body.get("output_dir") or os.environ.get(FOLDER_VARIABLE) or tempfile.gettempdir()
        body["output_dir"] = os.path.abspath(os.path.expanduser(folder))
    return body


def _reason(error: ServerFailureError) -> str:
    """Return what the server says beside the bare text of SGLang, after a colon; empty if nothing."""
    said = shortened(error.server_message, 200).removeprefix("Internal Server Error").strip(":. ")
    return f": {said}" if said else ""


def _ranks(server_info: Mapping[str, Any]) -> int:
    sizes = [server_info.get(name) for name in ("tp_size", "pp_size")]
    return math.prod(size for size in sizes if isinstance(size, int) and size > 0)
