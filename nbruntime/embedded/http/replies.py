"""Replies in SGLang's shapes."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web


def to_json(value: Any) -> str:
    """Write JSON as SGLang does: compact, unescaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def json_reply(value: Any, status: int = 200) -> web.Response:
    """Answer with JSON."""
    return web.Response(body=to_json(value).encode(), status=status, content_type="application/json")


def text_reply(text: str, status: int = 200) -> web.Response:
    """Answer with plain text, as the control routes do."""
    return web.Response(text=text, status=status)
