"""The chart of time spans."""

from __future__ import annotations

import re

import pytest
from support.html_checks import HOSTILE, parsed

from nbruntime.display.span_chart import MOST_HEIGHT, MOST_ROWS, WIDTH, Span, SpanKind, span_chart

WAIT, WORK = SpanKind("wait", 0.2), SpanKind("work", 1.0)


def moves(html: str) -> list[tuple[float, float, float]]:
    """Left, middle and right of each bar."""
    found = re.findall(r"M([\d.]+) ([\d.]+)H([\d.]+)", html.split('<path d="M0')[0])
    return [(float(left), float(y), float(right)) for left, y, right in found]


def test_spans_lie_on_one_scale() -> None:
    html = span_chart("requests", [[Span(10, 12, WAIT), Span(12, 14, WORK)], [Span(15, 20, WORK)]])
    parsed(html)
    assert sorted(moves(html)) == [
        (0, 5.5, WIDTH * 0.2),
        (WIDTH * 0.2, 5.5, WIDTH * 0.4),
        (WIDTH * 0.5, 16.5, WIDTH),
    ]
    assert html.index(">wait") < html.index(">work")
    assert re.findall(r">([^<>]+)</", html[html.index("<svg") :]) == ["2 requests in 10 s"]


def test_nothing_is_drawn_of_nothing() -> None:
    assert span_chart("requests", []) == span_chart("requests", [[], []]) == ""


def test_many_rows_are_thinned_out() -> None:
    html = span_chart("requests", [[Span(n, n + 1, WORK)] for n in range(MOST_ROWS * 10)])
    assert len(moves(html)) == MOST_ROWS
    assert f"every 10th of {MOST_ROWS * 10:,} requests" in html
    assert max(y for _, y, _ in moves(html)) <= MOST_HEIGHT


@pytest.mark.parametrize("span", [(5, 5), (5, 5 + 1e-9)])
def test_a_moment_is_visible(span: tuple[float, float]) -> None:
    html = span_chart("requests", [[Span(*span, WORK)]])
    ((left, _, right),) = moves(html)
    assert ">1 request in " in html
    assert right >= left + 0.5


def test_names_are_escaped() -> None:
    parsed(span_chart(HOSTILE, [[Span(0, 1, SpanKind(HOSTILE, 1.0))]]))
