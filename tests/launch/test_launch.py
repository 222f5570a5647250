"""Choosing an engine, making its command, claiming its port, watching it start."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_engine import BindingEngine, FakeEngine, alive, await_true, read_pids

from nbruntime.embedded.arguments import parse_arguments
from nbruntime.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    EngineNotFoundError,
    LaunchError,
    LaunchTimeoutError,
    ModelNotFoundError,
    PortInUseError,
)
from nbruntime.launch.arguments import OWN_ARGUMENTS
from nbruntime.launch.engines import probe as engine_probe
from nbruntime.launch.engines import resolve as engines
from nbruntime.launch.engines import sglang_arguments
from nbruntime.launch.engines.embedded import EmbeddedServerKind
from nbruntime.launch.engines.resolve import resolve_engine
from nbruntime.launch.engines.sglang import SglangServerKind
from nbruntime.launch.phases import Phase, phase_of
from nbruntime.launch.ports import PortClaim, claim_port, holders_of
from nbruntime.launch.process import ServerProcess
from nbruntime.launch.readiness import await_ready
from nbruntime.launch.supervisor.launch_spec import LaunchSpec
from nbruntime.protocol.server_arguments import API_KEY_VARIABLE, EMBEDDED_ARGUMENTS
from nbruntime.runtime import Runtime
from nbruntime.secrets import is_secret_name

# Which engine


def test_this_environment_has_no_server_of_sglang() -> None:
    """The frontend alone does not count, nor does a server without a device."""
    engine = resolve_engine()
    print(engine.name, "because", engine.why)
    assert engine.name == "embedded"
    assert engine.why.startswith("SGLang")


@pytest.fixture
def sglang_environment(tmp_path: Path) -> Path:
    """An interpreter whose SGLang and torch are stand-ins that tell what they were called with."""
    library = tmp_path / "library"
    files = {
        "sglang/__init__.py": "raise RuntimeError('must not be imported to look for it')",
        "sglang/launch_server.py": "",
        "sglang/srt/server_args.py": "class ServerArgs:\n    brand_new_option: int = 3\n",
        "torch/__init__.py": (
            "class cuda:\n"
            "    is_available = staticmethod(lambda: True)\n"
            "    get_device_name = staticmethod(lambda n: 'Stand-in H100')\n"
            "class backends: pass\n"
        ),
        "fastapi/__init__.py": "",
        "uvicorn/__init__.py": "",
        "zmq/__init__.py": "",
    }
    for name, text in files.items():
        file = library / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={library} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return python


@pytest.fixture
def device_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the probe take a file that is always there for a device."""
    source = Path(engine_probe.__file__).read_text().replace('"/dev/nvidia[0-9]*"', '"/dev/null"')
    copy = Path(os.environ["PYTEST_PROBE_COPY"])
    copy.write_text(source)
    monkeypatch.setattr(engine_probe, "__file__", str(copy))


@pytest.fixture(autouse=True)
def _probe_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_PROBE_COPY", str(tmp_path / "probe.py"))


@pytest.mark.usefixtures("device_file")
def test_auto_takes_sglang_where_it_has_a_device(sglang_environment: Path) -> None:
    engine = resolve_engine("auto", python=sglang_environment)
    assert (engine.name, engine.python) == ("sglang", str(sglang_environment))
    assert engine.why == "it is installed and has a Stand-in H100"
    assert engine.accept({"brand_new_option": 4}).values["brand_new_option"] == 4


def test_auto_takes_the_embedded_server_where_there_is_no_device(sglang_environment: Path) -> None:
    engine = resolve_engine("auto", python=sglang_environment)
    assert (engine.name, engine.python) == ("embedded", sys.executable)
    assert engine.why == f"SGLang is installed, but there is no GPU in {sglang_environment}"


@pytest.mark.parametrize(
    ("missing", "why"),
    [
        ("sglang/srt/server_args.py", "SGLang's server is not installed"),
        ("torch/__init__.py", "SGLang's server is not installed (torch is missing)"),
        ("fastapi/__init__.py", "SGLang's server is not installed (fastapi is missing)"),
    ],
)
@pytest.mark.usefixtures("device_file")
def test_frontend_alone_is_no_server(sglang_environment: Path, missing: str, why: str) -> None:
    file = sglang_environment.with_name("library") / missing
    file.unlink()
    with contextlib.suppress(OSError):
        file.parent.rmdir()
    engine = resolve_engine("auto", python=sglang_environment)
    assert (engine.name, engine.why) == ("embedded", f"{why} in {sglang_environment}")


