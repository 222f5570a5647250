"""The interface of a kind of server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nbruntime.errors import ArgumentTypeError
from nbruntime.launch.arguments import OWN_ARGUMENTS
from nbruntime.launch.phases import Phase
from nbruntime.launch.ports import PortClaim
from nbruntime.launch.process import ServerCommand
from nbruntime.protocol.nearest_names import nearest_name

__all__ = ["AcceptedArguments", "IgnoredArgumentsWarning", "ServerKind", "unknown_argument"]


class IgnoredArgumentsWarning(UserWarning):
    """Arguments that only the other engine has are left out."""


@dataclass(frozen=True)
class AcceptedArguments:
    """Checked server arguments, without the port.

    Parameters
    ----------
    values : dict
        By their Python names.
    ignored : tuple of str
        Names that only the other engine has.
    keys : dict
        ``api_key`` and ``admin_api_key``, where given.
    """

    values: dict[str, Any]
    ignored: tuple[str, ...]
    keys: dict[str, str]


class ServerKind(ABC):
    """A kind of server: checks its arguments, makes its command and reads its output.

    Parameters
    ----------
    python : str
        Interpreter that runs it.
    why : str
        Why it was chosen, for the repr; empty if it was asked for by name.
    folder : str
        Folder of its package, if known.
    """

    name: ClassVar[str]
    """Value of ``engine=``."""

    takes_listener: ClassVar[bool]
    """True if it takes over a listening socket instead of binding the port itself."""

    watch: ClassVar[str]
    """Regular expression for the lines that `read_phase` parses."""

    probe_interval: ClassVar[float]
    """Seconds between two calls of `is_ready` while no line comes."""

    def __init__(self, python: str, why: str = "", folder: str = "") -> None:
        self.python = python
        self.why = why
        self.folder = folder

    @abstractmethod
    def accept(self, arguments: Mapping[str, Any]) -> AcceptedArguments:
        """Check keyword arguments; None means the server's default.

        Raises
        ------
        ArgumentTypeError
            For a wrong type, or a name that no engine has, with the nearest one.
        ArgumentValueError
            For a value that is not one of the choices.
        """

    @abstractmethod
    def command(self, arguments: AcceptedArguments, claim: PortClaim) -> ServerCommand:
        """Make the command that starts the server on a claimed port."""

    @abstractmethod
    def read_phase(self, line: str) -> Phase | None:
        """Parse a watched line of the server's output; None if it is no phase."""

    @abstractmethod
    def is_ready(self, url: str, timeout: float) -> bool:
        """Return True if the server takes requests; False if it does not answer in `timeout` seconds."""


def unknown_argument(name: str, known: Iterable[str]) -> ArgumentTypeError:
    """Make the error for an argument that no server has, with the nearest known name as a hint.

    Examples
    --------
    >>> print(unknown_argument("tp_sise", ["tp_size", "dp_size"]))
    Neither Runtime nor a server has an argument 'tp_sise'
    Did you mean 'tp_size'?
    """
    near = nearest_name(name, [*OWN_ARGUMENTS, *known])
    hint = f"Did you mean {near!r}?" if near else "`python -m sglang.launch_server --help` lists SGLang's."
    return ArgumentTypeError(f"Neither Runtime nor a server has an argument {name!r}", hint=hint)
