"""Server arguments on the line of `%sgl_launch`: any that the server has, by its name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from IPython.core.error import UsageError

from nbruntime.protocol.server_arguments import EMBEDDED_ARGUMENTS

_TYPES = {argument.name: argument.type for argument in EMBEDDED_ARGUMENTS}


def take_server_arguments(words: Sequence[str], own: Collection[str]) -> tuple[list[str], dict[str, Any]]:
    """Take the server's arguments from among the words of a line.

    Parameters
    ----------
    words : sequence of str
        Of the line, options with dashes.
    own : collection of str
        Options of the magic itself.

    Returns
    -------
    kept : list of str
        The other words.
    arguments : dict
        Server arguments by their Python names; whether they exist is for the engine to say.

    Raises
    ------
    UsageError
        If a value is missing, or has the wrong type.

    Examples
    --------
    >>> take_server_arguments(["model", "--tp-size", "2", "--disable-radix-cache", "--name", "a"], {"--name"})
    (['model', '--name', 'a'], {'tp_size': 2, 'disable_radix_cache': True})
    """
    from nbruntime.launch.sglang_arguments import FLAGS, LISTS, NAMES, SWITCHES

    kept: list[str] = []
    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if not option.startswith("--") or option in own:
            kept.append(word)
            continue
        name = option[2:].replace("-", "_")
        values = [value] if equals else []
        if name in FLAGS | SWITCHES or _TYPES.get(name) is bool:
            if equals:
                raise UsageError(f"{option} takes no value.\nIt is on when it stands on the line.")
            found[name] = True
        elif name.removeprefix("no_") in SWITCHES:
            found[name.removeprefix("no_")] = False
        else:
            while not equals and rest and not rest[0].startswith("--") and (not values or name in LISTS):
                values.append(rest.pop(0))
            if not values and name in {*NAMES, *_TYPES}:
                raise UsageError(f"{option} has no value.\nWrite it as {option} VALUE.")
            read = [_read(option, name, each) for each in values]
            found[name] = read if name in LISTS else read[0] if read else True
    return kept, found


def server_options() -> list[str]:
    """Give all server arguments as they are typed."""
    from nbruntime.launch.sglang_arguments import NAMES

    hidden = {"fd", "api_key", "admin_api_key"}
    return sorted("--" + name.replace("_", "-") for name in {*NAMES, *_TYPES} - hidden)


def _read(option: str, name: str, text: str) -> Any:
    kind = _TYPES.get(name)
    if kind is None:
        return _number_or_text(text)
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{option} takes {_WORDS[kind]}, not {text!r}.\nSuch as {option} 1.") from None


_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "no value"}


def _number_or_text(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