def test_interpreter_that_cannot_answer_is_said_so(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert "could not say whether it has SGLang" in resolve_engine(python=broken).why


def test_interpreter_that_does_not_exist() -> None:
    with pytest.raises(ArgumentValueError, match="is not an interpreter"):
        resolve_engine(python="/no/such/python")


def test_sglang_by_name_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_probe, "find_server", lambda: ("", "SGLang is not installed"))
    with pytest.raises(EngineNotFoundError, match=r"SGLang is not installed(.|\n)*python="):
        resolve_engine("sglang")


def test_unknown_engine() -> None:
    with pytest.raises(ArgumentValueError, match="'auto', 'sglang' or 'embedded', not 'vllm'"):
        resolve_engine("vllm")


def test_embedded_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineNotFoundError, match=r"needs torch(.|\n)*nbruntime\[embedded\]"):
        resolve_engine("embedded")


# Their commands


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


def test_keys_reach_sglang_but_no_command_line(claim: PortClaim, tmp_path: Path) -> None:
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


def test_flag_of_sglang_is_a_bool() -> None:
    with pytest.raises(ArgumentTypeError, match="trust_remote_code must be bool, not str 'yes'"):
        SglangServerKind("python").accept({"trust_remote_code": "yes"})


@pytest.mark.parametrize("name", ["ssl_certfile", "ssl_keyfile_password"])
def test_tls_is_refused(name: str) -> None:
    with pytest.raises(ArgumentValueError, match=r"RuntimeEndpoint\(url, verify=") as caught:
        SglangServerKind("python").accept({name: "swordfish"})
    assert "swordfish" not in str(caught.value)


def test_secret_of_the_environment_is_masked_by_its_name(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "token $HF_TOKEN, password $MY_PASSWORD, $PLAIN"; exit 3\n')
    python.chmod(0o755)
    env = {"HF_TOKEN": "hf_swordfish", "MY_PASSWORD": "hunter2", "PLAIN": "in the clear"}
    with pytest.raises(LaunchError) as caught:
        Runtime("m", engine="sglang", python=python, env=env)
    assert "token ***, password ***, in the clear" in str(caught.value)


def test_no_secret_of_sglang_is_put_on_its_command_line() -> None:
    secrets = [name for name in sglang_arguments.NAMES if is_secret_name(name)]
    assert {"api_key", "ssl_keyfile_password"} <= set(secrets)
    for name in secrets:
        try:
            assert name in SglangServerKind("python").accept({name: "swordfish"}).keys
        except ArgumentValueError:
            continue


def test_arguments_become_flags_of_the_embedded_server(claim: PortClaim, tmp_path: Path) -> None:
    engine = EmbeddedServerKind("/bin/python")
    accepted = engine.accept(
        {
            "model_path": tmp_path,
            "log_level": "error",
            "context_length": 512,
            "disable_radix_cache": True,
            "enable_metrics": False,
            "dtype": None,
            "tp_size": 2,
            "mem_fraction_static": 0.8,
            "api_key": "hunter2",
        }
    )
    assert accepted.ignored == ("tp_size", "mem_fraction_static")
    command = engine.command(accepted, claim)
    assert claim.listener is not None
    assert list(command.argv) == [
        *("/bin/python", "-P", "-m", "nbruntime.embedded"),
        f"--model-path={tmp_path}",
        "--log-level=error",
        "--context-length=512",
        "--disable-radix-cache",
        "--host=127.0.0.1",
        f"--port={claim.port}",
        f"--fd={claim.listener.fileno()}",
    ]
    assert command.env["NBRUNTIME_API_KEY"] == "hunter2"
    assert command.secrets == ("hunter2",)
    assert "hunter2" not in repr(command) + repr(command.argv)


def test_threads_do_not_spin_and_the_users_word_counts(
    claim: PortClaim, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    engine = EmbeddedServerKind("python")
    environment = engine.command(engine.accept({"threads": 3}), claim).env
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment["GOMP_SPINCOUNT"] == "0"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["TOKENIZERS_PARALLELISM"] == "false"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "OMP_NUM_THREADS" not in engine.command(engine.accept({}), claim).env


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "example.org"])
@pytest.mark.parametrize("engine", ["embedded", "sglang"])
def test_host_that_others_can_reach_needs_a_key(
    engine: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[str] = []

    def claim(host: str, *_: object, **__: object) -> PortClaim:
        claimed.append(host)
        raise PortInUseError("not to be listened on")

    monkeypatch.setattr("nbruntime.launch.launcher.claim_port", claim)
    for reuse in (False, True):
        for key in (None, ""):
            with pytest.raises(ArgumentValueError, match=r"from other machines(.|\n)*api_key="):
                Runtime("m", engine=engine, python=sys.executable, host=host, api_key=key, reuse=reuse)
        assert claimed == []
    with pytest.raises(PortInUseError):
        Runtime("m", engine=engine, python=sys.executable, host=host, port=1, api_key="k")
    assert claimed == [host]


def test_embedded_server_that_is_handed_a_socket_needs_a_key_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "")
    with pytest.raises(SystemExit):
        parse_arguments(["--host=0.0.0.0", "--fd=9"])
    assert "no API key is set" in capsys.readouterr().err
    assert parse_arguments(["--host=127.0.0.1", "--fd=9"]).fd == 9


