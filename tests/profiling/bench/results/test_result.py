"""`BenchResult`: how it shows, saves and divides itself."""

from __future__ import annotations

import math
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.html_checks import HOSTILE, checked, parsed
from support.load_tests import SimulatedServer, closed_run, open_run

from nbruntime.errors import ArgumentTypeError, ArgumentValueError, MissingPackageError
from nbruntime.profiling.bench.results.result import BenchResult
from nbruntime.profiling.bench.results.run_figures import DEFINITIONS
from nbruntime.profiling.bench.results.saved_result import (
    REQUEST_COLUMNS,
    RUN_COLUMNS,
    request_rows,
    run_rows,
)
from nbruntime.profiling.profile import Profile


@pytest.fixture(scope="module")
def result() -> BenchResult:
    runs = [closed_run(users, seconds=10) for users in (1, 2, 4, 8)]
    return BenchResult(runs, {"ttft": 0.5})


def test_its_text(result: BenchResult) -> None:
    lines = repr(result).splitlines()
    assert lines[0] == "Load test tiny · 4 runs in 40.5 s"
    assert lines[1].startswith("  Holds 4 users at once at TTFT < 500 ms (90 %); at 8 users requests queue (")
    heads = next(number for number, line in enumerate(lines) if "TTFT p99" in line)
    assert len(lines[heads + 1 :]) == 4
    assert lines[heads + 1].split()[:3] == ["1", "user", "18"]
    assert lines[-1].endswith("0 %")


def test_its_card(result: BenchResult) -> None:
    page = result._repr_mimebundle_()["text/html"]
    # A narrow page breaks a figure only before its interval.
    cells = [cell for cell in re.findall(r"<td>([^<]*)</td>", page) if "\u2060" in cell]
    assert cells
    assert all(re.fullmatch(r"\S+ \(\S+\)", cell.replace("\u00a0", "_")) for cell in cells), cells
    root = parsed(page)
    texts = ["".join(each.itertext()) for each in root.iter("summary")]
    assert texts == ["all figures", "definitions"]
    for name, _ in DEFINITIONS:
        assert f"<th>{name}</th>" in page


def test_an_interval_has_the_unit_of_its_figure() -> None:
    run = closed_run(1, seconds=20)
    slow = [
        replace(each, arrivals=((1.9 if number % 2 else 0.9, 16),), ended=each.sent + 2)
        for number, each in enumerate(run.requests)
    ]
    assert " 900 ms (900–1,900) " in repr(BenchResult([replace(run, requests=slow[:-1])]))


def test_notes_are_shown(result: BenchResult) -> None:
    noted = BenchResult([replace(result.runs[0], notes=["The <server> slept."] * 2)])
    assert noted.notes == ["The <server> slept."]
    assert "The <server> slept." in repr(noted)
    page = noted._repr_mimebundle_()["text/html"]
    assert "The &lt;server&gt; slept." in page
    assert "notes (1)" in page


def test_what_others_wrote_is_escaped() -> None:
    run = closed_run(1, seconds=10, label=HOSTILE)
    failed = [replace(each, status="failed", error=HOSTILE) for each in run.requests]
    checked(BenchResult([replace(run, requests=failed, notes=[HOSTILE])])._repr_mimebundle_())


def test_definitions_are_a_text(result: BenchResult) -> None:
    text = result.definitions()
    assert "(E2E - TTFT) / (tokens - 1)" in text
    assert len(text.splitlines()) == len(DEFINITIONS)


@pytest.mark.parametrize("name", ["test.json", "test.json.gz"])
def test_saving(tmp_path: Path, result: BenchResult, name: str) -> None:
    settings = {"rate": math.inf, "burstiness": 1.0, "sweep": [math.inf, 2]}
    run = replace(open_run(2), rate=math.inf, settings=settings, notes=["inf"])
    both = BenchResult([*result.runs, run], {"e2e": 3}, 0.8)
    loaded = BenchResult.load(both.save(tmp_path / name))
    assert loaded == both
    assert loaded.summary() == both.summary()
    assert loaded.runs[-1].rate == math.inf


def test_it_is_no_profile(tmp_path: Path, result: BenchResult) -> None:
    path = result.save(tmp_path / "test.json")
    with pytest.raises(ArgumentValueError, match=r"load test, not a profile(.|\n)*BenchResult.load"):
        Profile.load(path)


def test_pickling(result: BenchResult) -> None:
    assert result.summary()
    again = pickle.loads(pickle.dumps(result))
    assert again == result
    assert again.summary() == result.summary()


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"runs": [3]},
        {"runs": [{}]},
        {"runs": {}},
        [],
        {"runs": [], "goodput": {"ttft": "soon"}},
        {"runs": [], "share": "most"},
    ],
)
def test_other_records_are_refused(record: Any) -> None:
    with pytest.raises(ArgumentTypeError):
        BenchResult.from_dict(record)


def test_later_fields_of_a_record_are_left_out(result: BenchResult) -> None:
    record = result.to_dict()
    record["runs"][0]["beauty"] = record["beauty"] = 3
    assert BenchResult.from_dict(record) == result


