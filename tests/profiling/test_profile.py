"""What users do with a finished profile: look at it, tabulate it, save it and load it again."""

from __future__ import annotations

import copy
import gzip
import json
import pickle
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.hand_profiles import START, decode, extend, profile, request, sample, with_server_times
from support.html_checks import HOSTILE, checked

from nbruntime import errors
from nbruntime.profiling.card import MOST_ROWS
from nbruntime.profiling.profile import FRAME_COLUMNS, Profile
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.saved_profile import _TYPES, NOT_SAVED
from nbruntime.profiling.trace.trace import Trace
from nbruntime.protocol.metrics import Histogram


def full() -> Profile:
    """A profile with something in every field."""
    return profile(
        request("a", 0, 1, 2, **with_server_times(0.1, 0.25, 1), cached_tokens=5, finish="stop"),
        request("b", 0.5, 2, 4, index=1, retractions=1, scheduled=START),
        request("c", 1, ended=3, status="failed", error="ServerBusyError: full"),
        steps=[extend(0.25, 1, a=5), decode(1, 2, "a")],
        samples=[sample(1, num_running_reqs=2, token_usage=0.5, raw={"secret": "sk-1"})],
        latencies={"time_to_first_token_seconds": Histogram({0.1: 1.0, float("inf"): 2.0})},
        clock_offset=0.01,
        trace_files=["/traces/1-TP-0.trace.json.gz"],
        notes=["Only the first 3 requests were noted."],
        error="KeyboardInterrupt",
        ended=5,
    )


def test_the_card_says_the_figures_the_summary_and_how_it_ended() -> None:
    text = repr(full())
    print(text)
    first = text.splitlines()[0]
    assert re.fullmatch(r"Profile tiny · 5 s from [-\d]+ [:\d]+, ended by KeyboardInterrupt", first)
    assert "1 of 3 requests failed: ServerBusyError." in text
    assert "requests 2 finished, 1 failed" in text
    assert "tokens 30 prompt (17 % cached) + 4 new" in text
    assert "TTFT median 1.25 s, p90 1.45 s, max 1.5 s" in text
    html = checked(full()._repr_mimebundle_())
    assert "requests (3)" in html
    assert "ServerBusyError: full" in html
    assert "Only the first 3 requests were noted." in html
    assert "<svg" in full()._repr_mimebundle_()["text/html"]


def test_the_card_of_a_running_profile_says_so() -> None:
    made = full()
    made.ended, made.error = None, ""
    assert "running since" in repr(made).splitlines()[0]
    empty = profile()
    empty.ended = None
    assert "No request has been made yet." in checked(empty._repr_mimebundle_())


def test_the_card_of_an_empty_profile() -> None:
    assert repr(Profile()) == "Profile · empty\n  No request has been made yet.\n  requests none"
    assert "<svg" not in Profile()._repr_mimebundle_()["text/html"]


def test_a_snapshot_does_not_grow() -> None:
    made = full()
    before = made.snapshot()
    assert type(before) is Profile
    made.requests.append(request("d", 2, 3))
    made.notes.append("One more.")
    assert before == full() != made


def test_hostile_texts_are_escaped() -> None:
    made = profile(
        request(HOSTILE, 0, 1, 2, finish=HOSTILE),
        request("b", 0, ended=1, status="failed", error=HOSTILE),
        model=HOSTILE,
        server=HOSTILE,
        notes=[HOSTILE],
        error=HOSTILE,
    )
    checked(made._repr_mimebundle_())


def test_the_table_of_requests_is_bounded() -> None:
    made = profile(*(request(f"r{n}", n, n + 1, n + 2) for n in range(MOST_ROWS + 50)))
    html = checked(made._repr_mimebundle_())
    assert "r199" in html
    assert "r200" not in html
    assert "… 50 more" in html


class Frame:
    """What pandas makes a table of, as far as it matters here."""

    def __init__(self, rows: list[tuple[Any, ...]], columns: list[str]) -> None:
        self.rows, self.columns = rows, columns