def test_empty_key_is_none() -> None:
    for engine in (EmbeddedServerKind("python"), SglangServerKind("python")):
        assert engine.accept({"api_key": "", "admin_api_key": ""}).keys == {}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"context_length": "512"}, ArgumentTypeError, "context_length must be int, not str '512'"),
        ({"context_length": True}, ArgumentTypeError, "context_length must be int, not bool True"),
        ({"disable_radix_cache": 1}, ArgumentTypeError, "disable_radix_cache must be bool, not int 1"),
        ({"dtype": "int3"}, ArgumentValueError, "dtype must be one of auto, float32"),
        ({"log_level": "loud"}, ArgumentValueError, "log_level must be one of debug, info"),
        ({"context_lenght": 1}, ArgumentTypeError, "Did you mean 'context_length'"),
        ({"tp_sise": 1}, ArgumentTypeError, "Did you mean 'tp_size'"),
        ({"keepalive": 1}, ArgumentTypeError, "Did you mean 'keep_alive'"),
        ({"reuze": 1}, ArgumentTypeError, "Did you mean 'reuse'"),
        ({"luanch_timeout": 1}, ArgumentTypeError, "Did you mean 'launch_timeout'"),
        ({"fd": 3}, ArgumentTypeError, "has an argument 'fd'"),
        ({"zzzzzzzz": 3}, ArgumentTypeError, r"sglang\.launch_server --help"),
    ],
)
def test_wrong_argument_is_found_before_the_launch(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        EmbeddedServerKind("python").accept(arguments)


@given(st.text(min_size=1))
def test_unknown_names_are_type_errors_everywhere(name: str) -> None:
    known = {*sglang_arguments.NAMES, *(argument.name for argument in EMBEDDED_ARGUMENTS)}
    for engine in (EmbeddedServerKind("python"), SglangServerKind("python")):
        if name not in known:
            with pytest.raises(TypeError):
                engine.accept({name: 1})


def test_table_of_the_runtimes_own_arguments_is_whole() -> None:
    parameters = inspect.signature(Runtime).parameters.values()
    assert list(OWN_ARGUMENTS) == [one.name for one in parameters if one.kind is not one.VAR_KEYWORD]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"port": "30000"}, ArgumentTypeError, "port must be int or None, not str"),
        ({"port": True}, ArgumentTypeError, "port must be int or None, not bool"),
        ({"name": 5}, ArgumentTypeError, "name must be str or None, not int"),
        ({"launch_timeout": "60"}, ArgumentTypeError, "launch_timeout must be int or float, not str"),
        ({"progress": True}, ArgumentTypeError, "progress must be Callable or Phases or None, not bool"),
        ({"python": 3}, ArgumentTypeError, "python must be str or PathLike or None, not int"),
        ({"model_path": 3}, ArgumentTypeError, "model_path must be str or PathLike or None, not int"),
        ({"reuse": "no"}, ArgumentTypeError, "reuse must be bool, not str"),
        ({"env": ["A"]}, ArgumentTypeError, "env must be Mapping or None, not list"),
        ({"env": {"A": 1}}, ArgumentTypeError, "'A' is mapped to int"),
        ({"env": {1: "A"}}, ArgumentTypeError, "1 is mapped to str"),
        ({"env": {"A=B": "x"}}, ArgumentValueError, r"env\['A=B'\] cannot stand"),
        ({"env": {"": "x"}}, ArgumentValueError, "cannot stand in an environment"),
        ({"env": {"A": "x\0swordfish"}}, ArgumentValueError, "has a NUL character"),
        ({"api_key": 5}, ArgumentTypeError, "api_key must be str or None, not int"),
        ({"api_key": "swordfish\n"}, ArgumentValueError, "The key cannot stand in a header"),
    ],
)
def test_wrong_argument_of_the_runtime_itself_is_found_before_the_launch(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    runtime = Runtime.__new__(Runtime)
    with pytest.raises(error, match=message) as caught:
        runtime.__init__(engine="embedded", **arguments)  # type: ignore[misc]
    assert "swordfish" not in str(caught.value)
    assert repr(runtime) == "Runtime with the default model · starting"


def test_both_engines_know_the_names_that_notebooks_use() -> None:
    shared = {argument.name for argument in EMBEDDED_ARGUMENTS} - {"fd", "threads", "max_body_bytes"}
    assert shared <= sglang_arguments.NAMES
    assert {
        "tp_size",
        "mem_fraction_static",
        "cuda_graph_max_bs",
        "tensor_parallel_size",
    } <= sglang_arguments.NAMES
    assert len(sglang_arguments.NAMES) > 500


# Phases


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("phase: loading weights", Phase("loading weights")),
        ("phase: downloading 12.1/92.9 MB", Phase("downloading", 12.1, 92.9, "MB")),
        ("phase: converting 3/272 tensors", Phase("converting", 3, 272, "tensors")),
        ("phase: warming up 1/2", Phase("warming up", 1, 2)),
        ("phase: downloading 12.1 MB", Phase("downloading", 12.1, None, "MB")),
        ("phase: ready", Phase("ready")),
        ("phase:", None),
        ("the next phase: ready", None),
    ],
)
def test_phase_lines(line: str, phase: Phase | None) -> None:
    assert phase_of(line) == phase


