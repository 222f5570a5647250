"""SGLang's own load test, `bench_serving` of 0.5.23, and its arithmetic."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from nbruntime.profiling.records import RequestRecord
from support.sglang_server import ENVIRONMENT, PYTHON

_CALCULATE = """
import json, sys
from sglang.benchmark.goodput import calculate_goodput
from sglang.benchmark.serving import RequestFuncOutput, calculate_metrics

class Tokenizer:
    def encode(self, text, add_special_tokens=False):
        return []

class Row:
    def __init__(self, length):
        self.prompt_len = self.text_prompt_len = length
        self.vision_prompt_len = 0

given = json.load(sys.stdin)
outputs = [RequestFuncOutput(**each) for each in given["outputs"]]
rows = [Row(each.prompt_len) for each in outputs]
metrics, _ = calculate_metrics(rows, outputs, given["seconds"], Tokenizer(), "sglang")
goodput = calculate_goodput(outputs, given["goodput"], given["seconds"])
print(json.dumps({name: float(value) for name, value in vars(metrics).items()} | {
    "request_goodput": goodput.request_goodput, "slo_attainment": goodput.slo_attainment}))
"""


def run_bench_serving(
    url: str,
    tokenizer: str | Path,
    *,
    python: str = PYTHON,
    **options: Any,
) -> dict[str, Any]:
    """Run `bench_serving` against a server, with random prompts, and return its result.

    The result has its names, and ``"ended"`` as Unix time.

    Parameters
    ----------
    url : str
        The server.
    tokenizer : path
        Folder of its tokenizer.
    python : str
        Interpreter of an environment with SGLang.
    **options
        Its options by their names, with underscores.
    """
    where = urlsplit(url)
    with TemporaryDirectory() as folder:
        output = Path(folder) / "result.jsonl"
        given = {
            **{"backend": "sglang", "host": where.hostname, "port": where.port, "model": tokenizer},
            **{"tokenizer": tokenizer, "dataset-name": "random-ids", "random-range-ratio": 1.0},
            **{"ready-check-timeout-sec": 0, "output-file": output},
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        command = [
            python,
            "-m",
            "sglang.benchmark.serving",
            "--tokenize-prompt",
            "--flush-cache",
            "--disable-tqdm",
        ]
        command += [part for name, value in given.items() for part in (f"--{name}", str(value))]
        ended = _run(command, "")
        # It writes its result right after its last answer.
        result: dict[str, Any] = {**json.loads(output.read_text()), "ended": output.stat().st_mtime}
    assert result["completed"] == given["num-prompts"], ended.stdout
    return result


def calculated(
    requests: Sequence[RequestRecord], seconds: float, goodput: Mapping[str, float]
) -> dict[str, float]:
    """Return what `bench_serving` calculates of requests that were sent within some seconds.

    Thresholds are in milliseconds, by its names.
    """
    outputs = [
        {
            "success": each.status == "finished",
            "latency": each.e2e,
            "ttft": each.ttft,
            "itl": each.itl,
            "prompt_len": each.prompt_tokens,
            "output_len": each.completion_tokens,
            "start_time": each.sent,
        }
        for each in requests
    ]
    given = {"outputs": outputs, "seconds": seconds, "goodput": dict(goodput)}
    ended = _run([PYTHON, "-c", _CALCULATE], json.dumps(given))
    figures: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return figures


def _run(command: Sequence[str], given: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **ENVIRONMENT}
    ended = subprocess.run(
        command, input=given, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 0, f"{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
    return ended
