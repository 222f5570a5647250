"""SGLang's real server on the CPU, started by `Runtime` as a user starts it; for `make test-sglang`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil

from nbruntime import Runtime
from nbruntime.embedded.models.resolve import resolve_model
from support.server_client import ServerClient

STAND_INS = Path(__file__).parents[1] / "sglang_cpu" / "stand_ins"

PYTHON = os.environ.get("NBRUNTIME_TEST_SGLANG", "")
"""Interpreter of the environment that `make sglang-cpu` makes; empty where these tests do not run."""

LIMITS: dict[str, Any] = {"max_total_tokens": 32768, "max_running_requests": 16}
"""Arguments of both servers that the conformance checks compare."""


ENVIRONMENT = {
    "PYTHONPATH": str(STAND_INS),
    "SGLANG_USE_CPU_ENGINE": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""What SGLang needs on a CPU without AMX and without its compiled kernels."""


def options() -> dict[str, Any]:
    """Arguments of `Runtime`: the default model in SGLang on a CPU."""
    return {
        "model_path": str(resolve_model().folder),
        "engine": "sglang",
        "python": PYTHON,
        "env": ENVIRONMENT,
        "device": "cpu",
        "attention_backend": "torch_native",
        "sampling_backend": "pytorch",
        "grammar_backend": "xgrammar",
        "disable_cuda_graph": True,
        "dtype": "float32",
        "enable_metrics": True,
        "log_level": "info",
        "launch_timeout": 400,
        **LIMITS,
    }


class SglangServer(ServerClient):
    """A `Runtime` of the real server, and the face that the embedded one has in tests."""

    def __init__(self, api_key: str | None = None, **arguments: Any) -> None:
        self.runtime = Runtime(api_key=api_key, **options() | arguments)
        self.api_key = self.runtime.endpoint.api_key
        self.url = self.runtime.url

    def tree(self) -> list[psutil.Process]:
        """SGLang's processes: the HTTP server, the scheduler, the detokenizer and what they have started."""
        assert self.runtime.pid is not None
        server = psutil.Process(self.runtime.pid)
        return [server, *server.children(recursive=True)]

    def close(self) -> None:
        """End it, and see that nothing is left."""
        tree = self.tree() if self.runtime.pid else []
        self.runtime.shutdown()
        left = [process for process in tree if process.is_running() and process.status() != "zombie"]
        assert left == [], left
