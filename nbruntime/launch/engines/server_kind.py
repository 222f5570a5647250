"""What every kind of server must be able to say about itself."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nbruntime.errors import ArgumentTypeError
from nbruntime.launch.arguments import OWN_ARGUMENTS
from nbruntime.launch.phases import Phase
from nbruntime.launch.ports import PortClaim
from nbruntime.launch.process import ServerCommand

__all__ = ["AcceptedArguments", "IgnoredArgumentsWarning", "ServerKind", "unknown_argument"]


class IgnoredArgumentsWarning(UserWarning):
    """The engine that runs does not have these arguments, but the other one has: it goes on without them."""


@dataclass(frozen=True)
class AcceptedArguments:
    """What a server is started with, apart from its port.

    Parameters
    ----------
    values : dict
        Server arguments by their Python names, ready to become flags.
    ignored : tuple of str
        Names that only the other engine knows.
    keys : dict
        ``api_key`` and ``admin_api_key``, where given.
    """

    values: dict[str, Any]
    ignored: tuple[str, ...]
    keys: dict[str, str]


class ServerKind(ABC):
    """One kind of server.

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
    """What ``engine=`` calls it."""

    takes_listener: ClassVar[bool]
    """Whether it takes over a listening socket instead of binding the port itself."""

    watch: ClassVar[str]
    """Regular expression of the lines that `read_phase` wants to see."""

    probe_interval: ClassVar[float]
    """Seconds between two calls of `is_ready` while no line comes."""

    def __init__(self, python: str, why: str = "", folder: str = "") -> None:
        self.python = python
        self.why = why
        self.folder = folder

    @abstractmethod
    def accept(self, arguments: Mapping[str, Any]) -> AcceptedArguments:
        """Check keyword arguments before anything is started.

        Parameters
        ----------
        arguments : mapping
            By name; None means the server's default.

        Returns
        -------
        AcceptedArguments

        Raises
        ------
        ArgumentTypeError
            For a name that no engine knows, with the nearest one, or a wrong type.
        ArgumentValueError
            For a value that is not one of the choices.
        """

    @abstractmethod
    def command(self, arguments: AcceptedArguments, claim: PortClaim) -> ServerCommand:
        """Make the command that starts the server on a port.

        Parameters
        ----------
        arguments : AcceptedArguments
            From `accept`.
        claim : PortClaim
            Where it is to listen.

        Returns
        -------
        ServerCommand
        """

    @abstractmethod
    def read_phase(self, line: str) -> Phase | None:
        """Say how far the server is by a watched line of its output."""

    @abstractmethod
    def is_ready(self, url: str, timeout: float) -> bool:
        """Ask the server whether it takes requests.

        Parameters
        ----------
        url : str
            Where it is going to answer.
        timeout : float
            Seconds that the answer may take at most; an engine may give up sooner.

        Returns
        -------
        bool
            False, too, when it does not answer.
        """


def unknown_argument(name: str, known: Iterable[str]) -> ArgumentTypeError:
    """Make the error for a name that no server knows.

    Parameters
    ----------
    name : str
        As it was given.
    known : iterable of str
        All names there are.

    Returns
    -------
    ArgumentTypeError
        With the nearest name as a hint.

    Examples
    --------
    >>> print(unknown_argument("tp_sise", ["tp_size", "dp_size"]))
    Neither Runtime nor a server has an argument 'tp_sise'
    Did you mean 'tp_size'?
    """
    near = difflib.get_close_matches(name, [*OWN_ARGUMENTS, *known], n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "`python -m sglang.launch_server --help` lists SGLang's."
    return ArgumentTypeError(f"Neither Runtime nor a server has an argument {name!r}", hint=hint)
