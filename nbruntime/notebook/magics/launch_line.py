"""Server arguments on the line of `%sgl_launch`, by their names."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any

from IPython.core.error import UsageError

from nbruntime.notebook.magics.lines import Part
from nbruntime.protocol.nearest_names import nearest_name
from nbruntime.protocol.server_arguments import EMBEDDED_ARGUMENTS

_TYPES = {argument.name: argument.type for argument in EMBEDDED_ARGUMENTS}
_ON = {argument.name for argument in EMBEDDED_ARGUMENTS if argument.default is True}
_TYPES_IN_WORDS: dict[type | None, str] = {int: "a whole number", float: "a number"}


def take_server_arguments(parts: Iterable[Part], own: Collection[str]) -> tuple[list[Part], dict[str, Any]]:
    """Separate the server's arguments, by their Python names, from the other parts of a line.

    `own` are the options of the magic itself. The engine checks later that the arguments exist.

    Examples
    --------
    >>> parts = [Part("--tp-size", ["2"]), Part("--disable-radix-cache", ["model"]), Part("--name", ["a"])]
    >>> kept, arguments = take_server_arguments(parts, {"--name"})
    >>> arguments
    {'tp_size': 2, 'disable_radix_cache': True}
    >>> [(part.option, part.values) for part in kept]
    [('', ['model']), ('--name', ['a'])]
    """
    from nbruntime.launch.arguments import OWN_ARGUMENTS
    from nbruntime.launch.engines.sglang_arguments import FLAGS, LISTS, NAMES, SWITCHES

    kept: list[Part] = []
    found: dict[str, Any] = {}
    for part in parts:
        option, values = part.option, part.values
        if not option.startswith("--") or option in own:
            kept.append(part)
            continue
        name, taken = option[2:].replace("-", "_"), 0
        if name in OWN_ARGUMENTS:
            raise UsageError(f"%sgl_launch has no option {option}.\nIn Python, Runtime({name}=…) takes it.")
        if name in FLAGS | SWITCHES or _TYPES.get(name) is bool:
            if part.closed:
                raise UsageError(f"{option} takes no value.\nWrite {option} alone to switch it on.")
            found[name] = True
        elif name.removeprefix("no_") in SWITCHES | _ON:
            found[name.removeprefix("no_")] = False
        elif not values and name in {*NAMES, *_TYPES}:
            raise UsageError(f"{option} needs a value.\nWrite it as {option} VALUE.")
        else:
            if name not in {*NAMES, *_TYPES}:
                meant = nearest_name(option, [*own, *server_options()])
                if meant in own:
                    raise UsageError(f"%sgl_launch has no option {option}.\nDid you mean {meant}?")
            taken = len(values) if name in LISTS else 1
            read = [_read(option, _TYPES.get(name), each) for each in values[:taken]]
            found[name] = read if name in LISTS else read[0] if read else True
        if values[taken:]:
            kept.append(Part("", values[taken:]))
    return kept, found


def server_options() -> list[str]:
    """Return all server arguments as they are typed."""
    from nbruntime.launch.engines.sglang_arguments import NAMES

    hidden = {"fd", "api_key", "admin_api_key"}
    return sorted("--" + name.replace("_", "-") for name in {*NAMES, *_TYPES} - hidden)


def _read(option: str, kind: type | None, text: str) -> Any:
    """Convert a value to its type; without a type, to a number if it is one."""
    for convert in (int, float, str) if kind is None else (kind,):
        with suppress(ValueError):
            return convert(text)
    raise UsageError(f"{option} takes {_TYPES_IN_WORDS[kind]}, not {text!r}.\nWrite for example {option} 1.")
