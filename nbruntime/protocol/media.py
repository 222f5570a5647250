"""Images, sounds and videos as a request can hold them: a URL, a path on the server's disk, or base64."""

from __future__ import annotations

import base64
import io
import mimetypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbruntime.errors import ArgumentTypeError, ArgumentValueError

MEDIA = ("image_data", "audio_data", "video_data")
"""Fields of the request that hold them."""


def encode_media(name: str, value: Any) -> Any:
    """Encode what is no text as a data URL: bytes, open files, paths of this machine, images of Pillow.

    Texts, which SGLang reads as a URL, a path on the server's disk or base64, stay; so do mappings. A list
    is encoded item by item.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For other types, with the way to convert them; if a file cannot be read.

    Examples
    --------
    >>> encode_media("audio_data", ["https://example.org/a.wav", b"RIFF"])
    ['https://example.org/a.wav', 'data:application/octet-stream;base64,UklGRg==']
    """
    if value is None or isinstance(value, str | Mapping):
        return value
    if isinstance(value, list | tuple):
        return [encode_media(name, item) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return _data_url(bytes(value))
    if isinstance(value, os.PathLike):
        return _data_url(_read(name, Path(value)), mimetypes.guess_type(str(value))[0])
    if callable(getattr(value, "read", None)):
        content = value.read()
        if isinstance(content, bytes):
            return _data_url(content)
        raise ArgumentTypeError(
            f"{name} is a file that gives text", hint='Open it for bytes: open(path, "rb").'
        )
    if callable(getattr(value, "save", None)) and hasattr(value, "mode"):
        return _data_url(_png(value), "image/png")
    if getattr(value, "ndim", 0) == 1 and callable(getattr(value, "tolist", None)):
        return encode_media(name, value.tolist())  # a column of URLs
    raise ArgumentTypeError(f"{name} is of the type {type(value).__name__}", hint=_HINTS[name])


_HINTS = {
    "image_data": "Nothing was sent: give an image of Pillow, such as PIL.Image.fromarray(array), or bytes, "
    "a path, a URL or base64.",
    "audio_data": "Nothing was sent: give the bytes of a WAV file or the like, a path, a URL or base64.",
    "video_data": "Nothing was sent: give the bytes of an MP4 file or the like, a path, a URL or base64.",
}


def _data_url(content: bytes, kind: str | None = None) -> str:
    return f"data:{kind or 'application/octet-stream'};base64,{base64.b64encode(content).decode()}"


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArgumentValueError(
            f"{name} cannot be read: {error.strerror}",
            where=str(path),
            hint="Give a file of this machine; one of the server's disk is given as a text.",
        ) from None


def _png(image: Any) -> bytes:
    """Write an image of Pillow, without importing it; PNG cannot hold every mode."""
    file = io.BytesIO()
    plain = image.mode in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
    (image if plain else image.convert("RGB")).save(file, format="PNG")
    return file.getvalue()
