"""`import nbruntime` loads little and offers every public name."""

from __future__ import annotations

import subprocess
import sys

import pytest

import nbruntime

HEAVY = (
    "IPython", "aiohttp", "huggingface_hub", "ipywidgets", "jinja2", "matplotlib", "numpy", "pandas",
    "requests", "sglang", "tokenizers", "torch", "transformers", "urllib3", "asyncio", "http.client", "ssl",
)  # fmt: skip


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after some code."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_importing_loads_no_heavy_package() -> None:
    # What the interpreter loads by itself, through .pth files, is not ours.
    ours = loaded_by("import nbruntime; dir(nbruntime); nbruntime.__version__") - loaded_by("")
    print(f"{len(ours)} modules: {', '.join(sorted(ours))}")
    assert [name for name in HEAVY if name in ours] == []


def test_the_protocol_needs_only_msgspec_and_the_standard_library() -> None:
    code = "import nbruntime.generation, nbruntime.errors, nbruntime.protocol.failures"
    ours = loaded_by(code) - loaded_by("")
    third_party = {name.partition(".")[0] for name in ours if "nbruntime" not in name}.difference(
        sys.stdlib_module_names
    )
    assert third_party <= {"msgspec", "typing_extensions"}  # which msgspec imports if it is there


@pytest.mark.parametrize("name", nbruntime.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(nbruntime, name) is not None
    assert name in dir(nbruntime)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'RuntimeEndpont'"):
        _ = nbruntime.RuntimeEndpont