def test_to_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=Frame))
    frame = full().to_frame()
    assert frame.columns == list(FRAME_COLUMNS)
    first = dict(zip(frame.columns, frame.rows[0], strict=True))
    assert first["rid"] == "a"
    assert (first["sent_s"], first["e2e_s"], first["ttft_s"], first["tpot_s"]) == (0, 2, 1, 1)
    times = first["queue_s"], first["prefill_s"], first["decode_s"]
    # The server's clock is 10 ms ahead; it received the request after 100 ms by its clock.
    assert times == pytest.approx((0.15, 0.75, 1.01), abs=1e-6)
    second = dict(zip(frame.columns, frame.rows[1], strict=True))
    assert second["queue_s"] is second["prefill_s"] is second["decode_s"] is None
    assert (second["index"], second["retractions"], second["events"]) == (1, 1, 2)


def test_to_frame_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    with pytest.raises(errors.MissingPackageError, match="pip install pandas"):
        full().to_frame()


@pytest.mark.parametrize("name", ["profile.json", "profile.json.gz"])
def test_saved_profiles_are_loaded_as_they_were(tmp_path: Path, name: str) -> None:
    path = full().save(tmp_path / name)
    assert path == tmp_path / name
    loaded = Profile.load(str(path))
    assert type(loaded) is Profile
    assert loaded == full()
    assert loaded.samples[0].load.raw == {}  # the server's own words are not saved
    assert path.read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")
    content = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    assert b"sk-1" not in content
    assert list(tmp_path.iterdir()) == [path]


def test_every_field_is_saved_or_left_out_on_purpose() -> None:
    assert {item.name for item in fields(ProfileData)} == {*_TYPES, *NOT_SAVED}
    defaults = Profile()
    made = full()
    assert not [name for name in _TYPES if getattr(made, name) == getattr(defaults, name)]


def test_dicts_are_what_json_takes_and_from_dict_reads() -> None:
    record = json.loads(json.dumps(full().to_dict()))
    assert Profile.from_dict(record) == full()
    assert Profile.from_dict({**record, "of a newer release": 1}) == full()
    assert Profile.from_dict({}) == Profile()


@pytest.mark.parametrize(
    "record", [[], "text", {"requests": 1}, {"requests": [{"rid": 1}]}, {"latencies": {"a": [[None, "x"]]}}]
)
def test_other_dicts_are_refused(record: Any) -> None:
    with pytest.raises(errors.ArgumentTypeError, match="Not the record of a profile"):
        Profile.from_dict(record)


def test_foreign_damaged_and_newer_files_are_refused(tmp_path: Path) -> None:
    path = full().save(tmp_path / "profile.json.gz")
    whole = path.read_bytes()
    for content, words in [
        (whole[: len(whole) // 2], "damaged"),
        (b'{"traceEvents": []}', "Not a saved profile"),
        (gzip.decompress(whole).replace(b'"version":1', b'"version":99'), "version 99"),
    ]:
        path.write_bytes(content)
        with pytest.raises(errors.ArgumentValueError, match=words) as caught:
            Profile.load(path)
        assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError):
        Profile.load(tmp_path / "none.json")


def test_profiles_are_copied_pickled_and_compared() -> None:
    made = full()
    for other in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other == made
        assert repr(other) == repr(made)
    assert replace(made, model="other") != made
    made.trace = Trace([], [])
    assert made == full()  # the same stretch of work, whether or not its trace was read


def test_a_profile_needs_no_plotting_library_before_it_is_drawn() -> None:
    code = "import sys, nbruntime.profiling.profile; print({'matplotlib', 'PIL', 'pandas'} & {*sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


def test_the_package_gives_the_profile_and_the_comparison() -> None:
    import nbruntime

    assert nbruntime.Profile is Profile
    assert nbruntime.profiles.compare(full(), full()).names == ("a", "b")
