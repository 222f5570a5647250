"""Takes the place of SGLang's compiled kernels, whose published wheel is for CUDA.

Without AMX, SGLang's CPU path computes with torch and wants a single operator from here. The others can be
imported and say that they are missing when they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

__version__ = "0.4.10"  # SGLang checks that it is new enough


def assign_req_to_token_pool_cpu(
    requests: Any, table: Any, starts: Any, ends: Any, slots: Any, row_length: int
) -> None:
    """Write down which slots of the KV cache hold the new tokens of each request.

    ``slots`` has those of all requests behind each other; row ``requests[i]`` of ``table`` gets its share at
    the positions ``starts[i]`` to ``ends[i]``.
    """
    taken = 0
    for row, start, end in zip(requests.tolist(), starts.tolist(), ends.tolist(), strict=True):
        count = end - start
        table[row, start:end] = slots[taken : taken + count].to(table.dtype)
        taken += count


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__") or not name.endswith("_cpu"):
        raise AttributeError(name)

    def missing(*arguments: Any, **options: Any) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name} is compiled code, and this is its stand-in")

    return missing
