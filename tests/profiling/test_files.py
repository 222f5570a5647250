"""The files of profiles and load tests."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.profiling.files import from_plain, load_record, plain, save_record
from nbruntime.profiling.records import LoadSample, RequestRecord
from nbruntime.protocol.load import Load

RECORD: dict[str, Any] = {"name": "größer", "times": [0.1, 2.5e-7, 1e300], "nothing": None}


def again(value: Any) -> Any:
    """Send a value through JSON."""
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("name", ["run.json", "run.json.gz", "run"])
def test_a_saved_record_is_read_again(tmp_path: Path, name: str) -> None:
    path = save_record(tmp_path / name, RECORD, kind="profile", version=2)
    assert path == tmp_path / name
    assert load_record(path, kind="profile", version=3) == (RECORD, 2)
    assert os.listdir(tmp_path) == [name]


def test_only_names_in_gz_are_compressed(tmp_path: Path) -> None:
    plain_file = save_record(tmp_path / "run.json", RECORD, kind="profile", version=1)
    compressed = save_record(tmp_path / "run.json.gz", RECORD, kind="profile", version=1)
    assert json.loads(plain_file.read_text())["record"] == RECORD
    assert gzip.decompress(compressed.read_bytes()) == plain_file.read_bytes()


def test_a_compressed_file_is_known_by_its_content(tmp_path: Path) -> None:
    path = save_record(tmp_path / "run.json.gz", RECORD, kind="profile", version=1)
    renamed = path.rename(tmp_path / "run.json")
    assert load_record(renamed, kind="profile", version=1) == (RECORD, 1)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = save_record(tmp_path / "run.json", RECORD, kind="profile", version=1)
    with pytest.raises(TypeError):
        save_record(path, {"odd": object()}, kind="profile", version=1)
    assert load_record(path, kind="profile", version=1)[0] == RECORD
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = save_record(tmp_path / "run.json", RECORD, kind="profile", version=1)
    (tmp_path / f".run.json.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        save_record(path, RECORD | {"name": "new"}, kind="profile", version=1)
    assert load_record(path, kind="profile", version=1)[0] == RECORD
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Not a saved profile"),
        (b"[]", "Not a saved profile"),
        (b'{"traceEvents": []}', "Not a saved profile"),
        (b'{"format": "nbruntime", "kind": "profile", "version": 1}', "Not a saved profile"),
        (b"\xff\xfe\x00", "Not a saved profile"),
        (b"\x1f\x8b\x08\x00", "damaged"),
        (gzip.compress(b'{"format": "nbruntime"}')[:-6], "damaged"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ArgumentValueError, match=message) as caught:
        load_record(path, kind="profile", version=1)
    assert caught.value.where == str(path)


def test_the_other_kind_is_named(tmp_path: Path) -> None:
    path = save_record(tmp_path / "run.json", RECORD, kind="load test", version=1)
    with pytest.raises(ArgumentValueError, match=r"holds a load test, not a profile(.|\n)*BenchResult\.load"):
        load_record(path, kind="profile", version=1)


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = save_record(tmp_path / "run.json", RECORD, kind="profile", version=3)
    with pytest.raises(ArgumentValueError, match=r"version 3 (.|\n)*reads up to 2(.|\n)*Update nbruntime"):
        load_record(path, kind="profile", version=2)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_record(tmp_path / "none.json", kind="profile", version=1)
    with pytest.raises(FileNotFoundError):
        save_record(tmp_path / "none" / "run.json", RECORD, kind="profile", version=1)


def test_records_survive_the_way_through_json() -> None:
    request = RequestRecord("a", 1.5, 2.5, arrivals=((0.25, 1), (0.5, 2)), server_times={"queue_time": 0.5})
    sample = LoadSample(1.0, Load(num_running_reqs=3))
    assert from_plain(json.loads(json.dumps(plain([request]))), list[RequestRecord], what="profile") == [
        request
    ]
    assert from_plain(json.loads(json.dumps(plain(sample))), LoadSample, what="profile") == sample


def test_what_numpy_counts_is_saved_as_numbers() -> None:
    counts = {"one": np.int64(3), "share": np.float64(0.5), "all": np.arange(3), 4: np.bool_(True)}
    assert again(plain(counts)) == {"one": 3, "share": 0.5, "all": [0, 1, 2], "4": True}
    with pytest.raises(TypeError, match="object cannot be saved"):
        plain([object()])


def test_a_wrong_field_is_named() -> None:
    broken = [plain(RequestRecord("a", 1.0, 2.0)) | {"sent": "soon"}]
    with pytest.raises(ArgumentTypeError, match=r"(?s)Not the record of a profile.*sent.*to_dict"):
        from_plain(broken, list[RequestRecord], what="profile")
