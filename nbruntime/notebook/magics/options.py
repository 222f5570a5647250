"""Options of the magics, and parsing of their lines."""

from __future__ import annotations

import functools
import inspect
import keyword
import re
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from IPython.core.error import UsageError
from IPython.core.magic import line_cell_magic, line_magic, needs_local_scope, no_var_expand
from IPython.core.magic_arguments import argument, argument_group, magic_arguments

from nbruntime.notebook.magics.launch_line import take_server_arguments
from nbruntime.notebook.magics.lines import Part, refuse_keys, split_line
from nbruntime.protocol.nearest_names import nearest_name
from nbruntime.protocol.sampling import PARAMETER_NAMES

VIEWS = ("markdown", "plain", "none")
"""Choices of ``--view``."""

HELP = ("-h", "--help")
"""Options of every magic that print what ``%magic?`` shows."""

Option = Callable[[Any], Any]
"""A decorator from `IPython.core.magic_arguments`."""


def variable_name(text: str) -> str:
    """Check the name of a variable for a result."""
    if not text.isidentifier() or keyword.iskeyword(text):
        raise ArgumentTypeError(f"{text!r} is not the name of a variable")
    return text


def typed_text(text: str) -> str:
    r"""Replace ``\n`` and ``\t`` by the characters, which cannot be typed on one line."""
    return text.replace(r"\n", "\n").replace(r"\t", "\t")


OUT = argument("-o", "--out", type=variable_name, metavar="NAME", help="keep the result in this variable")

ENDPOINT = argument(
    "--endpoint",
    metavar="NAME",
    help="server to ask: a name from %%sgl_servers, or a variable that holds a Runtime or RuntimeEndpoint",
)

SERVER = argument("server", nargs="?", metavar="NAME", help="needed only if several servers are known")

KEY = argument(
    "--api-key-env",
    metavar="VARIABLE",
    help="environment variable that holds the server's key; never write the key itself on the line",
)

ANSWER: tuple[Option, ...] = (
    argument_group("answer"),
    OUT,
    ENDPOINT,
    argument("--view", choices=VIEWS, help="how the answer is shown"),
    argument("--plain", dest="view", action="store_const", const="plain", help="the same as --view plain"),
    argument("--no-stream", action="store_true", help="wait for the whole answer"),
    argument("--timeout", type=float, metavar="SECONDS", help="stop the answer when it takes longer"),
)

PROMPT: tuple[Option, ...] = (
    argument_group("prompt"),
    argument("--system", metavar="TEXT", help="instructions for the whole conversation"),
    argument(
        "--template",
        action="store_true",
        help="replace {{name}} by the value of a variable; otherwise the cell is sent as it is",
    ),
)

SAMPLING: tuple[Option, ...] = (
    argument_group("sampling"),
    argument("--temperature", type=float, metavar="T", help="randomness; 0 always takes the likeliest token"),
    argument("--max-new-tokens", type=int, metavar="N", help="maximum number of tokens to generate"),
    argument("--min-new-tokens", type=int, metavar="N", help="minimum number of tokens to generate"),
    argument("--top-p", type=float, metavar="P", help="share of the probability to sample from, in (0, 1]"),
    argument("--top-k", type=int, metavar="K", help="number of tokens to sample from; -1 for all"),
    argument("--min-p", type=float, metavar="P", help="minimum probability relative to the likeliest token"),
    argument("--frequency-penalty", type=float, metavar="X", help="penalty per use of a token, in [-2, 2]"),
    argument("--presence-penalty", type=float, metavar="X", help="penalty for used tokens, in [-2, 2]"),
    argument("--repetition-penalty", type=float, metavar="X", help="factor against repetition, in (0, 2]"),
    argument(
        "--stop",
        type=typed_text,
        nargs="+",
        action="extend",
        metavar="S",
        help=r"texts that end the answer; \n is a line feed",
    ),
    argument("--ignore-eos", action="store_true", default=None, help="continue after the model's end token"),
    argument(
        "--seed",
        "--sampling-seed",
        dest="sampling_seed",
        type=int,
        metavar="N",
        help="seed that makes the sampling repeatable",
    ),
    argument("--regex", metavar="R", help="regular expression that the whole answer must match"),
    argument("--ebnf", metavar="G", help="EBNF grammar that the answer must follow"),
    argument(
        "--json-schema",
        metavar="NAME|FILE",
        help="variable (dict, text or pydantic model) or file with a JSON schema for the answer",
    ),
    argument("--logprobs", type=int, metavar="K", help="return logprobs, also of the K likeliest tokens"),
    argument("--lora", "--lora-path", dest="lora_path", metavar="NAME", help="LoRA adapter to use"),
)

