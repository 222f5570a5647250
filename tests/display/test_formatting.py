"""Formats of numbers, short texts and server fields."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nbruntime.display.html import escape, shortened
from nbruntime.display.markdown import Cut, cuts, open_fence, while_growing
from nbruntime.display.numbers import duration, elapsed, percent, rate
from nbruntime.display.server_fields import matching


@pytest.mark.parametrize(
    ("formatted", "values", "expected"),
    [
        (duration, (0.2741, 0.9996, 3.456, 1234.5), ["274 ms", "1 s", "3.46 s", "1,230 s"]),
        (elapsed, (0.4, 59, 75, 7300, 200000), ["0 s", "59 s", "1 min 15 s", "2 h 1 min", "2 d 7 h"]),
        (rate, (0, 9.164, 42, 1761.6), ["0", "9.16", "42", "1,760"]),
        (percent, (0, 0.004, 0.05, 0.37, 1), ["0 %", "0.4 %", "5 %", "37 %", "100 %"]),
    ],
)
def test_numbers(formatted: Callable[[float], str], values: tuple[float, ...], expected: list[str]) -> None:
    assert [formatted(value) for value in values] == expected


def test_duration_with_two_digits() -> None:
    durations = [duration(seconds, digits=2) for seconds in (0.0042, 0.16, 1.234, 47.4)]
    assert durations == ["4.2 ms", "160 ms", "1.2 s", "47 s"]


def test_shortened_text_is_one_line() -> None:
    assert shortened("one two\nthree four", 10) == "one two t…"


def test_escaped_html() -> None:
    assert escape("<b title='x'>") == "&lt;b title=&#x27;x&#x27;&gt;"


def test_fields_match_every_word_of_a_query() -> None:
    fields = {"tp_size": "1", "dp_size": "2", "host": "127.0.0.1"}
    assert matching(fields, "SIZE 2") == {"dp_size": "2"}


def test_end_of_growing_markdown() -> None:
    assert while_growing("Two points:\n-") == "Two points:\n"
    assert while_growing("This is **import") == "This is **import**"
    assert open_fence("```python\nx = 1\n") == "```python\n"
    assert list(cuts("One.\n\nTwo is not at its e")) == [Cut(6)]
