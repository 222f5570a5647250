"""Checks of the arguments of `nbruntime.bench`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.profiling.bench.options import BenchOptions
from nbruntime.protocol.nearest_names import nearest_name
from nbruntime.protocol.options import OPTION_NAMES
from nbruntime.protocol.requests import build_generate_request
from nbruntime.protocol.sampling import PARAMETER_NAMES

SWEEPS = ("concurrency", "rate")

_NAMES_ELSEWHERE = {
    "max_new_tokens": "output_tokens",
    "max_tokens": "output_tokens",
    "random_input_len": "prompt_tokens",
    "random_output_len": "output_tokens",
    "num_prompts": "requests",
    "request_rate": "rate",
    "max_concurrency": "concurrency",
    "users": "concurrency",
    "rid": None,
    "stream": None,
}
"""Names that other clients and `bench_serving` use, and that of the argument here; None if there is none."""

_LOOP_HINT = (
    "concurrency=8 lets 8 users send one request after the other; rate=2.0 sends 2 requests a second."
)


MOST_REQUESTS = 1_000_000
"""Requests of one run, which are all planned before it."""

MOST_USERS = 10_000

MOST_RATE = 1e6


def check_together(options: BenchOptions) -> None:
    """Refuse arguments that say nothing together, or contradict each other, or are too much for a client."""
    _check_size(options)
    if (options.prompts or options.replay) and options.prefix_tokens:
        raise ArgumentTypeError(
            "shared_prefix is for random prompts", where="shared_prefix", hint="Leave it out."
        )
    if options.prompts and options.replay:
        raise ArgumentTypeError("Both prompts and replay are given", where="replay", hint="Give one of them.")
    if options.replay and options.rate is not None:
        raise ArgumentTypeError(
            "Both rate and replay are given", where="rate", hint="A replay has its own times; give speed=..."
        )
    if options.speed != 1 and not options.replay:
        raise ArgumentTypeError("speed is for a replay", where="speed", hint="Give replay=FILE, or rate=...")
    if options.loop == "open" and options.think_time:
        raise ArgumentTypeError("An open loop has no users who think", where="think_time", hint=_LOOP_HINT)
    if options.loop == "closed" and options.burstiness != 1:
        raise ArgumentTypeError("burstiness is for an open loop", where="burstiness", hint=_LOOP_HINT)
    if options.rate == math.inf and options.seconds is not None:
        raise ArgumentTypeError(
            "All requests at once take no seconds", where="seconds", hint="Give requests=... instead."
        )
    least = options.prompt_tokens.least
    if least is not None and options.prefix_tokens >= least:
        raise ArgumentValueError(
            f"The shared prefix of {options.prefix_tokens} tokens is as long as a prompt of {least}",
            where="shared_prefix",
            hint="prompt_tokens counts the whole prompt, with its prefix: give more, or a shorter prefix.",
        )


def _check_size(options: BenchOptions) -> None:
    measured, rate, seconds = options.measured_requests, options.rate or 0.0, options.seconds or 0.0
    if options.users > MOST_USERS:
        raise ArgumentValueError(
            f"{options.users:,} users are too many", where="concurrency", hint=f"At most {MOST_USERS:,}."
        )
    if MOST_RATE < rate < math.inf:
        raise ArgumentValueError(
            f"rate is {rate:g}",
            where="rate",
            hint=f'At most {MOST_RATE:,.0f}, or float("inf"): all at once.',
        )
    planned = options.warmup_requests + (measured or 0 if rate == math.inf else measured or rate * seconds)
    if planned > MOST_REQUESTS:
        raise ArgumentValueError(
            f"{planned:,.0f} requests are too many for one run",
            where="requests",
            hint=f"At most {MOST_REQUESTS:,}, with the warm-up.",
        )


def read_sweep(sweep: Any, options: BenchOptions) -> list[BenchOptions]:
    """Return the options of each run of a sweep."""
    given = sweep if isinstance(sweep, Mapping) else {"concurrency": sweep}
    hint = 'Give numbers of users, such as [1, 2, 4, 8], or {"rate": [1, 2, 4]}.'
    if len(given) != 1:
        raise ArgumentTypeError("A sweep goes over one argument", where="sweep", hint=hint)
    [(kind, levels)] = given.items()
    if kind not in SWEEPS:
        near = nearest_name(str(kind), SWEEPS)
        raise ArgumentValueError(
            f"A sweep over {kind!r} is not known",
            where="sweep",
            hint=f"Did you mean {near!r}?" if near else hint,
        )
    numbers = levels.tolist() if hasattr(levels, "tolist") else levels  # of numpy
    if isinstance(numbers, str) or not isinstance(numbers, Sequence):
        raise ArgumentTypeError(f"sweep is a {type(numbers).__name__}", where="sweep", hint=hint)
    if not numbers:
        raise ArgumentValueError("sweep is empty", where="sweep", hint=hint)
    if kind == "concurrency" and (options.rate is not None or options.concurrency is not None):
        raise ArgumentTypeError(
            "A sweep over users takes no concurrency or rate", where="sweep", hint="Leave them out."
        )
    if kind == "rate" and options.rate is not None:
        raise ArgumentTypeError("A sweep over rates takes no rate", where="sweep", hint="Leave rate out.")
    if kind == "rate" and options.replay:
        raise ArgumentTypeError("A replay has its own times", where="sweep", hint="Sweep over users instead.")
    for number in numbers:
        positive_number("sweep", number, finite=False) if kind == "rate" else whole_number("sweep", number)
    return [options.at_level(kind, number) for number in numbers]


def read_prefix(given: Any) -> dict[str, int]:
    """Read the length of the shared beginning, and the number of groups."""
    if isinstance(given, tuple) and len(given) == 2:
        tokens, groups = given
        return {
            "prefix_tokens": whole_number("shared_prefix", tokens),
            "prefix_groups": whole_number("shared_prefix", groups),
        }
    return {"prefix_tokens": whole_number("shared_prefix", given, least=0)}


def read_prompts(given: Any) -> list[Any]:
    """Check the prompts of the caller."""
    if given is None:
        return []
    hint = "Give texts, lists of token ids, or conversations: [[{'role': 'user', 'content': '...'}], ...]."
    if isinstance(given, str):
        return [given]
    if isinstance(given, Mapping) or not hasattr(given, "__iter__"):
        raise ArgumentTypeError(f"prompts is a {type(given).__name__}", where="prompts", hint=hint)
    prompts = list(given)
    if not prompts:
        raise ArgumentValueError("prompts is empty", where="prompts", hint=hint)
    for prompt in prompts:
        if not isinstance(prompt, str | Sequence | Mapping) and not hasattr(prompt, "tolist"):
            raise ArgumentTypeError(f"A prompt is a {type(prompt).__name__}", where="prompts", hint=hint)
        if not isinstance(prompt, Mapping) and len(prompt) == 0:
            raise ArgumentValueError("A prompt is empty", where="prompts", hint=hint)
        if not isinstance(prompt, str | Mapping) and not all(map(_is_part, prompt)):
            raise ArgumentValueError("A token is no whole number from 0", where="prompts", hint=hint)
    return prompts


def _is_part(part: Any) -> bool:
    """Tell whether something can be a message or a token."""
    is_token = hasattr(part, "__index__") and not isinstance(part, bool) and int(part) >= 0
    return is_token or isinstance(part, str | Mapping)


def read_body(parameters: dict[str, Any], arguments: Iterable[str]) -> dict[str, Any]:
    """Check the sampling parameters, and make the fields that all requests have."""
    for name in parameters:
        if name in _NAMES_ELSEWHERE:
            use = _NAMES_ELSEWHERE[name]
            raise ArgumentTypeError(
                f"bench takes no {name}", where=name, hint=f"Use {use}=..." if use else "Leave it out."
            )
        if name not in PARAMETER_NAMES and name not in (*OPTION_NAMES, "sampling_params"):
            near = nearest_name(name, (*arguments, *PARAMETER_NAMES, *OPTION_NAMES))
            raise ArgumentTypeError(
                f"There is no argument {name!r}",
                where="bench",
                hint=f"Did you mean {near!r}?" if near else "See help(nbruntime.bench).",
            )
    request = build_generate_request("", rid="check", **parameters)
    if request.samples != 1:
        raise ArgumentValueError("n is not 1", where="n", hint="Leave it out: each request has one answer.")
    return {name: value for name, value in request.body.items() if name not in ("text", "rid")}


def whole_number(name: str, given: Any, *, least: int = 1) -> int:
    """Check a whole number."""
    if isinstance(given, bool) or not hasattr(given, "__index__"):
        raise ArgumentTypeError(
            f"{name} is a {type(given).__name__}", where=name, hint="Give a whole number, such as 8."
        )
    number = int(given)
    if number < least:
        raise ArgumentValueError(f"{name} is {number}", where=name, hint=f"The least is {least}.")
    return number


def positive_number(name: str, given: Any, *, zero: bool = False, finite: bool = True) -> float:
    """Check a number above 0, or from 0."""
    if isinstance(given, bool) or not hasattr(given, "__float__"):
        raise ArgumentTypeError(
            f"{name} is a {type(given).__name__}", where=name, hint="Give a number, such as 2.0."
        )
    number = float(given)
    if not (number > 0 or (zero and number == 0)) or (finite and math.isinf(number)):
        hint = "Give a number from 0." if zero else "Give a number above 0."
        raise ArgumentValueError(f"{name} is {number:g}", where=name, hint=hint)
    return number