SAMPLES = argument("--n", type=int, metavar="N", help="number of answers")


def magic(
    kind: Literal["line", "cell"], *options: Option, server_arguments: bool = False
) -> Callable[[Callable[..., Any]], Any]:
    """Turn a method into a magic with some options and positional arguments, and with `HELP`.

    The method gets the values of the options, the variables in scope, and for a cell magic the cell. With
    `server_arguments`, the line may also have any argument of a server.
    """

    def decorate(method: Callable[..., Any]) -> Any:
        @functools.wraps(method)
        def run(self: Any, line: str, *cell: str, local_ns: Mapping[str, Any] | None = None) -> Any:
            names = {**self.shell.user_ns, **(local_ns or {})}
            with self.showing_errors():
                parts = split_line(line, names)
                if any(part.option in HELP for part in parts):
                    print(inspect.cleandoc(made.__doc__).removeprefix("::").strip())
                    return None
                if kind == "cell" and not cell:
                    raise UsageError(
                        f"The cell of %{name} goes below its line.\n%{name}? explains the options."
                    )
                refuse_keys(parts)
                others: dict[str, Any] = {}
                if server_arguments:
                    parts, others = take_server_arguments(parts, option_names(made.parser))
                arguments = parse(made.parser, parts)
                arguments.server_arguments = others
                return method(self, arguments, names, *cell)

        del run.__wrapped__  # IPython 7 would take its signature for this one
        name = f"{'%' * (kind == 'cell')}{method.__name__}"
        made: Any = run
        for option in reversed(options):
            made = option(made)
        made = magic_arguments(name)(made)
        made.parser.allow_abbrev = False
        # IPython runs no cell magic without a cell: its help is there on a line alone, too.
        register = line_cell_magic if kind == "cell" else line_magic
        return no_var_expand(needs_local_scope(register(made)))

    return decorate


def parse(parser: Any, parts: Iterable[Part]) -> Namespace:
    """Parse the parts of a line from `split_line`; an error names the nearest option."""
    words = [word for part in parts for word in _words(parser, part)]
    if alone := next((word for word in words if re.fullmatch(r"(-[^=]*=)?--", word)), None):
        # argparse drops it silently (Python 3.11).
        raise UsageError(f"{alone} is not a value.\n%{parser.prog}? explains the options.")
    try:
        arguments, extra = parser.parse_known_args(words)
    except UsageError as error:
        hint = "A value that begins with - is written --option=VALUE. " if "expected" in str(error) else ""
        raise UsageError(f"{error}\n{hint}%{parser.prog}? explains the options.") from None
    if extra:
        raise UsageError(_unknown(extra[0], parser))
    return arguments  # type: ignore[no-any-return]


def _words(parser: Any, part: Part) -> list[str]:
    """Return words for argparse, in which no value of an option looks like another option."""
    action = next((each for each in parser._actions if part.option in each.option_strings), None)
    if part.closed:
        taken = 1
    elif action is None or action.nargs == 0:
        taken = 0
    else:
        taken = len(part.values) if action.nargs == "+" else 1
    words = [f"{part.option}={value}" for value in part.values[:taken]]
    if part.option and not words:
        words = [part.option]
    return words + part.values[taken:]


def option_names(parser: Any) -> list[str]:
    """Return the options of a magic as they are typed."""
    return [*(name for action in parser._actions for name in action.option_strings), *HELP]


def _unknown(word: str, parser: Any) -> str:
    name = f"%{parser.prog}"
    if not word.startswith("-"):
        where = " The prompt goes below the line." if name.startswith("%%") else ""
        return f"{name} does not take {word!r} on its line.{where}\n{name}? explains the options."
    option = word.partition("=")[0]
    meant = _nearest_options(option, option_names(parser))
    hint = f"Did you mean {' or '.join(meant)}?" if meant else f"{name}? explains the options."
    return f"{name} has no option {option}.\n{hint}"


def _nearest_options(given: str, options: Sequence[str]) -> list[str]:
    """Return the options that begin like the given one, or else the most similar one."""
    if begun := [option for option in options if option.startswith(given)]:
        return begun
    names = {option.lstrip("-").replace("-", "_"): option for option in options}
    found = nearest_name(given.lstrip("-").replace("-", "_"), names)
    return [names[found]] if found else []


def sampling_of(arguments: Namespace) -> dict[str, Any]:
    """Return the sampling parameters of a line, by SGLang's names."""
    given = vars(arguments)
    return {name: given[name] for name in PARAMETER_NAMES if given.get(name) is not None}
