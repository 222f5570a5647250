"""`Runtime`: a server that ends with its object, and its client."""

from __future__ import annotations

import json
import os
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, SupportsIndex
from urllib.parse import urlsplit

from nbruntime.display.cards import Card, CardMixin
from nbruntime.display.views import view_class
from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint
from nbruntime.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    ServerConnectionError,
)
from nbruntime.launch.arguments import check_own_arguments
from nbruntime.launch.engines.resolve import resolve_engine
from nbruntime.launch.engines.server_kind import IgnoredArgumentsWarning, ServerKind
from nbruntime.launch.launcher import Launcher
from nbruntime.launch.phases import Phase, Phases
from nbruntime.launch.server import Server
from nbruntime.protocol.requests import build_generate_request, request_names
from nbruntime.runtime.cards import LOG_LINES, runtime_card
from nbruntime.runtime.progress import Progress, announced

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Runtime"]

ERROR_LOG_LINES = 20
"""Lines of the log in the error that says that the server died."""


class Runtime(CardMixin):
    """Start a server and talk to it; it ends with this object.

    A drop-in for SGLang's ``Runtime`` (``sglang/lang/backend/runtime_endpoint.py``). The server is SGLang
    itself where it is installed and has a device, else the embedded one, which runs on a CPU. It survives an
    interrupt of the kernel, and ends when the object is shut down or deleted, and with the kernel.

    Parameters
    ----------
    model_path : str or path, optional
        Folder of a Hugging Face model or id on the hub. Default is ``"SmolLM2-135M-Instruct"``.
    log_level : str
        Log level of the server: ``"debug"``, ``"info"``, ``"warning"`` or ``"error"``. With ``"info"``
        and ``"debug"`` the phases of the launch are written to stderr as well.
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
        Key that clients must give; `endpoint` has it. It is never on a command line.
    progress : callable, Phases or False, optional
        Called with every new `~nbruntime.launch.phases.Phase` of the launch, instead of the view in a cell or
        the line on stderr; False for neither. A `~nbruntime.launch.phases.Phases` becomes `phases`.
    keep_alive : bool
        Whether the server outlives this object and the kernel, until `shutdown` or `nbruntime.stop` is called
        in any kernel.
    name : str, optional
        Name for `nbruntime.servers` and `nbruntime.stop`, unique among your running servers. Default is made
        from the model's name.
    reuse : bool
        Whether to use a running server with the same arguments and name: one of this kernel, or one that was
        kept alive. So running a cell again costs nothing.
    replace : bool
        Whether to stop the server that has the name. With `reuse`, only if its arguments are different.
    **kwargs
        Server arguments by their names in SGLang's ``ServerArgs``. Those that only the other engine has are
        left out with an `IgnoredArgumentsWarning`.

    Attributes
    ----------
    url : str
        Such as ``"http://127.0.0.1:30000"``.
    generate_url : str
        `url` with ``/generate``.
    endpoint : RuntimeEndpoint
        The server's client: ``complete``, ``stream`` and what SGLang's frontend language calls.
    phases : Phases
        Progress of the launch: ``runtime.phases.subscribe(print)``.

    Raises
    ------
    LaunchError
        If the server ends before it is ready; has the cause and the last lines of the log.
    LaunchTimeoutError
        If it is not ready in time.
    PortInUseError
        If `port` is taken; names the process that holds it.
    ArgumentTypeError
        For a wrong type, or an argument that no server has; names the nearest one.
    ArgumentValueError
        If another server has the name, or other machines can reach `host` without an `api_key`.

    Notes
    -----
    A Runtime can be neither pickled nor copied. After a fork, the child may use the server but does not end
    it. Runtimes that share a server by `reuse` end it with the last of them, or with the first `shutdown`,
    which leaving a ``with`` block calls.

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
        self._model = arguments.values.get("model_path", self._model)
        self._arguments = arguments.values
        self._tokenizer_options = {
            name: arguments.values[name]
            for name in ("revision", "trust_remote_code")
            if name in arguments.values
        }
        if arguments.ignored:
            warnings.warn(
                f"The {self._kind.name} server has no {', '.join(arguments.ignored)}: left out",
                IgnoredArgumentsWarning,
                stacklevel=2,
            )
        launch = partial(
            Launcher,
            kind=self._kind,
            arguments=arguments,
            env=dict(env or {}),
            host=host,
            port=port,
            timeout=launch_timeout,
            name=name,
            keep_alive=keep_alive,
            on_start=self._begin,
        )
        started = False
        try:
            with announced(self, progress, log_level) as announce:

                def enter(phase: Phase) -> None:
                    self.phases.enter(phase)
                    announce(phase)

                self._server, self.endpoint, started = launch(on_phase=enter).get_or_start(
                    lambda url: RuntimeEndpoint(url, api_key=api_key), reuse=reuse, replace=replace
                )
                # By a weak reference: an endpoint that is kept must not keep the server.
                self.endpoint.settings.diagnose = partial(_diagnosis, weakref.ref(self._server))
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
            0, or the position from the last call.

        Returns
        -------
        tuple of str and int
            The lines, and the position for the next call.

        Examples
        --------
        >>> position = 0
        >>> while runtime.phase == "ready":  # doctest: +SKIP
        ...     text, position = runtime.logs_since(position)
        ...     print(text)
        ...     time.sleep(1)
        """
        return ("", 0) if self._server is None else self._server.logs_since(position)

    def __repr__(self) -> str:
        # Never waits, never asks the server, and shows no key.
        kind = self._kind
        phase = self.phase
        current = self.phases.current
        state = str(current) if phase == current.name else phase
        server = self._server
        if server is not None:
            state += f" · pid {self.pid}" if self.pid else ""
            if phase == "died":
                state += f" · {server.exit_cause()}"
        lines = [f"Runtime {self._model_name()} · {state}"]
        if kind is not None:
            kept = ", kept alive" if server is not None and server.record.keep_alive else ""
            lines.append(f"  {kind.name} server{kept}" + (f", because {kind.why}" if kind.why else ""))
        if hasattr(self, "url"):
            lines.append(f"  {self.url}")
        return "\n".join(lines)

    def _card(self) -> Card:
        """Make the card from what is known here, without asking the server."""
        kind, current = self._kind, self.phases.current
        phase, client = self.phase, getattr(self, "endpoint", None)
        up = None if self._ready_at is None or phase != "ready" else time.monotonic() - self._ready_at
        return runtime_card(
            model=self._model_name(),
            phase=phase,
            state=str(current) if phase == current.name else phase,
            engine="" if kind is None else kind.name,
            why="" if kind is None else kind.why,
            url=getattr(self, "url", ""),
            pid=self.pid,
            ready_after=dict(self.phases.history).get("ready"),
            uptime=up,
            exit_cause=self.exit_cause,
            model_info={} if client is None else client.model_info,
            server_info={} if client is None else client.last_server_info,
            arguments=self._arguments,
            log=self.logs(LOG_LINES),
        )

    def panel(self, **options: Any) -> Any:
        """Make a live panel of the server: its load, latencies, fields and log.

        Parameters
        ----------
        **options
            Of `nbruntime.notebook.views.panel.ServerPanel`, the widget that is returned.
        """
        return view_class("panel")(self.endpoint, runtime=self, **options)

    def _model_name(self) -> str:
        if hasattr(self, "endpoint"):
            info = self.endpoint.model_info
            return str(info.get("served_model_name") or info["model_path"])
        return self._model or "with the default model"

    # Requests

    def generate(
        self,
        prompt: str | list[str],
        sampling_params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        return_logprob: list[bool] | bool | None = False,
        logprob_start_len: list[int] | int | None = None,
        top_logprobs_num: list[int] | int | None = None,
        lora_path: list[str | None] | str | None = None,
        session_id: str | None = None,
    ) -> str:
        """Generate text and wait for all of it.

        Parameters
        ----------
        prompt : str or list of str
            One prompt or a batch.
        sampling_params : dict, optional
            Sampling parameters by SGLang's names, or one dict for each prompt.
        return_logprob : bool or list of bool
            Whether to return log probabilities.
        logprob_start_len : int or list of int, optional
            First position, in tokens of the prompt, to return log probabilities of.
        top_logprobs_num : int or list of int, optional
            Number of the most likely tokens to return at each position.
        lora_path : str or list of str or None, optional
            LoRA adapter of each prompt.
        session_id : str, optional
            Session on the server that the request belongs to.

        Returns
        -------
        str
            JSON: an object for one prompt, a list of them for a batch.

        Raises
        ------
        ArgumentValueError
            If `lora_path` does not have one entry for each prompt.
        ServerStatusError
            If the server refuses the request.
        """
        if isinstance(lora_path, list):
            prompts = 1 if isinstance(prompt, str) else len(prompt)
            if len(lora_path) != prompts:
                raise ArgumentValueError(
                    f"lora_path has {len(lora_path)} entries, and there are {prompts} prompts",
                    hint="Give one adapter, or None, for each prompt.",
                )
            if isinstance(prompt, str):
                lora_path = lora_path[0]  # a list is for a batch
        request = build_generate_request(
            prompt,
            sampling_params=sampling_params,
            return_logprob=return_logprob,
            logprob_start_len=logprob_start_len,
            top_logprobs_num=top_logprobs_num,
            return_text_in_logprobs=False if return_logprob else None,  # as SGLang's Runtime leaves it
            lora_path=lora_path,
            session_id=session_id,
        )
        return self._post("/generate", request.body)

    async def async_generate(
        self,
        prompt: str | list[int],
        sampling_params: Mapping[str, Any] | None = None,
        session_id: str | None = None,
    ) -> AsyncIterator[str]:
        """Generate text and yield it as it arrives; also called ``add_request``.

        Parameters
        ----------
        prompt : str or list of int
            One prompt, as text or as token ids.
        sampling_params : dict, optional
            Sampling parameters by SGLang's names.
        session_id : str, optional
            Session on the server that the request belongs to.

        Yields
        ------
        str
            New text. Leaving the loop stops the generation.

        Raises
        ------
        ServerStatusError
            If the server refuses the request.
        StreamError
            If the stream breaks off; has the text until then.
        """
        self._check_alive()
        stream = await self._async_endpoint.stream(
            prompt, sampling_params=sampling_params, session_id=session_id
        )
        async with stream:
            async for text in stream:
                yield text

    add_request = async_generate

    def encode(self, prompt: str | list[str] | list[dict[str, Any]] | list[list[dict[str, Any]]]) -> str:
        """Embed a text, on a server that was started with ``is_embedding=True``.

        Parameters
        ----------
        prompt : str, or list of str, dict or list of dict
            What to embed.

        Returns
        -------
        str
            JSON: an object with ``embedding``, or a list of them for a batch.
        """
        many = isinstance(prompt, list)
        rids = request_names(None, len(prompt) if many else 1, many)
        return self._post("/encode", {"text": prompt, "rid": list(rids) if many else rids[0]})

    async def get_server_info(self) -> dict[str, Any]:
        """Return the server's arguments and figures of its scheduler."""
        self._check_alive()
        return await self._async_endpoint.get_server_info()

    @cached_property
    def _async_endpoint(self) -> AsyncRuntimeEndpoint:
        """The client for the awaited calls; its connections are kept."""
        return AsyncRuntimeEndpoint.beside(self.endpoint)

    def get_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer of the folder or hub id that the server names."""
        self._check_alive()
        from transformers import AutoTokenizer  # seconds, so not before

        info = self.endpoint.model_info
        path = info.get("tokenizer_path") or info["model_path"]
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, **self._tokenizer_options)
        return tokenizer

    def start_profile(self, **options: Any) -> None:
        """Start the server's profiler, with SGLang's options such as ``output_dir`` and ``num_steps``."""
        self._check_alive()
        self.endpoint.start_profile(**options)

    def stop_profile(self) -> None:
        """Stop the server's profiler; returns when the traces are written."""
        self._check_alive()
        self.endpoint.stop_profile()

    def cache_prefix(self, prefix: str) -> None:
        """Compute a prefix into the KV cache, so that prompts that begin with it start sooner."""
        self._check_alive()
        self.endpoint.cache_prefix(prefix)

    def flush_cache(self) -> None:
        """Empty the server's KV cache."""
        self._check_alive()
        self.endpoint.flush_cache()

    def _post(self, path: str, body: dict[str, Any]) -> str:
        self._check_alive()
        try:
            return json.dumps(self.endpoint.post(path, body))
        except ServerConnectionError as error:
            # The connection breaks a moment before the end of the process is known.
            assert self._server is not None
            self._server.wait_until_gone(0.5)
            if not self._server.usable:
                raise self._gone_error() from error
            raise

    def _check_alive(self) -> None:
        if self._server is None or not self._server.usable:
            raise self._gone_error()

    def _gone_error(self) -> ServerConnectionError:
        server = self._server
        where = getattr(self, "url", None)
        if server is None or server.stopped:
            return ServerConnectionError(
                "This Runtime was shut down", where=where, hint="Start a new one: Runtime(...)."
            )
        return ServerConnectionError(
            f"The server died: {server.exit_cause()}", where=where, hint=_last_words(server)
        )

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # copy and deepcopy call this too. A second owner would end the first one's server.
        raise ArgumentTypeError(
            "A Runtime owns a server process: it cannot be pickled or copied",
            hint="Hand on runtime.url, and connect to it with RuntimeEndpoint(url, api_key=...).",
        )


def _diagnosis(reference: weakref.ref[Server]) -> str | None:
    """Return why a server does not answer; None while it runs."""
    server = reference()
    if server is None or server.stopped:
        return "Its Runtime was shut down. Start a new one: Runtime(...)."
    server.wait_until_gone(0.5)  # the connection breaks a moment before the end of the process is known
    return None if server.usable else f"The server died: {server.exit_cause()}. {_last_words(server)}"


def _last_words(server: Server) -> str:
    last = server.logs(ERROR_LOG_LINES)
    return f"Start a new one: Runtime(...). The last lines of its log:\n{last}"