@given(st.text())
def test_any_line_can_be_asked_for_a_phase(line: str) -> None:
    phase_of(line)
    SglangServerKind("python").read_phase(line)


@given(
    st.from_regex(r"[a-z][a-z ]{0,20}[a-z]", fullmatch=True),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.sampled_from(["", "MB", "tensors"]),
)
def test_phase_survives_its_own_words(name: str, done: int, total: int, unit: str) -> None:
    phase = Phase(name, done / 10, total / 10, unit)
    again = phase_of(f"phase: {name} {done / 10}/{total / 10} {unit}".rstrip())
    assert again == phase


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
def test_phases_in_the_log_of_sglang(line: str, phase: Phase | None) -> None:
    assert SglangServerKind("python").read_phase(line) == phase


# Ports


def test_first_free_port_from_30000_upward() -> None:
    with (
        claim_port("127.0.0.1", None, listen=True) as first,
        claim_port("127.0.0.1", None, listen=True) as second,
    ):
        assert 30000 <= first.port < second.port


def test_port_above_40000_and_any_port() -> None:
    with claim_port("127.0.0.1", 0, listen=True) as free:
        port = free.port
    assert port > 0
    with claim_port("127.0.0.1", 47321, listen=True) as claim:
        assert (claim.port, claim.url) == (47321, "http://127.0.0.1:47321")


def test_taken_port_is_named_with_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        assert holders_of("127.0.0.1", port) == holders_of("", port) == [os.getpid()]
        assert holders_of("127.0.0.2", port) == []
        with pytest.raises(PortInUseError, match=rf"Port {port} is taken by process {os.getpid()} \("):
            claim_port("127.0.0.1", port, listen=True)
    assert holders_of("127.0.0.1", port) == []


def test_reserved_port_is_passed_over_while_its_server_loads() -> None:
    with claim_port("127.0.0.1", None, listen=False) as loading:
        with socket.create_server(("127.0.0.1", loading.port)):
            pass  # nobody listens there yet
        with claim_port("127.0.0.1", None, listen=True) as other:
            assert other.port > loading.port
        with pytest.raises(PortInUseError):
            claim_port("127.0.0.1", loading.port, listen=False)


def test_any_port_is_none_that_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    with claim_port("127.0.0.1", 0, listen=False) as loading:
        chosen = [loading.port]

        class Socket(socket.socket):
            """The system may choose a port that nobody listens at yet."""

            def bind(self, address: Any) -> None:
                super().bind((address[0], chosen.pop()) if chosen else address)

        monkeypatch.setattr(socket, "socket", Socket)
        with claim_port("127.0.0.1", 0, listen=True) as other:
            assert not chosen
            assert other.port != loading.port


