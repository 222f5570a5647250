"""SGLang's server: its arguments, its command line and its log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.launch.engines import resolve as engines
from nbruntime.launch.engines import sglang_arguments
from nbruntime.launch.engines.sglang import SglangServerKind
from nbruntime.launch.phases import Phase
from nbruntime.launch.ports import PortClaim, claim_port
from nbruntime.protocol.server_arguments import EMBEDDED_ARGUMENTS
from nbruntime.secrets import is_secret_name


@pytest.fixture
def claim() -> Iterator[PortClaim]:
    claimed = claim_port("127.0.0.1", 0, listen=True)
    yield claimed
    claimed.close()


def flags_of(engine: engines.ServerKind, claim: PortClaim, **arguments: Any) -> list[str]:
    return list(engine.command(engine.accept(arguments), claim).argv)


def test_arguments_become_flags_of_sglang(claim: PortClaim) -> None:
    argv = flags_of(
        SglangServerKind("/env/bin/python"),
        claim,
        model_path="meta-llama/Llama-3.1-8B-Instruct",
        tp_size=2,
        mem_fraction_static=0.8,
        trust_remote_code=True,
        disable_radix_cache=False,
        enable_tf32_matmul=False,
        quantization=None,
        cuda_graph_bs_decode=[1, 2, 4],
        lora_paths=["a=/b", {"lora_name": "c", "lora_path": "/d"}],
        json_model_override_args={"a": 1},
        extra_metric_labels={"b": "c"},
        fp8_gemm_runner_backend="triton",
        schedule_conservativeness=-1,
        constrained_json_whitespace_pattern="-x",
    )
    assert argv == [
        *("/env/bin/python", "-m", "sglang.launch_server"),
        *("--model-path", "meta-llama/Llama-3.1-8B-Instruct"),
        *("--tp-size", "2"),
        *("--mem-fraction-static", "0.8"),
        "--trust-remote-code",
        "--no-enable-tf32-matmul",
        *("--cuda-graph-bs-decode", "1", "2", "4"),
        *("--lora-paths", "a=/b", '{"lora_name": "c", "lora_path": "/d"}'),
        *("--json-model-override-args", '{"a": 1}'),
        *("--extra-metric-labels", '{"b": "c"}'),
        *("--fp8-gemm-backend", "triton"),
        *("--schedule-conservativeness", "-1"),
        "--constrained-json-whitespace-pattern=-x",
        *("--host", "127.0.0.1"),
        *("--port", str(claim.port)),
    ]


def test_default_model_has_its_hub_id_for_sglang(claim: PortClaim) -> None:
    for given_path in (None, "SmolLM2-135M-Instruct"):
        argv = flags_of(SglangServerKind("python"), claim, model_path=given_path)
        assert argv[argv.index("--model-path") + 1] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_keys_reach_sglang_in_the_environment(claim: PortClaim, tmp_path: Path) -> None:
    engine = SglangServerKind(sys.executable)
    command = engine.command(engine.accept({"api_key": "-hunter2", "admin_api_key": "swordfish"}), claim)
    for secret in ("hunter2", "swordfish"):
        assert secret not in " ".join(command.argv)
        assert secret not in repr(command)
    # The server gets them as if they stood there, and runs as the main module.
    package = tmp_path / "sglang"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "launch_server.py").write_text(
        "import os, sys\n"
        "print(__name__, sys.modules['__main__'].__spec__.name, sys.argv[1:],\n"
        "      [n for n in os.environ if 'API_KEY' in n])"
    )
    environment = {name: value for name, value in (os.environ | command.env).items() if value is not None}
    ran = subprocess.run(
        command.argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    words = ran.stdout.split(" ", 2)
    assert words[:2] == ["__main__", "sglang.launch_server"]
    assert "'--api-key=-hunter2', '--admin-api-key=swordfish'] []" in words[2]


def test_embedded_only_arguments_are_set_aside_for_sglang() -> None:
    accepted = SglangServerKind("python").accept({"threads": 2, "max_running_requests": 4})
    assert accepted.ignored == ("threads",)
    assert "threads" not in accepted.values


def test_flag_of_sglang_must_be_a_bool() -> None:
    with pytest.raises(ArgumentTypeError, match="trust_remote_code must be bool, not str 'yes'"):
        SglangServerKind("python").accept({"trust_remote_code": "yes"})


@pytest.mark.parametrize("name", ["ssl_certfile", "ssl_keyfile_password"])
def test_tls_arguments_are_refused(name: str) -> None:
    with pytest.raises(ArgumentValueError, match=r"RuntimeEndpoint\(url, verify=") as caught:
        SglangServerKind("python").accept({name: "swordfish"})
    assert "swordfish" not in str(caught.value)


def test_no_secret_is_on_the_command_line_of_sglang() -> None:
    secrets = [name for name in sglang_arguments.NAMES if is_secret_name(name)]
    assert {"api_key", "ssl_keyfile_password"} <= set(secrets)
    for name in secrets:
        try:
            assert name in SglangServerKind("python").accept({name: "swordfish"}).keys
        except ArgumentValueError:
            continue


OWN = {"allowed_hosts", "fd", "max_body_bytes", "threads"}
"""Arguments that only the embedded server has."""


def test_sglang_knows_the_arguments_of_the_embedded_server() -> None:
    shared = {argument.name for argument in EMBEDDED_ARGUMENTS} - OWN
    assert shared <= sglang_arguments.NAMES
    assert {
        "tp_size",
        "mem_fraction_static",
        "cuda_graph_max_bs",
        "tensor_parallel_size",
    } <= sglang_arguments.NAMES
    assert len(sglang_arguments.NAMES) > 500


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("[2025-09-01 10:00:00 TP0] Load weight begin. avail mem=78.0 GB", Phase("loading weights")),
        (
            "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00,  2.01it/s]",
            Phase("loading weights", 1, 2, "files"),
        ),
        (
            "model.safetensors:  45%|####5     | 121M/269M [00:03<00:04, 33MB/s]",
            Phase("downloading", 121, 269, "MB"),
        ),
        ("Fetching 10 files:  30%|###       | 3/10 [00:01<00:02]", Phase("downloading", 3, 10, "files")),
        ("[2025-09-01 10:00:00] Capture cuda graph begin. This can take", Phase("capturing CUDA graphs")),
        ("INFO:     Uvicorn running on http://127.0.0.1:30000", Phase("warming up")),
        ("[2025-09-01 10:00:00] The server is fired up and ready to roll!", Phase("ready")),
        ("reading config.json: it is fine", None),
    ],
)
def test_phases_are_read_from_the_log_of_sglang(line: str, phase: Phase | None) -> None:
    assert SglangServerKind("python").read_phase(line) == phase


def test_argument_names_are_ascii_identifiers() -> None:
    kinds = [getattr(sglang_arguments, name) for name in ("FLAGS", "SWITCHES", "LISTS", "JSON", "VALUES")]
    assert sum(map(len, kinds)) == len(sglang_arguments.NAMES), "no name is of two kinds"
    assert all(name.isidentifier() for name in sglang_arguments.NAMES)
    assert json.dumps(sorted(sglang_arguments.NAMES)).isascii()
