"""The magics: ``%load_ext nbruntime`` brings them."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, magics_class
from IPython.core.magic_arguments import argument, argument_group
from IPython.display import display
from traitlets import Bool, Dict, Enum, Float, TraitError, Unicode, validate
from traitlets.config import Configurable

from nbruntime.display.html import visible
from nbruntime.display.views import in_kernel
from nbruntime.errors import GenerationError, NbruntimeError
from nbruntime.launch.phases import ENDED_PHASES
from nbruntime.notebook.magics.known_servers import KnownServer, KnownServers
from nbruntime.notebook.magics.options import (
    ANSWER,
    KEY,
    OUT,
    PROMPT,
    SAMPLES,
    SAMPLING,
    SERVER,
    VIEWS,
    magic,
    sampling_of,
    variable_name,
)
from nbruntime.notebook.magics.presenting import prepare, show_card, show_generations, show_stream
from nbruntime.notebook.magics.prompts import cell_text, fill_template, read_schema
from nbruntime.notebook.views.draw_rate import DRAW_LIMITS, DRAWS_PER_SECOND
from nbruntime.protocol.requests import build_generate_request

if TYPE_CHECKING:
    from nbruntime.chat.conversation import Conversation
    from nbruntime.generation import Generation

LAST = "_sgl"
"""Variable that holds the last answer, as IPython's ``_`` holds the last output."""

FOLLOW_SECONDS = 0.3
"""How often a log that is followed is looked at."""

Keep = Callable[[Sequence["Generation"]], None]


