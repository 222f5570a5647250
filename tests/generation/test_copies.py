"""Copies of streams, pickled or not: the record without the connection."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from support.scripted_server import WORDS, answer, cumulative, dump

from nbruntime.errors import StreamError
from nbruntime.generation import AsyncGenerationStream, GenerationStream
from nbruntime.protocol.requests import build_generate_request

EVENTS = [b"data: " + dump(event) + b"\n\n" for event in cumulative(WORDS)]
DONE = b"data: [DONE]\n\n"

COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda stream: pickle.loads(pickle.dumps(stream)),
    "oldest pickle": lambda stream: pickle.loads(pickle.dumps(stream, protocol=2)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "in a list": lambda stream: pickle.loads(pickle.dumps([stream, stream]))[1],
}
copies = pytest.mark.parametrize("way", COPIES)


class Socket:
    """What a stream holds until its end; cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.closed = self.aborted = 0

    def close(self) -> None:
        self.closed += 1

    def abort(self, rids: object) -> None:
        self.aborted += 1


def stream(chunks: list[bytes], socket: Socket | None = None, **options: Any) -> GenerationStream:
    socket = socket or Socket()
    request = build_generate_request("Tell me a story", stream=True, **options)
    return GenerationStream(
        iter(chunks), request, close=socket.close, abort=socket.abort, scrub=lambda text: text
    )


def finished() -> GenerationStream:
    made = stream([*EVENTS, DONE])
    assert list(made) == WORDS
    return made


@copies
def test_a_finished_stream_is_copied_as_its_record(way: str) -> None:
    original = finished()
    copied = COPIES[way](original)
    assert type(copied) is GenerationStream
    assert (copied.text, copied.rid, copied.done, copied.error) == (original.text, original.rid, True, None)
    assert copied.result() == original.result()
    assert repr(copied) == repr(original)
    assert copied._repr_mimebundle_() == original._repr_mimebundle_()
    with copied:
        assert list(copied) == []
    copied.abort()


def test_a_pickle_of_an_earlier_release() -> None:
    state = finished()._state
    earlier = {name: value for name, value in state.__getstate__().items() if name != "_finished"}
    copied = object.__new__(type(state))
    copied.__setstate__({**earlier, "_lock": None})
    assert copied.generations() == state.generations()
    assert [each.status for each in copied.outcomes()] == ["finished"]


def test_the_copy_of_a_running_stream_does_not_go_on() -> None:
    events = [dict(answer(word, [n], id=f"r-{n}"), index=n) for n, word in enumerate(WORDS[:2])]
    running = stream([b"data: " + dump(event) + b"\n\n" for event in events], n=2)
    indexed = running.indexed()
    assert next(indexed) == (0, WORDS[0])
    copied = copy.copy(running)
    before = copied._state.outcomes()
    assert next(indexed) == (1, WORDS[1])
    assert copied._state.outcomes() == before
    assert [each.status for each in before] == ["finished", "failed"]


@copies
def test_what_was_not_read_yet_can_be_read_from_both(way: str) -> None:
    original = stream([b"".join([*EVENTS, DONE])])
    assert next(original) == WORDS[0]
    copied = COPIES[way](original)
    assert list(copied) == list(original) == WORDS[1:]


@copies
def test_the_copy_of_a_running_stream_holds_the_text_so_far_and_fails(way: str) -> None:
    socket = Socket()
    original = stream([*EVENTS[:2], *EVENTS[2:], DONE], socket)
    assert [next(original), next(original)] == WORDS[:2]
    copied = COPIES[way](original)
    assert (copied.text, copied.done) == ("Once upon", True)
    assert [each.text for each in copied.generations] == ["Once upon"]
    with pytest.raises(StreamError, match=r"while it ran, after 2 tokens\nWait for its end") as caught:
        copied.result()
    assert caught.value.text == "Once upon"
    copied.close()
    assert (socket.closed, socket.aborted) == (0, 0)
    assert list(original) == WORDS[2:]  # goes on
    assert original.result().text == "Once upon a time"  # type: ignore[union-attr]


@copies
def test_a_failed_stream_keeps_its_error_and_a_closed_one_its_text(way: str) -> None:
    failed = stream(EVENTS[:2])
    with pytest.raises(StreamError):
        failed.result()
    with pytest.raises(StreamError, match="broke off after 2 tokens") as caught:
        COPIES[way](failed).result()
    assert caught.value.text == "Once upon"
    left = stream([*EVENTS[:2], *EVENTS[2:]])
    next(left)
    left.close()
    assert COPIES[way](left).result().text == "Once"


def test_a_stream_of_many_answers_is_copied() -> None:
    body = [
        b"data: " + dump({**answer(text, [5]), "index": index}) + b"\n\n" for index, text in enumerate("ab")
    ]
    original = stream([*body, DONE], n=2)
    original.result()
    copied = COPIES["pickle"](original)
    assert copied.texts == ["a", "b"]
    assert copied.result() == original.result()


def test_a_copy_is_independent_of_threads_that_read_on() -> None:
    copied_one = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield from EVENTS[:1]
        copied_one.wait(20)
        yield from EVENTS[1:]
        yield DONE

    request = build_generate_request("x", stream=True)
    original = GenerationStream(chunks(), request, close=lambda: None, abort=lambda rids: None)
    assert next(original) == "Once"
    reader = threading.Thread(target=original.result)
    reader.start()
    copied = COPIES["deepcopy"](original)
    copied_one.set()
    reader.join(20)
    assert not reader.is_alive()
    assert (original.text, copied.text) == ("Once upon a time", "Once")


@copies
def test_an_asynchronous_stream_is_copied_too(way: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (*EVENTS, DONE):
            yield chunk

    async def nothing(*_: object) -> None:
        """There is no server."""

    async def read() -> tuple[AsyncGenerationStream, AsyncGenerationStream]:
        made = AsyncGenerationStream(
            chunks(),
            build_generate_request("x", stream=True),
            close=nothing,
            abort=nothing,
            abandon=print,
            spawn=asyncio.create_task,
        )
        assert await anext(made) == "Once"
        early = COPIES[way](made)
        assert [text async for text in made] == WORDS[1:]
        return made, early

    original, early = asyncio.run(read())
    copied = COPIES[way](original)  # outside of any loop

    async def use() -> None:
        assert await copied.result() == await original.result()
        async with copied:
            assert [text async for text in copied] == []
        assert early.text == "Once"
        with pytest.raises(StreamError, match="while it ran, after 1 token"):
            await early.result()

    asyncio.run(use())
    assert copied.text == "Once upon a time"
    assert repr(copied) == repr(original)