def test_it_holds_its_runs(result: BenchResult) -> None:
    assert len(result) == 4
    assert list(result) == result.runs
    assert result[-1] is result.runs[3]
    assert result.figures[1].run is result.runs[1]


def test_adding_results() -> None:
    one = BenchResult([closed_run(1, seconds=10, label="a")], {"ttft": 0.5}, 0.8)
    other = BenchResult([closed_run(1, seconds=10, label="b")])
    both = one + other
    assert [run.label for run in both] == ["a", "b"]
    assert (both.goodput, both.share) == ({"ttft": 0.5}, 0.8)
    assert "server" in repr(both)
    with pytest.raises(TypeError):
        one + 3  # type: ignore[operator]


def test_other_thresholds_need_no_other_run(result: BenchResult) -> None:
    strict = result.against({"ttft": 0.04})
    assert strict.runs is result.runs
    assert strict.summary().startswith(
        "Does not hold even 1 user at once, the least tried, at TTFT < 40 ms (90 %)"
    )
    assert strict.against({"ttft": 0.6}, share=0.5).share == 0.5
    assert strict.against({"ttft": 0.6}).summary().startswith("Holds at least 8 users at once")


def test_rows_of_requests(result: BenchResult) -> None:
    rows = request_rows(result.figures)
    assert len(rows) == sum(len(run.requests) for run in result)
    first = dict(zip(REQUEST_COLUMNS, rows[0], strict=True))
    assert first["run"] == 0
    assert first["load"] == 1.0
    assert first["sent_s"] == 0.0
    assert first["lateness_s"] == 0.0
    assert first["ttft_s"] == pytest.approx(0.05)
    assert (first["steady"], first["met"], first["events"]) == (False, True, 16)
    assert sum(bool(row[REQUEST_COLUMNS.index("steady")]) for row in rows) == sum(
        len(each.requests) for each in result.figures
    )


def test_rows_of_runs(result: BenchResult) -> None:
    last = dict(zip(RUN_COLUMNS, run_rows(result.figures)[-1], strict=True))
    assert (last["load"], last["requests"], last["attainment"]) == (8.0, 72, 0.0)
    assert last["ttft_median_s"] == last["ttft_p99_s"] == pytest.approx(0.55)
    assert last["concurrency"] == pytest.approx(8, rel=0.01)


def test_tables_need_pandas(result: BenchResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    for make in (result.to_frame, result.runs_frame):
        with pytest.raises(MissingPackageError, match="pip install pandas"):
            make()


def test_points_of_the_curve(result: BenchResult) -> None:
    points = result.points()
    assert [point.load for point in points] == [1, 2, 4, 8]
    assert [point.doubt for point in points] == [""] * 4
    low, high = points[-1].intervals["ttft"]
    assert low - 1e-9 <= (points[-1].ttft or 0) <= high + 1e-9
    assert points[-1].goodput == 0
    assert result.points(0.9)[0].quantile == 0.9


def test_points_say_what_makes_them_doubtful() -> None:
    run = closed_run(1, seconds=10)
    failed = replace(run, requests=[replace(each, status="failed") for each in run.requests])
    limited = replace(run, notes=["The client was the limit: it was late."])
    points = BenchResult([failed, limited, replace(run, interrupted=True)]).points()
    assert [point.doubt for point in points] == [
        "no request finished",
        "the client was the limit",
        "stopped early",
    ]


def test_a_run_as_the_data_of_a_profile(result: BenchResult) -> None:
    data = result.profile_data()
    assert data.requests == result.runs[2].requests  # the largest load that held
    assert data.figures.ttft.median == pytest.approx(0.05)
    assert result.profile_data(-1).requests == result.runs[3].requests
    assert result.profile_data(0, steady=True).requests == result.figures[0].requests
    slow = BenchResult([closed_run(2, SimulatedServer(step=0.1), seconds=10)])
    assert slow.profile_data().requests == slow.runs[0].requests


@pytest.mark.parametrize(
    "name",
    ["plot", "plot_lateness", "plot_requests", "plot_throughput", "plot_ttft", "plot_itl", "plot_cache"],
)
def test_its_pictures(result: BenchResult, name: str) -> None:
    drawn = getattr(result, name)(theme="light")
    assert drawn.axes
    assert drawn.caption


def test_the_picture_of_a_chosen_run(result: BenchResult) -> None:
    assert "550 ms" in repr(result.plot_ttft(-1, theme="light"))
    assert "550 ms" not in repr(result.plot_ttft(0, theme="light"))


@pytest.mark.parametrize(
    ("run", "error"), [(4, ArgumentValueError), ("first", ArgumentTypeError), (True, ArgumentTypeError)]
)
def test_a_wrong_run(result: BenchResult, run: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        result.profile_data(run)


def test_a_result_without_runs() -> None:
    empty = BenchResult([])
    assert repr(empty) == "Load test · no run\n  No run was made."
    assert empty.points() == []
    with pytest.raises(ArgumentValueError, match="no run"):
        empty.profile_data()


@pytest.mark.parametrize("share", [0, 1.1, -1])
def test_a_wrong_share(share: float) -> None:
    with pytest.raises(ArgumentValueError, match="share"):
        BenchResult([], {}, share)
