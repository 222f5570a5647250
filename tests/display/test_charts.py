"""Charts: well-formed for any values, with gaps for unknown ones, small for constant ones."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.html_checks import HOSTILE, parsed

from nbruntime.display.charts import HEIGHT, WIDTH, Line, line_chart, nice_ceiling

SVG = "{http://www.w3.org/2000/svg}"

values = st.none() | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12)


def points_of(*values: float | None) -> list[tuple[int, float | None]]:
    """One value a step, the last of them now."""
    return [(len(values) - 1 - number, value) for number, value in enumerate(values)]


def paths(chart: str) -> list[str]:
    """The paths of the lines, without the frame."""
    return [path.attrib["d"] for path in parsed(chart).iter(f"{SVG}path")][1:]


@given(st.lists(values, max_size=40), st.lists(values, max_size=40), st.integers(1, 30))
def test_any_values_give_a_well_formed_chart(
    first: list[float | None], second: list[float | None], steps: int
) -> None:
    lines = [Line("a", points_of(*first)), Line("b", points_of(*second))]
    for path in paths(line_chart("load", lines, steps=steps)):
        for x, y in re.findall(r"([\d.e+-]+) ([\d.e+-]+)", path):
            assert 0 <= float(x) <= WIDTH + 0.2
            assert 0 <= float(y) <= HEIGHT


def test_figures_are_readable_without_svg() -> None:
    chart = line_chart(
        "KV cache", [Line("", points_of(1, 7, 3))], steps=10, figure=lambda value: f"{value:g} %"
    )
    text = " ".join(parsed(chart).itertext())
    assert "3 %" in text, "the last value"
    assert "10 %" in text
    assert "0 %" in text, "the ends of the scale"
    assert "between 1 % and 7 %" in text
    assert 'aria-label="KV cache: between 1 % and 7 %"' in chart


def test_a_long_gap_is_not_joined() -> None:
    (path,) = paths(line_chart("load", [Line("", points_of(1, 2, None, 2, 3))], steps=10))
    assert path.count("M") == 2
    (path,) = paths(line_chart("load", [Line("", [(9, 1.0), (8, 2.0), (1, 2.0), (0, 1.0)])], steps=10))
    assert path.count("M") == 2, "no poll for a while"
    (path,) = paths(line_chart("load", [Line("", [(9, 1.0), (7, 2.0), (6, 2.0), (6, 1.0)])], steps=10))
    assert path.count("M") == 1, "polls that are late or early leave no gap"


def test_the_last_value_is_unknown_in_a_gap() -> None:
    chart = line_chart("load", [Line("", points_of(1, None))], steps=10)
    assert "–" in "".join(parsed(chart).itertext())


def test_a_level_line_has_two_points() -> None:
    drawn = {line_chart("load", [Line("", points_of(*[0.0] * count))], steps=50) for count in (60, 70, 80)}
    (chart,) = drawn
    (path,) = paths(chart)
    assert path.count("L") == 1
    print(f"an idle chart: {len(chart)} characters")


def test_two_lines_differ_without_colour_and_are_named() -> None:
    chart = line_chart(
        "requests", [Line("running", points_of(1, 2)), Line("queued", points_of(0, 1))], steps=9
    )
    dashes = [path.get("stroke-dasharray") for path in parsed(chart).iter(f"{SVG}path")][1:]
    assert dashes[0] is None
    assert dashes[1]
    assert re.search("2 running.*1 queued", "".join(parsed(chart).itertext()))


def test_hostile_names_are_escaped() -> None:
    text = "".join(parsed(line_chart(HOSTILE, [Line(HOSTILE, points_of(1))], steps=9)).itertext())
    assert "<script>" in text


def test_a_chart_without_values() -> None:
    chart = line_chart("load", [Line("", [])], steps=9)
    assert paths(chart) == []
    assert "nothing known" in chart


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_the_scale_ends_at_1_2_or_5(value: float) -> None:
    top = nice_ceiling(value)
    assert value <= top * (1 + 1e-9)
    assert top <= 5.01 * value
    assert f"{top:e}"[0] in "125"


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_the_scale_without_a_valid_value(value: float) -> None:
    assert nice_ceiling(value) == 1.0
