"""Attention over a KV cache shared by all requests, addressed by token slot.

transformers' models call `cached_attention` in each layer. The tokens of a batch lie in one row without
padding; the `ForwardBatch` says where their past lies.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nbruntime.embedded.runner.batch import DecodeGroup, ExtendSegment, ForwardBatch

NAME = "nbruntime"
"""Name of `cached_attention` in transformers."""


class KVCache:
    """Keys and values of every layer, addressed by token slot; slot 0 is for padding.

    `shapes` are the number of KV heads and the head size of each layer.
    """

    def __init__(self, num_slots: int, shapes: list[tuple[int, int]]) -> None:
        # Not zeroed: pages of unused slots then take no memory.
        self.keys = [torch.empty(num_slots + 1, heads, size) for heads, size in shapes]
        self.values = [torch.empty(num_slots + 1, heads, size) for heads, size in shapes]
        for padded in (*self.keys, *self.values):
            padded[0] = 0  # masked values are multiplied by 0, so they must be numbers


def register() -> None:
    """Register `cached_attention` with transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, cached_attention)


def cached_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    batch: ForwardBatch,
    cache: KVCache,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **ignored: Any,
) -> tuple[Tensor, None]:
    """Write the keys and values of a batch to the cache and attend over each request's past.

    `query` has the shape (1, heads, tokens, head size), `key` and `value` (1, KV heads, tokens, head size),
    the result (1, tokens, heads, head size). `sliding_window` is the number of tokens that a token attends
    to, including itself. `attention_mask` and other arguments of back ends are not used.
    """
    layer: int = module.layer_idx  # type: ignore[assignment]
    keys, values = cache.keys[layer], cache.values[layer]
    keys.index_copy_(0, batch.slots, key[0].transpose(0, 1))
    values.index_copy_(0, batch.slots, value[0].transpose(0, 1))
    parts = [_extend(query, keys, values, part, scaling, sliding_window) for part in batch.segments]
    parts += [_decode(query, keys, values, group, scaling, sliding_window) for group in batch.groups]
    attended = parts[0] if len(parts) == 1 else torch.cat(parts)
    return attended.reshape(1, query.shape[2], query.shape[1], -1), None


def _extend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    part: ExtendSegment,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Attend from a run of prompt tokens; returns (tokens, heads, head size)."""
    own = query[:, :, part.start : part.start + part.length]
    past_keys = keys.index_select(0, part.context).transpose(0, 1).unsqueeze(0)
    past_values = values.index_select(0, part.context).transpose(0, 1).unsqueeze(0)
    total = len(part.context)
    window = window if window is not None and total > window else None
    mask = None
    if part.length != total or window is not None:
        rows = torch.arange(total - part.length, total).unsqueeze(1)
        columns = torch.arange(total).unsqueeze(0)
        mask = columns <= rows
        if window is not None:
            mask &= columns > rows - window
    attended = F.scaled_dot_product_attention(
        own,
        past_keys,
        past_values,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=own.shape[1] != past_keys.shape[1],
    )
    return attended[0].transpose(0, 1)


def _decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    group: DecodeGroup,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Attend from one token of each request; returns (requests, heads, head size)."""
    requests, longest = group.contexts.shape
    kv_heads, size = keys.shape[1:]
    mask = group.mask
    if window is not None and longest > window:
        lengths = longest if mask is None else mask.sum(dim=-1, keepdim=True)
        visible = torch.arange(longest).expand(requests, 1, 1, longest) >= lengths - window
        mask = visible if mask is None else mask & visible
    flat = group.contexts.flatten()
    past_keys = keys.index_select(0, flat).view(requests, longest, kv_heads, size).transpose(1, 2)
    past_values = values.index_select(0, flat).view(requests, longest, kv_heads, size).transpose(1, 2)
    # Query heads that share a KV head become query positions, so no key is copied.
    own = query[0, :, group.start : group.start + requests].transpose(0, 1)
    grouped = own.reshape(requests, kv_heads, -1, size)
    attended = F.scaled_dot_product_attention(grouped, past_keys, past_values, attn_mask=mask, scale=scaling)
    return attended.reshape(own.shape)