@pytest.mark.parametrize("port", [-1, 65536])
def test_impossible_port(port: int) -> None:
    with pytest.raises(ArgumentValueError, match="between 0 and 65535"):
        claim_port("127.0.0.1", port, listen=True)


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host"])
def test_impossible_host(host: str) -> None:
    with pytest.raises(ArgumentValueError, match=host):
        claim_port(host, 0, listen=True)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:30000"),
        ("::1", "http://[::1]:30000"),
        ("::", "http://[::1]:30000"),
        ("localhost", "http://localhost:30000"),
    ],
)
def test_url_that_reaches_the_server(host: str, url: str) -> None:
    assert PortClaim(host, 30000).url == url


def test_many_claims_at_once_get_different_ports() -> None:
    claims: list[PortClaim] = []
    barrier = threading.Barrier(16)

    def take() -> None:
        barrier.wait()
        claims.append(claim_port("127.0.0.1", None, listen=len(claims) % 2 == 0))

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ports = {claim.port for claim in claims}
    for claim in claims:
        claim.close()
    assert len(ports) == 16


# Readiness


class Launcher:
    """One launch of a fake server, as `Runtime` does it."""

    def __init__(self, engine: FakeEngine, timeout: float = 30.0, **arguments: Any) -> None:
        self.phases: list[Phase] = []
        self.engine = engine
        self.timeout = timeout
        with claim_port("127.0.0.1", 0, listen=engine.takes_listener) as claim:
            self.url = claim.url
            self.process = ServerProcess(engine.command(engine.accept(arguments), claim))

    def wait(self) -> None:
        await_ready(self.process, self.engine, self.url, timeout=self.timeout, on_phase=self.phases.append)

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop()


@pytest.mark.parametrize("kind", [FakeEngine, BindingEngine])
def test_launch_goes_through_its_phases(kind: type[FakeEngine]) -> None:
    with Launcher(kind(sys.executable), say=["phase: downloading 1/2 MB", "phase: warming up"]) as launch:
        launch.wait()
        assert [str(phase) for phase in launch.phases] == [
            "loading weights",
            "downloading 1/2 MB",
            "warming up",
            "ready",
        ]


