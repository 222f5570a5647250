"""Sorts kernels and operators into classes by their names."""

from __future__ import annotations

import re
from functools import cache

GEMM = "gemm"
ATTENTION = "attention"
NORM = "norm and elementwise"
COMMUNICATION = "communication"
SAMPLING = "sampling"
COPIES = "copies"
OTHER = "other"

CLASSES = (GEMM, ATTENTION, NORM, COMMUNICATION, SAMPLING, COPIES, OTHER)
"""The classes, in the order in which they are shown."""

# Patterns without case, of which the first that is found decides.
_KERNELS = (
    (NORM, r"ep_(gather|scatter|permute|moe_post) (pre|post)_reorder deep_gemm::transpose"),
    (
        COMMUNICATION,
        """
        nccl rccl all_?reduce all_?gather reduce_?scatter all_?to_?all deep_?ep nvshmem multimem
        (one|two)_?shot cross_device quick_?reduce symm_mem userbuffers
        """,
    ),
    (
        COPIES,
        """
        ^(mem(cpy|set)|hip_?mem|copy_?(device|host)) copy_kernel_cuda copy_?buffer fillfunctor transfer_kernel
        """,
    ),
    (
        SAMPLING,
        """
        (?<!up)sampl multinomial argmax (top|min)_?p(_|renorm|mask) top_?k_?(renorm|mask|top)
        radix_?sort penalt logprob cunn_softmax distribution_ exponential gumbel bitmask (build|verify)_tree
        """,
    ),
    (
        ATTENTION,
        r"""
        flash(?!infer) fmha attention attn _att_m_ softmax_reducev paged mla_ mqa_
        (batch|single)(prefill|decode) merge_?states ^_fwd_(kernel|grouped) fwd_grouped_kernel
        rotary (^|_)rope rope(_|$) kv_?(cache|indices|buffer|splits)
        mamba selective_scan causal_conv1d chunk_(scan|state|cumsum|fwd|gated|scaled|local) _chunk_fwd
        state_passing delta_rule gdn_ recompute_w_u solve_tril merge_\d+x\d+_to
        """,
    ),
    (
        GEMM,
        r"""
        gemm gemv cutlass cublas nvjet xmma ^(ampere|hopper|volta|turing|sm\d+)_ matmul _mm_ mul_mat
        (^|_|::)bmm_ fused_moe_kernel fmoe_ moe_q\d lora_ grouped_mm marlin awq gptq machete ^cijk_
        tensile wmma split_?k dot_kernel
        """,
    ),
    (
        NORM,
        """
        norm elementwise silu gelu swiglu act_and_mul activation reduce triton_(poi|red|per)_ softmax quant
        embedding index gather scatter softcap moe top_?k catarray vectorized where mask cast fill
        scan tri[ul] expert reshape sort
        """,
    ),
)

_OPERATORS = (
    (
        COMMUNICATION,
        """
        nccl gloo c10d all_?reduce all_?gather reduce_?scatter all_?to_?all record_param_comms
        (^|:)shm_ barrier
        """,
    ),
    (
        SAMPLING,
        "(?<!up)sampl multinomial argmax top_?k$ ::sort exponential_ bernoulli (top|min)_p penalt logprob",
    ),
    (ATTENTION, "attention attn flash sdpa rotary (^|_|:)rope (^|_|:)mla(_|$) kv_?(cache|buffer) mamba"),
    (
        GEMM,
        r"""
        gemm mkldnn onednn linear matmul einsum conv(olution|\d)  fused_experts
        (::|_)(b|add|badd|int_|scaled_|grouped_)?(mm|bmm|mv|dot)(_|$)  int[48]pack
        """,
    ),
    (
        COPIES,
        """
        memcpy copy_?$ ::(_?to|contiguous|clone|cat|stack|item|full|zeros|ones|pin_memory|lift_fresh)(_|$)
        _to_copy _local_scalar_dense ::(fill|zero)_$
        """,
    ),
    (
        NORM,
        r"""
        norm softmax silu gelu relu sigmoid tanh embedding act_and_mul r?sqrt square quant
        (bitwise|logical)_ ::(add|sub|rsub|mul|div|neg|abs|pow|exp|log|cos|sin|sum|mean|var|all|any|where)_?$
        ::a?(min|max)(imum)?$ ::(eq|ne|lt|le|gt|ge|clamp(_min|_max)?|cumsum|arange|tri[ul])_?$
        ::(floor_divide|remainder)_?$
        ::_?(index|masked|gather|scatter)
        """,
    ),
)


def _table(rows: tuple[tuple[str, str], ...]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((kind, re.compile("|".join(patterns.split()), re.IGNORECASE)) for kind, patterns in rows)


_KERNEL_TABLE, _OPERATOR_TABLE = _table(_KERNELS), _table(_OPERATORS)


@cache
def kernel_class(name: str) -> str:
    """Return the class of a kernel, a copy or a fill on a device.

    Examples
    --------
    >>> kernel_class("nvjet_tst_64x8_64x16_4x1_v_bz_TNT"), kernel_class("Memcpy HtoD (Pinned -> Device)")
    ('gemm', 'copies')
    """
    return _class(name, _KERNEL_TABLE)


@cache
def operator_class(name: str) -> str:
    """Return the class of an operator on the CPU.

    Examples
    --------
    >>> operator_class("aten::addmm"), operator_class("sgl_kernel::decode_attention_cpu")
    ('gemm', 'attention')
    """
    return _class(name, _OPERATOR_TABLE)


def _class(name: str, table: tuple[tuple[str, re.Pattern[str]], ...]) -> str:
    return next((kind for kind, pattern in table if pattern.search(name)), OTHER)
