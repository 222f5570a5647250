"""The bodies of streams: chunks that arrive together are read together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nbruntime.endpoint.body import whole_chunks


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.integers(0, 300), st.booleans())
def test_whole_chunks_are_taken_and_the_rest_is_left(chunks: list[bytes], cut: int, upper: bool) -> None:
    size = "{:X}" if upper else "{:x}"
    written = [size.format(len(chunk)).encode() + b"\r\n" + chunk + b"\r\n" for chunk in chunks]
    received = (b"".join(written) + b"0\r\n\r\n")[:cut]
    whole = next(n for n in range(len(chunks), -1, -1) if len(b"".join(written[:n])) <= len(received))
    assert whole_chunks(received) == (b"".join(chunks[:whole]), len(b"".join(written[:whole])))


@given(st.binary(max_size=60))
def test_what_is_no_chunk_is_left(received: bytes) -> None:
    content, length = whole_chunks(received)
    assert len(content) <= length <= len(received)
    assert whole_chunks(b"0\r\n\r\n" + received) == (b"", 0)
    assert whole_chunks(b"3;name=value\r\nabc\r\n" + received) == (b"", 0)
    assert whole_chunks(b"3\r\nabcd\r\n" + received) == (b"", 0)
