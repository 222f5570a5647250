"""`Runtime`: a server that ends with its object, and its client."""

from __future__ import annotations

import os
import time
import warnings
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn, Self, SupportsIndex
from urllib.parse import urlsplit

from nbruntime.display.cards import Card, CardMixin
from nbruntime.display.upper_floors import upper_class
from nbruntime.endpoint import RuntimeEndpoint
from nbruntime.endpoint.cards import model_name
from nbruntime.errors import ArgumentTypeError
from nbruntime.launch.arguments import check_own_arguments
from nbruntime.launch.engines.resolve import resolve_engine
from nbruntime.launch.engines.server_kind import IgnoredArgumentsWarning, ServerKind
from nbruntime.launch.launcher import Launcher
from nbruntime.launch.phases import Phase, Phases
from nbruntime.launch.server import Server
from nbruntime.runtime.cards import LOG_LINES, runtime_card
from nbruntime.runtime.progress import Progress, announced
from nbruntime.runtime.requests import RuntimeRequests, diagnose

__all__ = ["Runtime"]


class Runtime(CardMixin, RuntimeRequests):
    """Start a server and talk to it; it ends with this object.

    A drop-in for SGLang's ``Runtime`` (``sglang/lang/backend/runtime_endpoint.py``). The server survives an
    interrupt of the kernel, and ends when the object is shut down or deleted, and with the kernel.

    Parameters
    ----------
    model_path : str or path, optional
        Folder of a Hugging Face model or id on the hub. Default is ``"SmolLM2-135M-Instruct"``.
    log_level : str
        Log level of the server: ``"debug"``, ``"info"``, ``"warning"`` or ``"error"``. The first two also
        write the phases of the launch to stderr.
    launch_timeout : float
        Seconds until the server must be ready. Downloading and converting a model do not count.
    engine : str
        ``"sglang"``, ``"embedded"``, or ``"auto"`` for SGLang where it is installed and has a device.
    python : str or path, optional
        Interpreter of another environment that has SGLang.
    env : dict of str to str, optional
        Additions to the server's environment.
    port : int, optional
        Port to listen on; 0 for any. Default is the first free one from 30000.
    host : str
        Address to listen on. One that other machines can reach needs an API key.
    api_key : str, optional
        Key that clients must give; `endpoint` has it. It is never on a command line. ``"auto"`` makes a new
        one that nothing shows, for a machine with other users; ``endpoint.api_key`` returns it.
    progress : callable, Phases or False, optional
        Called with every new `~nbruntime.launch.phases.Phase` of the launch, instead of the view in a cell or
        the line on stderr; False for neither. A `~nbruntime.launch.phases.Phases` becomes `phases`.
    keep_alive : bool
        Whether the server outlives this object and the kernel, until `shutdown` or `nbruntime.stop`.
    name : str, optional
        Name of the server, unique among your running servers. Default is made from the model's name.
    reuse : bool
        Whether to use a running server with the same arguments and name: one of this kernel, or one that was
        kept alive.
    replace : bool
        Whether to stop the server that has the name. With `reuse`, only if its arguments are different.
    **kwargs
        Server arguments by their names in SGLang's ``ServerArgs``. Those that only the other engine has are
        left out with an `IgnoredArgumentsWarning`.

    Attributes
    ----------
    url, generate_url : str
        Such as ``"http://127.0.0.1:30000"``; the same with ``/generate``.
    endpoint : RuntimeEndpoint
        The server's client: ``complete``, ``stream`` and what SGLang's frontend language calls.
    phases : Phases
        Progress of the launch: ``runtime.phases.subscribe(print)``.

    Raises
    ------
    LaunchError
        If the server is not ready in time (`LaunchTimeoutError`), ends before (with the cause and the end of
        its log), or cannot get the port (`PortInUseError`).
    ArgumentTypeError, ArgumentValueError
        For a wrong type or an unknown argument; if another server has the name, or other machines can reach
        `host` without an `api_key`.

    Notes
    -----
    A Runtime can be neither pickled nor copied. A fork may use the server but does not end it. Runtimes that
    share a server by `reuse` end it with the last of them, or with the first `shutdown`, which leaving a
    ``with`` block calls.

    Examples
    --------
    >>> import json
    >>> with Runtime() as runtime:  # doctest: +SKIP
    ...     answer = json.loads(runtime.generate("The capital of France is", {"max_new_tokens": 8}))
    ...     print(answer["text"])
    """

    url: str
    generate_url: str
    endpoint: RuntimeEndpoint

    def __init__(
        self,
        model_path: str | os.PathLike[str] | None = None,
        *,
        log_level: str = "error",
        launch_timeout: float = 300.0,
        engine: str = "auto",
        python: str | os.PathLike[str] | None = None,
        env: Mapping[str, str | None] | None = None,
        port: int | None = None,
        host: str = "127.0.0.1",
        api_key: str | None = None,
        progress: Progress = None,
        keep_alive: bool = False,
        name: str | None = None,
        reuse: bool = False,
        replace: bool = False,
        **kwargs: Any,
    ) -> None:
        # First what the repr needs, which may be called while the constructor runs, or after it has failed.
        self.phases = progress if isinstance(progress, Phases) else Phases()
        self._server: Server | None = None
        self._ready_at: float | None = None
        self._arguments: dict[str, Any] = {}
        self._port = port or 0
        self._kind: ServerKind | None = None
        self._model: str | None = None
        check_own_arguments(locals())
        self._model = None if model_path is None else os.fspath(model_path)
        self._kind = resolve_engine(engine, python, env)
        arguments = self._kind.accept(
            {"model_path": self._model, "log_level": log_level, "api_key": api_key, **kwargs}
        )
        del api_key, kwargs  # tracebacks may show variables
        self._model = self._kind.model_of(arguments) or self._model
        self._arguments = arguments.values
        if arguments.ignored:
            warnings.warn(
                f"The {self._kind.name} server has no {', '.join(arguments.ignored)}: left out",
                IgnoredArgumentsWarning,
                stacklevel=2,
            )
        started = False
        try:
            with announced(self, progress, log_level) as announce:

                def enter(phase: Phase) -> None:
                    self.phases.enter(phase)
                    announce(phase)

                launcher = Launcher(
                    kind=self._kind,
                    arguments=arguments,
                    env=dict(env or {}),
                    host=host,
                    port=port,
                    timeout=launch_timeout,
                    name=name,
                    keep_alive=keep_alive,
                    on_start=self._begin,
                    on_phase=enter,
                    connect=RuntimeEndpoint,
                )
                if not reuse:
                    launcher.warn_of_same(stacklevel=2)
                self._server, self.endpoint, started = launcher.get_or_start(reuse=reuse, replace=replace)
                # By a weak reference: an endpoint that is kept must not keep the server.
                self.endpoint.settings.diagnose = partial(diagnose, weakref.ref(self._server))
                self._ready_at = time.monotonic()
            self._server.report_to(self.phases)
        except BaseException:
            if started:
                self.shutdown()
            self.phases.enter(Phase("failed"))
            raise

    def _begin(self, url: str, server: Server | None) -> None:
        """Store the server's URL, and the server once it is started."""
        self.url = url
        self.generate_url = f"{url}/generate"
        self._port = urlsplit(url).port or 0
        self._server = server
        if server is not None:
            server.users.add(self)

    # State

    @property
    def phase(self) -> str:
        """Phase of the launch, then ``ready``, ``stopped`` or ``died``."""
        server = self._server
        if server is None or server.usable:
            return self.phases.current.name
        return "stopped" if server.stopped else "died"

    @property
    def exit_cause(self) -> str:
        """How the server died; empty if it did not."""
        return self._server.exit_cause() if self._server is not None and self.phase == "died" else ""

    @property
    def pid(self) -> int | None:
        """Process id of the server; None when it does not run."""
        server = self._server
        return server.pid if server is not None and server.usable else None

    @property
    def name(self) -> str | None:
        """Name in `nbruntime.servers`; None before the server is started."""
        return None if self._server is None else self._server.record.name

    @property
    def port(self) -> int:
        """Port that the server listens on."""
        return self._port

    @property
    def engine(self) -> str:
        """``"sglang"`` or ``"embedded"``."""
        assert self._kind is not None
        return self._kind.name

    def logs(self, n: int | None = None) -> str:
        """Read the server's output, also after its end; API keys are masked.

        Parameters
        ----------
        n : int, optional
            Only the last `n` lines.
        """
        return "" if self._server is None else self._server.logs(n)

    def logs_since(self, position: int = 0) -> tuple[str, int]:
        """Read the lines that the server wrote since the last call; API keys are masked.

        Parameters
        ----------
        position : int
            0, or the position from the last call, which is returned after the lines.
        """
        return ("", 0) if self._server is None else self._server.logs_since(position)

    def __repr__(self) -> str:
        # Never waits, never asks the server, and shows no key.
        kind, server = self._kind, self._server
        parts = [f"Runtime {self._model_name()}", self._state()]
        if self.pid:
            parts.append(f"pid {self.pid}")
        if cause := self.exit_cause:
            parts.append(cause)
        lines = [" · ".join(parts)]
        if kind is not None:
            kept = ", kept alive" if server is not None and server.record.keep_alive else ""
            lines.append(f"  {kind.name} server{kept}" + (f", because {kind.why}" if kind.why else ""))
        if hasattr(self, "url"):
            lines.append(f"  {self.url}")
        return "\n".join(lines)

    def _card(self) -> Card:
        """Make the card from what is known here, without asking the server."""
        kind, phase, client = self._kind, self.phase, getattr(self, "endpoint", None)
        up = None if self._ready_at is None or phase != "ready" else time.monotonic() - self._ready_at
        return runtime_card(
            model=self._model_name(),
            phase=phase,
            state=self._state(),
            engine="" if kind is None else kind.name,
            why="" if kind is None else kind.why,
            url=getattr(self, "url", ""),
            pid=self.pid,
            ready_after=dict(self.phases.history).get("ready"),
            uptime=up,
            exit_cause=self.exit_cause,
            server_info={} if client is None else client.last_server_info,
            arguments=self._arguments,
            log=self.logs(LOG_LINES),
        )

    def panel(self, **options: Any) -> Any:
        """Make a live panel of the server: `nbruntime.notebook.views.panel.ServerPanel` with its options."""
        panel = upper_class("panel")(self.endpoint, runtime=self, **options)
        if self._server is not None:
            self._server.users.add(panel)
        return panel

    def _state(self) -> str:
        """Return the phase, with its progress during the launch."""
        phase, current = self.phase, self.phases.current
        return str(current) if phase == current.name else phase

    def _model_name(self) -> str:
        client = getattr(self, "endpoint", None)
        if client is None and not self._model:
            return "with the default model"
        return model_name({"model_path": self._model} if client is None else client.last_model_info)

    # Shutdown

    def shutdown(self) -> None:
        """Stop the server, kept alive or not, and wait until its processes are gone and its port is free.

        Does nothing when called again, or in a fork of the process that started the server.
        """
        if self._server is None or not self._server.is_owner:
            return
        self._server.stop()
        vars(self).pop("_async_endpoint", None)  # closes itself in the loops that it was used in
        if hasattr(self, "endpoint"):
            self.endpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # copy and deepcopy call this too. A second owner would end the first one's server.
        raise ArgumentTypeError(
            "A Runtime owns a server process: it cannot be pickled or copied",
            hint="Hand on runtime.url, and connect to it with RuntimeEndpoint(url, api_key=...).",
        )
