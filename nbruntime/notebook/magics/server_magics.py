"""Magics that start, choose, inspect and stop servers: ``%sgl_launch`` and others."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import magics_class
from IPython.core.magic_arguments import argument
from IPython.display import display

from nbruntime.display.html import visible
from nbruntime.display.views import in_kernel
from nbruntime.launch.phases import ENDED_PHASES
from nbruntime.notebook.magics.base import MagicsBase
from nbruntime.notebook.magics.known_servers import KnownServer
from nbruntime.notebook.magics.options import KEY, OUT, SERVER, magic
from nbruntime.notebook.magics.presenting import show_card

if TYPE_CHECKING:
    from nbruntime.launch.servers import ServerInfo

FOLLOW_SECONDS = 0.3
"""Seconds between two readings of a log that is followed."""


@magics_class
class ServerMagics(MagicsBase):
    """Magics that manage the servers of a session."""

    @magic(
        "line",
        argument("model", nargs="?", metavar="MODEL", help="folder or hub id; the default model if omitted"),
        argument("--model-path", metavar="MODEL", help="the same as MODEL, by SGLang's name"),
        argument("--name", metavar="NAME", help="name of the server; the model's name if omitted"),
        argument("--engine", metavar="KIND", help="auto, sglang or embedded"),
        argument("--python", metavar="FILE", help="interpreter of another environment that has SGLang"),
        argument("--host", metavar="ADDRESS", help="address to listen on"),
        argument("--port", type=int, metavar="N", help="port to listen on; 0 for any"),
        argument("--log-level", metavar="LEVEL", help="debug, info, warning or error"),
        argument("--launch-timeout", type=float, metavar="SECONDS", help="maximum time until it is ready"),
        argument("--keep-alive", action="store_true", help="keep it running when this kernel ends"),
        argument("--replace", action="store_true", help="stop a different server of the same name"),
        argument("--api-key", choices=("auto",), help="make a key that nothing shows; see --api-key-env"),
        KEY,
        OUT,
        server_arguments=True,
    )
    def sgl_launch(self, arguments: Namespace, names: Mapping[str, Any]) -> None:
        """Start a server and show it when it is ready; run again, show the one that is running.

        Further options are server arguments, by SGLang's names. The server ends with the kernel, or by
        %sgl_stop. -o also keeps the Runtime in a variable.

        Examples::

            %sgl_launch
            %sgl_launch meta-llama/Llama-3.1-8B-Instruct --name llama --tp-size 2 --mem-fraction-static 0.85
        """
        from nbruntime.runtime import Runtime

        if arguments.model is not None and arguments.model_path is not None:
            raise UsageError(
                f"Two models were given: {arguments.model} and {arguments.model_path}.\n"
                "Leave one out: --model-path and MODEL mean the same."
            )
        if arguments.api_key and arguments.api_key_env:
            raise UsageError(
                "--api-key auto makes a key, and --api-key-env names another one.\nLeave one of them out."
            )
        own = ("name", "engine", "python", "host", "port", "log_level", "launch_timeout")
        given = {name: value for name in own if (value := getattr(arguments, name)) is not None}
        runtime = Runtime(
            arguments.model_path if arguments.model is None else arguments.model,
            **given,
            **arguments.server_arguments,
            api_key=arguments.api_key or _key(arguments.api_key_env),
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
        argument("--name", metavar="NAME", help="name in this session; the model's name if omitted"),
        KEY,
        argument("--verify", metavar="FILE", help="CA certificates to verify an https server"),
        OUT,
    )
    def sgl_connect(self, arguments: Namespace, names: Mapping[str, Any]) -> None:
        """Connect to a running server.

        -o also keeps the RuntimeEndpoint in a variable.

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
        """List the servers of this session, and those of this user in other kernels."""
        from nbruntime.notebook.magics.server_cards import servers_card

        show_card(servers_card(self.servers.all(), in_use=self.endpoint))

    @magic("line", SERVER)
    def sgl_use(self, arguments: Namespace, names: Mapping[str, Any]) -> None:
        """Choose the server that cells use from now on; without a name, print the current one.

        Examples::

            %sgl_use llama
        """
        known = self.servers.find(arguments.server or self.endpoint)
        if arguments.server:
            self.endpoint = known.name
        print(f"Cells use {known.name} ({known.url}).")

    @magic(
        "line",
        SERVER,
        argument("--live", action="store_true", help="in a notebook, show a live panel: load, charts, log"),
    )
    def sgl_info(self, arguments: Namespace, names: Mapping[str, Any]) -> None:
        """Show a server: model, parallelism, sizes, and all of its arguments.

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
        argument("--follow", action="store_true", help="keep printing until the server ends or on Interrupt"),
    )
    def sgl_logs(self, arguments: Namespace, names: Mapping[str, Any]) -> None:
        """Print the end of a server's log, also after it died.

        Examples::

            %sgl_logs -n 50
        """
        known = self._find(arguments)
        runtime = known.runtime
        if runtime is None:
            raise UsageError(
                f"The log of {known.name} is not available: the server was not launched in this session.\n"
                "Read it where the server was started."
            )
        if not arguments.follow:
            _print_log(runtime.logs(max(0, arguments.lines)))
            return
        text, position = runtime.logs_since()
        _print_log("\n".join(text.split("\n")[-arguments.lines :]) if arguments.lines > 0 else "")
        runs = True
        while runs:
            time.sleep(FOLLOW_SECONDS)
            runs = runtime.phase not in ENDED_PHASES  # before the last read
            text, position = runtime.logs_since(position)
            _print_log(text)

    @magic(
        "line",
        argument(
            "which",
            nargs="?",
            default="all",
            metavar="NAME|all|everywhere|orphans",
            help="servers to stop; all of this kernel if omitted",
        ),
    )
    def sgl_stop(self, arguments: Namespace, names: Mapping[str, Any]) -> None:
        """Stop servers, and wait until their processes have ended.

        `all` stops those that this kernel started, `everywhere` those of all kernels of this user, and
        `orphans` those whose kernel has ended.

        Examples::

            %sgl_stop llama
        """
        from nbruntime.launch.servers import ServerList, servers, stop

        which = arguments.which
        known = self.servers.named(which)
        if known is None:
            ended = stop(which)
        elif known.runtime is not None and known.state in ENDED_PHASES:
            known.runtime.shutdown()  # not by its address, which another server may have by now
            ended = ServerList()
        elif known.url in {server.url for server in servers()}:
            ended = stop(known.url)
        else:
            raise UsageError(
                f"nbruntime is only connected to {which}; it did not start it.\n"
                "Stop it where it was started; %sgl_servers lists the servers that can be stopped here."
            )
        self.servers.forget_ended({server.url for server in ended})
        if self.endpoint and self.endpoint not in self.servers.names():
            self.endpoint = ""
        print(f"Ended: {', '.join(map(_ended, ended)) or 'none'}.")
        if ended.note:
            print(ended.note.replace("nbruntime.stop('everywhere')", "%sgl_stop everywhere"))

    @magic("line", SERVER)
    def sgl_flush(self, arguments: Namespace, names: Mapping[str, Any]) -> None:
        """Empty a server's KV cache, so that the next prompt is computed in full."""
        known = self._find(arguments)
        known.endpoint.flush_cache()
        print(f"The KV cache of {known.name} is empty.")

    def _find(self, arguments: Namespace) -> KnownServer:
        return self.servers.find(arguments.server or self.endpoint)

    def _bind(self, name: str | None, value: object) -> None:
        if name:
            self.shell.push({name: value})


def _ended(server: ServerInfo) -> str:
    mine = server.owner.startswith("this kernel")
    return server.name if mine else f"{server.name} ({server.model}, {server.whose})"


def _print_log(text: str) -> None:
    if text:
        print(visible(text), flush=True)


def _key(variable: str | None) -> str | None:
    """Read a key from the environment; an error never shows `variable`, which may be a key by mistake."""
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
