"""The fields of a server's info, flat, grouped by topic and searchable."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from nbruntime.display.cards import Details, table
from nbruntime.display.html import escape, shortened

SHOWN_AT_MOST = 60
"""Most fields that a search shows."""

VALUE_WIDTH = 160
"""Most characters of a value that are shown."""

MOST_FIELDS = 2000
"""Most fields that are kept; SGLang has about 600."""

OTHER = "other"

_TOPICS: tuple[tuple[str, str], ...] = (
    ("speculative decoding", r"^_?spec|^decoupled_spec|eagle|ngram|dflash|dspark"),
    ("LoRA", r"lora"),
    ("disaggregation", r"^disaggregation|^encoder_|pdmux|pd_role|^num_reserved_decode|^optimistic_prefill"),
    ("mixture of experts", r"moe|expert|deepep|eplb|^ep_|fuseep|waterfill|^kt_|max_ep_size"),
    ("multimodal", r"^mm_|_mm_|multimodal|^media|allowed_media|image|asr_|encoder"),
    ("watermark", r"watermark_(?!config)|enable_watermark|watermark_config"),
    ("CUDA graphs and compilation", r"cuda_?graph|compile|nvtx|megakernel|monokernel"),
    ("metrics and tracing", r"metric|trace|bucket|log_|logging|otlp|crash_dump|show_time|kv_events|stat_log"),
    ("network and keys", r"^host$|(^|_)ports?($|_)|grpc|ssl|http|api_key|sidecar|root_path|url|socket"),
    ("parallelism", r"(tp|dp|pp|cp|dcp|dwdp)_(size|rank)|^n?nodes?|node_rank|rank$|_dp_|_tp_|_cp_|nccl"
     r"|allreduce|all_reduce|dist_|world_size|symm_mem|p2p|two_batch|gpu_id|load_balance|numa"),
    ("backends and kernels", r"backend|flashinfer|triton|kernel|fused|fusion|gemm|dsa_|dsv4"),
    ("KV cache and memory", r"cache|kvcache|kv_|mem|page|offload|swa|mamba|radix|token_capacity|max_total"),
    ("scheduling", r"schedul|prefill|decode|max_running|max_queued|preempt|priority|retract|overlap|batch"
     r"|stream|watchdog|chunk|delayer|interval"),
    ("chat and sampling", r"chat|sampling|parser|template|grammar|json|tool|logit|hidden|thinking|return_"),
    ("model", r"model|token|weight|dtype|quant|context|revision|device|seed|load_format|rope|embedding"
     r"|startup|version|max_req|launch_command|^status|trust_remote"),
)  # fmt: skip
"""Patterns of field names, in the order in which they are tried; topics are shown in the order of `ORDER`."""

ORDER = (
    "model",
    "parallelism",
    "scheduling",
    "KV cache and memory",
    "chat and sampling",
    "backends and kernels",
    "CUDA graphs and compilation",
    "metrics and tracing",
    "network and keys",
    "LoRA",
    "speculative decoding",
    "mixture of experts",
    "multimodal",
    "disaggregation",
    "watermark",
    OTHER,
)


def fields_of(info: Mapping[str, Any]) -> dict[str, str]:
    """Flatten a server's info, as `RuntimeEndpoint.get_server_info` returns it, to values by dotted name.

    What the state of a rank repeats of the whole is left out.

    Examples
    --------
    >>> fields_of({"tp_size": 1, "internal_states": [{"tp_size": 1, "world_size": 2}]})
    {'tp_size': '1', 'internal_states.0.world_size': '2'}
    """
    whole = {key: value for key, value in info.items() if key != "internal_states"}
    flat = dict(_flat("", whole))
    states = info.get("internal_states")
    for rank, state in enumerate(states if isinstance(states, list) else ()):
        own = state if isinstance(state, Mapping) else {"": state}
        own = {key: value for key, value in own.items() if key not in whole or whole[key] != value}
        flat.update(_flat(f"internal_states.{rank}.", own))
    return {name: _written(value) for name, value in islice(flat.items(), MOST_FIELDS)}


def topic_of(name: str) -> str:
    """Return the topic of a field.

    Examples
    --------
    >>> topic_of("tp_size"), topic_of("lora_paths"), topic_of("frontend")
    ('parallelism', 'LoRA', 'other')
    """
    last = re.sub(r"^internal_states\.\d+\.", "", name)
    return next((topic for topic, pattern in _TOPICS if re.search(pattern, last)), OTHER)


def matching(fields: Mapping[str, str], query: str) -> dict[str, str]:
    """Return the fields whose name, value or topic contains every word of a query.

    Examples
    --------
    >>> matching({"tp_size": "1", "dp_size": "2", "host": "127.0.0.1"}, "SIZE 2")
    {'dp_size': '2'}
    """
    words = query.lower().split()
    found = {}
    for name, value in fields.items():
        text = f"{name} {name.replace('_', ' ')} {value} {topic_of(name)}".lower()
        if all(word in text for word in words):
            found[name] = value
    return found


def fields_html(fields: Mapping[str, str], query: str = "") -> str:
    """Return fields from `fields_of` as HTML: all of them folded by topic, or those that match a query."""
    if query.strip():
        found = matching(fields, query)
        rows = list(found.items())[:SHOWN_AT_MOST]
        summary = f"{len(found)} of {len(fields)} fields"
        if len(found) > SHOWN_AT_MOST:
            summary += f"; the first {SHOWN_AT_MOST} are shown"
        return f'<div class="nbr-quiet">{escape(summary)}</div>{_rows(rows) if rows else ""}'
    groups: dict[str, list[tuple[str, str]]] = {topic: [] for topic in ORDER}
    for name, value in fields.items():
        groups[topic_of(name)].append((name, value))
    return "".join(
        f"<details><summary>{escape(topic)} ({len(rows)})</summary>{_rows(rows)}</details>"
        for topic, rows in groups.items()
        if rows
    )


def fields_details(fields: Mapping[str, str]) -> Details:
    """Return all fields as a folded part of a card."""
    return Details(f"server info, {len(fields)} fields", body=fields_html(fields))


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    return table([(name, shortened(value, VALUE_WIDTH)) for name, value in rows], labels=True)


def _flat(start: str, value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(f"{start}{key}.", item)
        else:
            yield f"{start}{key}", item


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