def test_launch_returns_as_soon_as_the_server_is_ready(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Launcher(FakeEngine(sys.executable), gate=str(gate)) as launch:
        opener = threading.Thread(target=lambda: gate.write_text("go"))
        opener.start()
        launch.wait()
        now = time.time()
        opener.join()
        ready = float(launch.process.logs().rpartition("ready at ")[2].split()[0])
    print(f"returned {1e3 * (now - ready):.1f} ms after the server was ready")
    assert now - ready < 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"fail": "ValueError: no such dtype"},
            LaunchError,
            r"ValueError: no such dtype \(it exited with code 3\)",
        ),
        ({"fail": "error: ModelNotFoundError: no model y"}, ModelNotFoundError, "no model y"),
        ({"fail": "__main__.py: error: argument --dtype: invalid"}, LaunchError, "argument --dtype"),
        ({"fail": "something"}, LaunchError, "it exited with code 3"),
        ({"fail": "nbruntime.errors.ModelNotFoundError: no model x"}, ModelNotFoundError, "no model x"),
        ({"fail": "OSError: [Errno 98] Address already in use"}, PortInUseError, "already in use"),
        (
            {"kill": signal.SIGKILL.value},
            LaunchError,
            "killed by SIGKILL, as when the machine runs out of memory",
        ),
    ],
)
def test_failed_launch_tells_the_cause_and_leaves_nothing(
    arguments: dict[str, Any], error: type[LaunchError], message: str, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    with Launcher(FakeEngine(sys.executable), children=1, pids=str(pids), **arguments) as launch:
        with pytest.raises(error, match=message) as caught:
            launch.wait()
        assert "'loading weights'" in str(caught.value)
        assert any("phase: loading weights" in line for line in caught.value.log_lines)
        launch.process.wait(10)
        assert not any(alive(pid) for pid in read_pids(pids))


def test_error_keeps_more_of_the_log_than_it_shows() -> None:
    with (
        Launcher(FakeEngine(sys.executable), spam=150, fail="something") as launch,
        pytest.raises(LaunchError, match="log_lines") as caught,
    ):
        launch.wait()
    assert len(caught.value.log_lines) == 152
    shown = str(caught.value).partition("Last 20 lines of the log:\n")[2].splitlines()
    assert [line.strip() for line in shown] == list(caught.value.log_lines[-20:])


def test_launch_timeout(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with (
        Launcher(FakeEngine(sys.executable), timeout=0.5, gate=str(gate)) as launch,
        pytest.raises(LaunchTimeoutError, match=r"within 0.5 s: its last phase was 'loading weights'"),
    ):
        launch.wait()


class HangingEngine(FakeEngine):
    """Its server answers no question: each takes the whole time that it is given, up to 20 s."""

    probe_interval = 0.1

    def is_ready(self, url: str, timeout: float) -> bool:
        time.sleep(min(timeout, 20))
        return False


def test_probe_that_hangs_does_not_hold_up_the_timeout(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Launcher(HangingEngine(sys.executable), timeout=0.5, gate=str(gate)) as launch:
        began = time.monotonic()
        with pytest.raises(LaunchTimeoutError):
            launch.wait()
        took = time.monotonic() - began
    print(f"a time-out of 0.5 s raised after {took:.2f} s")
    assert took < 2


def test_time_of_a_probe_is_not_waited_for_again(tmp_path: Path) -> None:
    times: list[float] = []

    class SlowEngine(HangingEngine):
        def is_ready(self, url: str, timeout: float) -> bool:
            times.append(time.monotonic())
            return super().is_ready(url, min(timeout, 0.5))

    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with (
        Launcher(SlowEngine(sys.executable), timeout=4, gate=str(gate)) as launch,
        pytest.raises(LaunchTimeoutError),
    ):
        launch.wait()
    print(f"{len(times)} probes of 0.5 s, 0.1 s between them, in 4 s")
    assert len(times) >= 5  # waiting twice for each, it would be four at most


@pytest.mark.parametrize(("kind", "pages"), [(EmbeddedServerKind, 1), (SglangServerKind, 2)])
def test_server_is_asked_for_no_longer_than_is_left(
    kind: type[engines.ServerKind], pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def status(url: str, timeout: float) -> int:
        given.append(timeout)
        return 404

    monkeypatch.setattr(sys.modules[kind.__module__], "http_status", status)
    assert not kind("python").is_ready("http://127.0.0.1:1", 0.1)
    assert given == [0.1] * pages


def test_download_does_not_count_against_the_timeout(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Launcher(
        FakeEngine(sys.executable), timeout=0.5, gate=str(gate), say=["phase: downloading 1/2 MB"]
    ) as launch:
        opener = threading.Timer(1.0, lambda: gate.write_text("go"))
        opener.start()
        start = time.monotonic()
        launch.wait()
        assert time.monotonic() - start > 0.9
        opener.join()


def test_wait_that_is_told_of_again_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import time\nfor n in range(20): print('phase: waiting', flush=True); time.sleep(0.1)\nexit(3)"

    class WaitingEngine(FakeEngine):
        def command(self, arguments: Any, claim: PortClaim) -> LaunchSpec:
            return LaunchSpec((self.python, "-I", "-c", code), watch=self.watch)

    monkeypatch.setattr("nbruntime.launch.readiness.FETCHING_STALL", 0.6)
    with (
        Launcher(WaitingEngine(sys.executable), timeout=0.6) as launch,
        pytest.raises(LaunchError, match="exited with code 3"),
    ):
        launch.wait()


def test_much_output_while_loading_does_not_stop_the_launch() -> None:
    with Launcher(FakeEngine(sys.executable), spam=100_000) as launch:
        launch.wait()
        assert launch.phases[-1] == Phase("ready")
        await_true(lambda: launch.process.logs(1).startswith("ready at"))


def test_fake_key_is_masked_in_the_log() -> None:
    with Launcher(FakeEngine(sys.executable), api_key="hunter2", say=["the key is {key}"]) as launch:
        launch.wait()
        assert "the key is ***" in launch.process.logs()
        assert "hunter2" not in Path(f"/proc/{launch.process.pid}/cmdline").read_text()
        assert stat.S_IMODE(os.stat(f"/proc/{launch.process.pid}/environ").st_mode) == 0o400


def test_table_of_arguments_is_made_of_names() -> None:
    kinds = [getattr(sglang_arguments, name) for name in ("FLAGS", "SWITCHES", "LISTS", "JSON", "VALUES")]
    assert sum(map(len, kinds)) == len(sglang_arguments.NAMES), "no name is of two kinds"
    assert all(name.isidentifier() for name in sglang_arguments.NAMES)
    assert json.dumps(sorted(sglang_arguments.NAMES)).isascii()
