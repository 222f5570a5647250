"""Tab completion on the lines of the magics: their options, and known values of these."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.completer import SimpleCompletion, context_matcher

from nbruntime.notebook.magics.launch_line import server_options
from nbruntime.notebook.magics.options import option_names

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.core.magic_arguments import MagicArgumentParser

    from nbruntime.notebook.magics.known_servers import KnownServers

MATCHER = "nbruntime.magics"
"""Identifier of the matcher in IPython's completer."""

_LINE = re.compile(r"(?:^|=)\s*(?P<magic>%{1,2}sgl_\w+)\s+(?P<rest>.*)$", re.DOTALL)


class MagicCompleter:
    """Completes the lines of the magics in one shell; `parsers` has names such as ``%%sgl_generate``."""

    def __init__(
        self, parsers: Mapping[str, MagicArgumentParser], servers: KnownServers, shell: InteractiveShell
    ) -> None:
        self._parsers = parsers
        self._servers = servers
        self._shell = shell
        # IPython sets attributes on a matcher, which a bound method cannot have.
        self.matcher = context_matcher(identifier=MATCHER, priority=100)(
            lambda context: self._complete(context)
        )

    def _complete(self, context: CompletionContext) -> SimpleMatcherResult:
        found = _LINE.search(context.text_until_cursor)
        if found is None or (parser := self._parsers.get(found["magic"])) is None:
            return {"completions": []}
        *before, fragment = re.split(r"\s+", found["rest"])
        if fragment.startswith("--") and "=" in fragment:
            option, _, fragment = fragment.partition("=")
            before.append(option)
        is_option = fragment.startswith("-")
        choices = self._options(parser) if is_option else self._values(parser, before, fragment)
        return {
            "completions": [
                SimpleCompletion(choice, type="magic") for choice in choices if choice.startswith(fragment)
            ],
            "matched_fragment": fragment,
            "suppress": True,
        }

    def _options(self, parser: MagicArgumentParser) -> list[str]:
        names = [name for name in option_names(parser) if name.startswith("--")]
        return [*names, *server_options()] if parser.prog == "sgl_launch" else names

    def _values(self, parser: MagicArgumentParser, before: Sequence[str], fragment: str) -> list[str]:
        """Return the values of the option before the cursor, or of the positional argument."""
        actions = {name: action for action in parser._actions for name in action.option_strings}
        action = actions.get(before[-1].replace("_", "-")) if before and before[-1].startswith("-") else None
        if action is None or action.nargs == 0:
            action = next((each for each in parser._actions if not each.option_strings), None)
            if action is None:
                return self._options(parser)
        if action.choices is not None:
            return [str(choice) for choice in action.choices]
        match action.dest:
            case "endpoint" | "server":
                return list(self._servers.names())
            case "engine":
                return ["auto", "embedded", "sglang"]
            case "which":
                from nbruntime.launch.registry import RESERVED

                return [*self._servers.names(), *RESERVED]
            case "out":
                return self._variables(lambda value: not callable(value))
            case "conversation":
                return self._variables(lambda value: type(value).__name__ == "Conversation")
            case "json_schema":
                return [*self._variables(_is_schema), *_json_files(fragment)]
        return []

    def _variables(self, fits: Callable[[Any], bool]) -> list[str]:
        names, hidden = self._shell.user_ns, self._shell.user_ns_hidden
        shown = [name for name in names if name not in hidden and not name.startswith("_")]
        return sorted(name for name in shown if fits(names[name]))


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict) or hasattr(value, "model_json_schema")


def _json_files(fragment: str) -> list[str]:
    folder, slash, _ = fragment.rpartition("/")
    return sorted(folder + slash + path.name for path in Path(folder + slash).glob("*.json"))