@magics_class
class SglMagics(Magics, Configurable):  # type: ignore[misc]
    """Magics for SGLang servers; ``%config SglMagics`` shows and sets their defaults.

    Parameters
    ----------
    shell : InteractiveShell
        Whose they are.
    """

    endpoint = Unicode("", help="Server that cells ask unless they name one; %sgl_use sets it.").tag(
        config=True
    )
    sampling = Dict(
        help="Sampling parameters of every cell, by SGLang's names, such as "
        "{'temperature': 0, 'max_new_tokens': 256}. What stands on a line goes before them."
    ).tag(config=True)
    view = Enum(VIEWS, "markdown", help="How answers are shown; a terminal always shows plain text.").tag(
        config=True
    )
    draws_per_second = Float(
        DRAWS_PER_SECOND,
        min=DRAW_LIMITS[0],
        max=DRAW_LIMITS[1],
        help="How often a growing answer is drawn at most.",
    ).tag(config=True)
    short_errors = Bool(True, help="Show errors without a traceback.").tag(config=True)

    def __init__(self, shell: Any) -> None:
        super().__init__(shell=shell)
        self.servers = KnownServers(lambda: self.shell.user_ns)

    @validate("sampling")
    def _check_sampling(self, proposal: Any) -> dict[str, Any]:
        try:
            build_generate_request("", sampling_params=proposal["value"])
        except NbruntimeError as error:
            raise TraitError(str(error)) from error
        value: dict[str, Any] = proposal["value"]
        return value

    # Asking

    @magic(
        "cell",
        *PROMPT,
        argument("--chat", action="store_true", help="the cell is a message; --system means it, too"),
        *SAMPLING,
        SAMPLES,
        *ANSWER,
    )
    def sgl_generate(self, arguments: Namespace, names: Mapping[str, Any], cell: str) -> None:
        """Generate text from the cell, which is the prompt as it stands, and stream the answer below it.

        The answer is kept in `_sgl`, and in the variable that -o names: a Generation, or a list of them for
        --n. After an interrupt it holds what had come. Values on the line may be {expressions} and $names;
        quotes hold one together, and a backslash is a backslash, before a quote too.

        Examples::

            %%sgl_generate -o answer --temperature 0 --max-new-tokens 32
            The capital of France is

            %%sgl_generate --chat --system "Be brief." --template
            Explain {{word}}.
        """
        prompt = _prompt(arguments, names, cell)
        if arguments.chat or arguments.system is not None:
            from nbruntime.chat.conversation import Conversation

            messages = Conversation(arguments.system).asking(prompt)
            self._answer(arguments, names, messages, self._keeper(arguments.out))
        else:
            self._answer(arguments, names, prompt, self._keeper(arguments.out))

    @magic(
        "cell",
        argument_group("conversation"),
        argument(
            "--conversation",
            type=variable_name,
            default="conversation",
            metavar="NAME",
            help="variable that holds the conversation; made when it is not there (default: conversation)",
        ),
        argument("--reset", action="store_true", help="begin anew; the instructions stay"),
        *PROMPT,
        *SAMPLING,
        *ANSWER,
    )
    def sgl_chat(self, arguments: Namespace, names: Mapping[str, Any], cell: str) -> None:
        """Say the cell to the model, in a conversation that goes on from cell to cell.

        The conversation is an object in a variable: it shows its transcript, `messages` gives the messages,
        and `undo()` takes the last turn back. After an interrupt it holds what had come.

        Examples::

            %%sgl_chat --system "You are a patient teacher."
            Why is the sky blue?

            %%sgl_chat
            And at sunset?
        """
        prompt = _prompt(arguments, names, cell)
        talk = self._conversation(arguments.conversation, anew=arguments.reset)
        if arguments.system is not None:
            talk.system = arguments.system
        keep_answer = self._keeper(arguments.out)

        def keep(generations: Sequence[Generation]) -> None:
            keep_answer(generations)
            if generations[0].text:
                talk.add(prompt, generations[0])
                self.shell.push({arguments.conversation: talk})

        self._answer(arguments, names, talk.asking(prompt), keep)

    def _conversation(self, name: str, *, anew: bool) -> Conversation:
        from nbruntime.chat.conversation import Conversation

        talk = self.shell.user_ns.get(name)
        if talk is None:
            return Conversation()
        if not isinstance(talk, Conversation):
            raise UsageError(
                f"The variable {name} is a {type(talk).__name__}, not a conversation.\n"
                "Give another name: --conversation NAME."
            )
        return Conversation(talk.system) if anew else talk

    def _answer(self, arguments: Namespace, names: Mapping[str, Any], prompt: Any, keep: Keep) -> None:
        """Ask, show the answer, and keep as much of it as came."""
        endpoint = self.servers.find(arguments.endpoint or self.endpoint).endpoint
        chat = not isinstance(prompt, str)
        view = arguments.view or self.view
        given = _request(arguments, names) | {"sampling_params": self.sampling}
        if arguments.no_stream:
            try:
                answer = (endpoint.chat if chat else endpoint.complete)(prompt, **given)
            except GenerationError as error:
                keep(error.generations)
                raise
            generations = answer if isinstance(answer, list) else [answer]
            keep(generations)
            show_generations(generations, view=view)
            return
        prepare(view)
        stream = (endpoint.stream_chat if chat else endpoint.stream)(prompt, **given)
        try:
            show_stream(stream, view=view, draws_per_second=self.draws_per_second)
        except KeyboardInterrupt as interrupt:
            interrupt.args = (f"what had come is in {arguments.out or LAST}",)
            raise
        finally:
            keep(stream.generations)

    def _keeper(self, name: str | None) -> Keep:
        from nbruntime.generation import Generations

        def keep(generations: Sequence[Generation]) -> None:
            result = generations[0] if len(generations) == 1 else Generations(generations)
            self.shell.push({LAST: result}, interactive=False)
            if name:
                self.shell.push({name: result})

        return keep

    def forget_result(self) -> None:
        """Remove the variable of the last answer."""
        self.shell.user_ns.pop(LAST, None)
        self.shell.user_ns_hidden.pop(LAST, None)

    # Servers

    @magic(
        "line",
        argument(
            "model", nargs="?", metavar="MODEL", help="folder, hub id, or the default model when left out"
        ),
        argument("--model-path", metavar="MODEL", help="the same, by SGLang's name"),
        argument("--name", metavar="NAME", help="what the server is called; the model's name when left out"),
        argument("--engine", metavar="KIND", help="auto, sglang or embedded"),
        argument("--python", metavar="FILE", help="interpreter of another environment that has SGLang"),
        argument("--host", metavar="ADDRESS", help="address to listen on"),
        argument("--port", type=int, metavar="N", help="port to listen on; 0 for any"),
        argument("--log-level", metavar="LEVEL", help="debug, info, warning or error"),
        argument("--launch-timeout", type=float, metavar="SECONDS", help="how long it may take to be ready"),
        argument("--keep-alive", action="store_true", help="let it outlive this kernel"),
        argument("--replace", action="store_true", help="end a server of the same name that is another one"),
        KEY,
        OUT,
        server_arguments=True,
    )
    def sgl_launch(self, arguments: Namespace, names: Mapping[str, Any]) -> None:
        """Start a server, and show it when it is ready; run again, it gives the one that is running.

        Every further option is an argument of the server, by SGLang's name. The server ends with the kernel,
        or by %sgl_stop. With -o the Runtime is kept in a variable, too.

        Examples::

            %sgl_launch
            %sgl_launch meta-llama/Llama-3.1-8B-Instruct --name llama --tp-size 2 --mem-fraction-static 0.85
        """
        from nbruntime.runtime import Runtime

        if arguments.model is not None and arguments.model_path is not None:
            raise UsageError(
                f"Two models are named: {arguments.model} and {arguments.model_path}.\n"
                "Leave one out: --model-path is another way to write MODEL."
            )
        own = ("name", "engine", "python", "host", "port", "log_level", "launch_timeout")
        given = {name: value for name in own if (value := getattr(arguments, name)) is not None}
        runtime = Runtime(
            arguments.model_path if arguments.model is None else arguments.model,
            **given,
            **arguments.server_arguments,
            api_key=_key(arguments.api_key_env),
            reuse=True,
            replace=arguments.replace,
            keep_alive=arguments.keep_alive,
        )
        assert runtime.name is not None
        self.servers.add(runtime.name, runtime)
        self._bind(arguments.out, runtime)
        print(f"{runtime.name} is ready ({runtime.url}).")

    @magic(
        "line",
        argument("url", metavar="URL", help="such as http://127.0.0.1:30000"),
        argument("--name", metavar="NAME", help="what it is called here; the model's name when left out"),
        KEY,
        argument("--verify", metavar="FILE", help="certificates to check an https server by"),
        OUT,
    )
    def sgl_connect(self, arguments: Namespace, names: Mapping[str, Any]) -> None:
        """Connect to a server that runs.

        With -o the RuntimeEndpoint is kept in a variable, too.

        Examples::

            %sgl_connect http://127.0.0.1:30000
            %sgl_connect https://llm.example.org --name remote --api-key-env SGLANG_API_KEY
        """
        from nbruntime.endpoint import RuntimeEndpoint

        endpoint = RuntimeEndpoint(arguments.url, _key(arguments.api_key_env), arguments.verify)
        name = arguments.name or self.servers.name_for(endpoint)
        self.servers.add(name, endpoint)
        self._bind(arguments.out, endpoint)
        display(endpoint)

    @magic("line")
    def sgl_servers(self, arguments: Namespace, names: Mapping[str, Any]) -> None:
        """List the servers: those of this session, and those that run for this user in other kernels."""
        from nbruntime.notebook.magics.server_cards import servers_card

        show_card(servers_card(self.servers.all(), in_use=self.endpoint))

    @magic("line", SERVER)
    def sgl_use(self, arguments: Namespace, names: Mapping[str, Any]) -> None:
        """Choose the server that cells ask from now on; without a name, tell which one it is.

        Examples::

            %sgl_use llama
        """
        known = self.servers.find(arguments.server or self.endpoint)
        if arguments.server:
            self.endpoint = known.name
        print(f"Cells ask {known.name} ({known.url}).")

    @magic(
        "line",
        SERVER,
        argument("--live", action="store_true", help="in a notebook, a panel with live load, charts, log"),
    )
    def sgl_info(self, arguments: Namespace, names: Mapping[str, Any]) -> None:
        """Show what a server is: model, parallelism, sizes, and every argument that it runs with.

        Examples::

            %sgl_info
            %sgl_info llama --live
        """
        from nbruntime.notebook.magics.server_cards import info_card

        known = self._find(arguments)
        if arguments.live and in_kernel():
            display((known.runtime or known.client).panel())
        else:
            show_card(info_card(known, known.endpoint.get_server_info()))

    @magic(
        "line",
        SERVER,
        argument("-n", dest="lines", type=int, default=20, metavar="N", help="number of lines (default: 20)"),
        argument("--follow", action="store_true", help="go on until the server ends, or Interrupt"),
    )
    def sgl_logs(self, arguments: Namespace, names: Mapping[str, Any]) -> None:
        """Print the end of a server's log; also that of one that has died.

        Examples::

            %sgl_logs -n 50
        """
        known = self._find(arguments)
        runtime = known.runtime
        if runtime is None:
            raise UsageError(
                f"The log of {known.name} is not here: it is only connected to.\n"
                "It is with whoever has started the server."
            )
        if not arguments.follow:
            _print_log(runtime.logs(max(0, arguments.lines)))
            return
        text, position = runtime.logs_since()
        _print_log("\n".join(text.split("\n")[-arguments.lines :]) if arguments.lines > 0 else "")
        runs = True
        while runs:
            time.sleep(FOLLOW_SECONDS)
            runs = runtime.phase not in ENDED_PHASES  # before the last look
            text, position = runtime.logs_since(position)
            _print_log(text)

    @magic("line", argument("which", metavar="NAME|all|orphans", help="which servers"))
    def sgl_stop(self, arguments: Namespace, names: Mapping[str, Any]) -> None:
        """End a server, and wait until nothing is left of it.

        `all` ends every server of this user, of other kernels too; `orphans` those that nobody needs.

        Examples::

            %sgl_stop llama
        """
        from nbruntime.launch.servers import ServerList, servers, stop

        which = arguments.which
        known = self.servers.named(which)
        if known is None:
            ended = stop(which)
        elif known.runtime is not None and known.state in ENDED_PHASES:
            known.runtime.shutdown()  # and not by its address, which may be another's by now
            ended = ServerList()
        elif known.url in {server.url for server in servers()}:
            ended = stop(known.url)
        else:
            raise UsageError(
                f"{which} is only connected to, and was not started by nbruntime.\n"
                "Whoever has started it ends it; %sgl_servers lists what can be ended here."
            )
        self.servers.forget_ended({server.url for server in ended})
        if self.endpoint and self.endpoint not in self.servers.names():
            self.endpoint = ""
        print(f"Ended: {', '.join(server.name for server in ended) or 'none'}.")

    @magic("line", SERVER)
    def sgl_flush(self, arguments: Namespace, names: Mapping[str, Any]) -> None:
        """Empty the KV cache of a server, so that the next prompt is computed anew."""
        known = self._find(arguments)
        known.endpoint.flush_cache()
        print(f"The KV cache of {known.name} is empty.")

    def _find(self, arguments: Namespace) -> KnownServer:
        return self.servers.find(arguments.server or self.endpoint)

    def _bind(self, name: str | None, value: object) -> None:
        if name:
            self.shell.push({name: value})

    # Errors

    @contextmanager
    def showing_errors(self) -> Iterator[None]:
        """Let errors be shown without a traceback, unless that is wanted."""
        try:
            yield
        except (NbruntimeError, KeyboardInterrupt) as error:
            if self.short_errors and not hasattr(error, "_render_traceback_"):
                lines = visible(f"{type(error).__name__}: {error}".removesuffix(": ")).split("\n")
                # What IPython asks instead of making a traceback.
                error._render_traceback_ = partial(list, lines)  # type: ignore[union-attr]
            raise


def _print_log(text: str) -> None:
    if text:
        print(visible(text), flush=True)


def _prompt(arguments: Namespace, names: Mapping[str, Any], cell: str) -> str:
    text = cell_text(cell)
    return fill_template(text, names) if arguments.template else text


def _request(arguments: Namespace, names: Mapping[str, Any]) -> dict[str, Any]:
    """Give what stands on the line, as a client takes it."""
    given = sampling_of(arguments)
    if arguments.json_schema is not None:
        given["json_schema"] = read_schema(arguments.json_schema, names)
    if arguments.logprobs is not None:
        given |= {"return_logprob": True, "top_logprobs_num": arguments.logprobs or None}
    if arguments.lora_path is not None:
        given["lora_path"] = arguments.lora_path
    return given


def _key(variable: str | None) -> str | None:
    """Read a key from the environment; what was given is never shown, as it may be a key by mistake."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise UsageError(
            "--api-key-env names an environment variable that is not set.\n"
            "Set it where the kernel is started, or here: "
            "import os, getpass; os.environ['SGLANG_API_KEY'] = getpass.getpass()"
        )
    return key
