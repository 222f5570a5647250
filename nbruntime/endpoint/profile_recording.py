"""What `profile` of a client returns, by its methods: floor 4 has the class."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

from nbruntime.endpoint.options import ProfileOptions


class RecordingOptions(ProfileOptions, total=False):
    """Arguments of the method `profile`."""

    interval: float
    trace: bool
    trace_seconds: float
    max_requests: int
    max_samples: int
    output_dir: str | None


class ProfileRecording(Protocol):
    """A context manager that records a `nbruntime.profiling.profile.Profile`, and gives it at once."""

    @property
    def profile(self) -> Any:
        """The profile, which fills while it is recorded."""

    def start(self) -> Any:
        """Start recording, and return the profile."""

    def stop(self, error: BaseException | None = None) -> Any:
        """Stop recording, and return the complete profile."""

    def __enter__(self) -> Any: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
