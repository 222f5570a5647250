"""Files of recorded workloads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from nbruntime.errors import ArgumentValueError
from nbruntime.profiling.bench.replay import read_replay

MOONCAKE = """\
{"timestamp": 3000, "input_length": 1100, "output_length": 40, "hash_ids": [7, 8, 9]}
{"timestamp": 1000, "input_length": 600, "output_length": 500, "hash_ids": [7, 20]}

{"timestamp": 1000, "input_length": 0, "output_length": 5, "hash_ids": []}
"""
BURSTGPT = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
60,GPT-4,417,0,417,Conversation log
"""
TRACELAB = """\
id,input_len,output_len,arrival_time,round_idx,tool_wait_after_ms,prefix_len
1,100,10,500.000000,0,250.000000,0
1,20,11,500.000000,1,0.000000,110
0,50,5,100.000000,0,0.000000,0
"""


def written(folder: Path, text: str, name: str = "trace") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_mooncake(tmp_path: Path) -> None:
    first, second = read_replay(written(tmp_path, MOONCAKE))
    assert (first.at, first.prompt_tokens, first.output_tokens) == (0.0, 600, 500)
    assert first.blocks == ((7, 512), (20, 88))
    assert (second.at, second.blocks) == (2.0, ((7, 512), (8, 512), (9, 76)))


def test_burstgpt_without_failed_requests(tmp_path: Path) -> None:
    found = read_replay(written(tmp_path, BURSTGPT))
    assert [(each.at, each.prompt_tokens, each.output_tokens) for each in found] == [
        (0.0, 472, 18),
        (40.0, 1087, 230),
    ]


def test_tracelab_rounds_follow_each_other(tmp_path: Path) -> None:
    alone, first, second = read_replay(written(tmp_path, TRACELAB))
    assert (alone.at, alone.prompt_tokens, alone.after) == (0.0, 50, None)
    assert (first.at, first.prompt_tokens, first.after) == (0.4, 100, None)
    assert (second.prompt_tokens, second.output_tokens) == (130, 11)
    assert (second.after, second.wait) == (1, 0.25)
    assert first.blocks[0][0] == second.blocks[0][0] != alone.blocks[0][0]


def test_a_compressed_file_and_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(BURSTGPT.encode()))
    assert len(read_replay(path, limit=1)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "of no known form: its columns are a, b"),
        ("", "of no known form: its columns are none"),
        (MOONCAKE + "{\n", "Line 5 is wrong: not JSON"),
        (MOONCAKE.replace("600", '"many"'), "Line 2 is wrong: input_length is 'many'"),
        (MOONCAKE.replace("[7, 20]", "7"), "Line 2 is wrong: hash_ids"),
        (BURSTGPT.replace("1087", "-3"), "Line 3 is wrong: Request tokens is -3"),
        (
            BURSTGPT.replace("45,ChatGPT,1087,230,1317,Conversation log", "45"),
            "Line 3 is wrong: Request tokens is None",
        ),
        (BURSTGPT.splitlines()[0] + "\n5,x,0,0,0,y\n", "holds no request"),
        (MOONCAKE.replace("600", "1" + "0" * 20), "Line 2 is wrong: input_length is 100,000"),
        (BURSTGPT + "5," + "x" * 200_000 + ",1,1,2,y\n", "The file is damaged: field larger"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ArgumentValueError, match=message) as caught:
        read_replay(written(tmp_path, text))
    assert "Mooncake" in str(caught.value)


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(BURSTGPT.encode())[:-12])
    with pytest.raises(ArgumentValueError, match="The file is damaged"):
        read_replay(path)


def test_hashes_of_any_size_are_kept_apart(tmp_path: Path) -> None:
    line = {"timestamp": 0, "input_length": 1500, "output_length": 5, "hash_ids": [-1, 1, 10**30]}
    [request] = read_replay(written(tmp_path, json.dumps(line)))
    keys = [key for key, _ in request.blocks]
    assert len(set(keys)) == 3
    assert all(0 <= key < 2**63 for key in keys)


def test_a_separator_of_lines_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    line = '{"timestamp": 0, "input_length": 10, "output_length": 5, "note": "a\u2028b"}\n'
    assert len(read_replay(written(tmp_path, line))) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentValueError, match="cannot be read"):
        read_replay(tmp_path / "none.jsonl")
