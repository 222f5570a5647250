"""The interface of a kind of server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nbruntime.errors import ArgumentTypeError
from nbruntime.launch.arguments import OWN_ARGUMENTS
from nbruntime.launch.phases import Phase
from nbruntime.launch.ports import PortClaim
from nbruntime.launch.supervisor.launch_spec import LaunchSpec
from nbruntime.protocol.nearest_names import nearest_name

__all__ = ["AcceptedArguments", "IgnoredArgumentsWarning", "ServerKind", "unknown_argument"]


class IgnoredArgumentsWarning(UserWarning):
    """Arguments that only the other engine has are left out."""


@dataclass(frozen=True)
class AcceptedArguments:
    """Checked server arguments by their Python names, without the port."""

    values: dict[str, Any]
    ignored: tuple[str, ...]  # names that only the other engine has
    keys: dict[str, str] = field(repr=False)  # api_key and admin_api_key, where given


class ServerKind(ABC):
    """A kind of server: checks its arguments, makes its command and reads its output."""

    name: ClassVar[str]  # value of engine=
    takes_listener: ClassVar[bool]  # whether it takes over a listening socket or binds the port itself
    watch: ClassVar[str]  # regular expression for the lines that `read_phase` parses
    probe_interval: ClassVar[float]  # seconds between two calls of `is_ready` while no line comes
    default_model: ClassVar[str] = ""  # of a server that is started without a model

    def __init__(self, python: str, why: str = "", folder: str = "") -> None:
        self.python = python  # interpreter that runs it
        self.why = why  # it was chosen, for the repr; empty if it was asked for by name
        self.folder = folder  # of its package, if known

    def model_of(self, arguments: AcceptedArguments) -> str:
        """Name the model as the server is going to; empty if only the server knows."""
        values = arguments.values
        return str(values.get("served_model_name") or values.get("model_path") or self.default_model)

    @abstractmethod
    def accept(self, arguments: Mapping[str, Any]) -> AcceptedArguments:
        """Check keyword arguments; None means the server's default. Raises an `ArgumentError`."""

    @abstractmethod
    def command(self, arguments: AcceptedArguments, claim: PortClaim) -> LaunchSpec:
        """Make the command that starts the server on a claimed port."""

    @abstractmethod
    def read_phase(self, line: str) -> Phase | None:
        """Parse a watched line of the server's output; None if it is no phase."""

    @abstractmethod
    def is_ready(self, url: str, timeout: float) -> bool:
        """Return True if the server takes requests; False if it does not answer in `timeout` seconds."""


def unknown_argument(name: str, known: Iterable[str]) -> ArgumentTypeError:
    """Make the error for an argument that no server has, with the nearest known name as a hint."""
    near = nearest_name(name, [*OWN_ARGUMENTS, *known])
    hint = f"Did you mean {near!r}?" if near else "`python -m sglang.launch_server --help` lists SGLang's."
    return ArgumentTypeError(f"Neither Runtime nor a server has an argument {name!r}", hint=hint)
