"""Images, sounds and videos: what is encoded, and what is refused."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nbruntime.errors import ArgumentError, ArgumentTypeError, ArgumentValueError
from nbruntime.protocol.requests import build_generate_request

PNG = b"\x89PNG\r\n\x1a\n"


def sent(name: str, value: Any, prompt: Any = "x") -> Any:
    return build_generate_request(prompt, **{name: value}).body[name]


def content(url: str) -> bytes:
    head, _, data = url.partition(",")
    assert head.startswith("data:")
    assert head.endswith(";base64")
    return base64.b64decode(data, validate=True)


@pytest.mark.parametrize("name", ["image_data", "audio_data", "video_data"])
def test_texts_and_mappings_stay_as_they_are(name: str) -> None:
    for value in ("QUJD", "https://example.org/a.png", "/srv/a.png", {"format": "x", "pixels": [1]}):
        assert sent(name, value) == value
        assert sent(name, [value, None], ["a", "b"]) == [value, None]
    assert sent(name, np.array(["a.png", "b.png"]), ["a", "b"]) == ["a.png", "b.png"]


@pytest.mark.parametrize("name", ["image_data", "audio_data", "video_data"])
def test_bytes_files_and_paths_are_encoded(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    with path.open("rb") as file:
        for value in (PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG), file):
            assert content(sent(name, value)) == PNG
    assert sent(name, path).startswith("data:image/png;base64,")
    assert content(sent(name, path)) == PNG
    batch = sent(name, [[path, "b.png"], (PNG,)], ["a", "b"])
    assert [content(batch[0][0]), batch[0][1], content(batch[1][0])] == [PNG, "b.png", PNG]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "F", "LA", "I", "HSV"])
def test_images_of_pillow_become_png(mode: str) -> None:
    url = sent("image_data", Image.new(mode, (3, 2)))
    assert url.startswith("data:image/png;base64,")
    read = Image.open(io.BytesIO(content(url)))
    assert (read.format, read.size) == ("PNG", (3, 2))


@pytest.mark.parametrize("value", [np.zeros((2, 3, 3), "uint8"), 5, object(), {1, 2}])
def test_other_types_are_refused_with_the_way_to_convert_them(value: Any) -> None:
    for given in (value, [value]):
        with pytest.raises(
            ArgumentTypeError, match=r"image_data is of the type .*\n.*Image.fromarray\(array\)"
        ):
            sent("image_data", given)
    with pytest.raises(ArgumentTypeError, match=r"audio_data is of the type .*\n.*bytes of a WAV"):
        sent("audio_data", value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing.png"
    with pytest.raises(
        ArgumentValueError, match=r"(?s)cannot be read: No such file.*missing.png.*given as a text"
    ):
        sent("image_data", missing)
    with pytest.raises(ArgumentTypeError, match=r'a file that gives text\n.*open\(path, "rb"\)'):
        sent("image_data", io.StringIO("x"))
    with pytest.raises(ArgumentError):
        sent("image_data", tmp_path)
