"""The route of the step log, which SGLang has not."""

from __future__ import annotations

import math
from typing import Any

from aiohttp import web

from nbruntime.embedded.http.state import state_of
from nbruntime.embedded.service.errors import invalid_body
from nbruntime.protocol.step_log import write_step_log

_NAMES = ("after", "since", "until")


async def step_log(request: web.Request) -> web.Response:
    """Serve ``/step_log``: the engine's last steps.

    The query may give the number of a step (``after``) and two Unix times (``since``, ``until``). The answer
    holds the steps with a larger number that ran between the two.
    """
    log = state_of(request).service.engine.step_log
    for name in request.query:
        if name not in _NAMES:
            raise _invalid(name, "extra_forbidden", "Unknown parameter")
    after = _number(request, "after")
    if after is not None and not after.is_integer():
        raise _invalid("after", "int_from_float", "Input should be a valid integer", request.query["after"])
    found = log.read(
        None if after is None else int(after), _number(request, "since"), _number(request, "until")
    )
    return web.Response(body=write_step_log(found), content_type="application/json")


def _number(request: web.Request, name: str) -> float | None:
    given = request.query.get(name)
    if given is None:
        return None
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _invalid(name, "float_parsing", "Input should be a valid number", given)
    return number


def _invalid(name: str, kind: str, message: str, given: Any = None) -> Exception:
    return invalid_body({"type": kind, "loc": ("query", name), "msg": message, "input": given})
