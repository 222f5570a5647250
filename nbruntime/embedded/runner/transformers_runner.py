"""Runs any causal language model that transformers can load, eagerly in torch.

transformers provides the layers; attention goes through `cached_attention` over our KV cache, and the linear
layers are packed to 16 bits where the CPU can.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nbruntime.embedded.models.json_file import read_json
from nbruntime.embedded.models.weights import weight_files
from nbruntime.embedded.runner import attention, self_check
from nbruntime.embedded.runner.batch import ForwardBatch, index
from nbruntime.embedded.runner.linear import pack_linears, packing_works
from nbruntime.embedded.runner.protocol import ModelFacts
from nbruntime.embedded.runner.weight_prefetch import WeightPrefetch
from nbruntime.embedded.runner.weights import check_loaded, parameters_of_head, read_weights
from nbruntime.errors import LaunchError, NbruntimeError

logger = logging.getLogger(__name__)


class TransformersRunner:
    """A `ModelRunner` with a causal language model of transformers; made by `load_model`."""

    def __init__(self, model: nn.Module, folder: Path, precision: str, weight_bytes: int) -> None:
        self._model = model
        config: Any = model.config
        text = config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        ends = [getattr(each, "eos_token_id", None) for each in (config, text)]
        ends.append(read_json(folder / "generation_config.json").get("eos_token_id"))
        self.facts = ModelFacts(
            architectures=tuple(config.architectures or ()),
            model_type=config.model_type,
            vocab_size=text.vocab_size,
            context_length=_longest_context(text),
            eos_token_ids=_end_tokens(ends),
            num_layers=text.num_hidden_layers,
            num_kv_heads=heads,
            head_dim=size,
            precision=precision,
            weight_bytes=weight_bytes,
            kv_bytes_per_token=2 * 4 * text.num_hidden_layers * heads * size,
        )
        self._cache = attention.KVCache(0, [])

    def allocate_cache(self, num_slots: int) -> None:
        """Allocate keys and values of `num_slots` tokens, or raise LaunchError; clears the cache."""
        shape = (self.facts.num_kv_heads, self.facts.head_dim)
        try:
            self._cache = attention.KVCache(num_slots, [shape] * self.facts.num_layers)
        except RuntimeError as error:
            size = num_slots * self.facts.kv_bytes_per_token / 2**30
            raise LaunchError(
                f"Not enough memory for a KV cache of {num_slots} tokens, {size:,.1f} GiB",
                hint="Give a smaller --max-total-tokens.",
            ) from error

    @torch.inference_mode()
    def forward(self, batch: ForwardBatch) -> Tensor:
        """Run one step and return logits; see `ModelRunner`."""
        logits: Tensor = self._run(self._model, batch, logits_to_keep=batch.logit_rows).logits
        return logits[0].float()

    @torch.inference_mode()
    def embed(self, batch: ForwardBatch) -> Tensor:
        """Run one step and return the last hidden states of the rows, float32, shape (rows, hidden)."""
        hidden: Tensor = self._run(self._model.base_model, batch).last_hidden_state
        return hidden[0, batch.logit_rows].float()

    def _run(self, model: Any, batch: ForwardBatch, **extra: Any) -> Any:
        return model(
            input_ids=batch.input_ids.unsqueeze(0),
            position_ids=batch.positions.unsqueeze(0),
            use_cache=False,
            batch=batch,
            cache=self._cache,
            **extra,
        )

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run a few tokens; LaunchError if that fails, or the logits are others without the cache."""
        tokens = [position % self.facts.vocab_size for position in range(self_check.TOKENS)]
        self.allocate_cache(len(tokens))
        with _model_errors(self.facts.model_type):
            found = self_check.run_in_steps(self.forward, tokens)
            expected = self._plain_logits(tokens)
            same = found.shape == expected.shape and self_check.agree(found, expected)
        if not same:
            raise _unserved(self.facts.model_type, "its logits differ with and without a KV cache")

    def _plain_logits(self, tokens: list[int]) -> Tensor:
        """Give the logits of a sequence by the model's own attention, without a cache."""
        model: Any = self._model
        model.set_attn_implementation("eager")
        try:
            logits: Tensor = model(input_ids=index(tokens).unsqueeze(0), use_cache=False).logits
        finally:
            model.set_attn_implementation(attention.NAME)
        return logits[0].float()


def load_model(
    folder: Path, *, dtype: str = "auto", context_length: int | None = None, is_embedding: bool = False
) -> TransformersRunner:
    """Load a Hugging Face model folder; call `allocate_cache` before the first step.

    Parameters
    ----------
    folder : Path
        Folder with ``config.json`` and safetensors weights.
    dtype : str
        ``float32`` computes as transformers does; anything else packs the linear layers to float16 where the
        CPU can.
    context_length : int, optional
        Number of tokens that the model must take; checked before the weights are read.
    is_embedding : bool
        True if only hidden states are wanted: the folder may lack the output head.

    Raises
    ------
    LaunchError
        If the architecture or the context length is not supported, or weights are missing or damaged.
    """
    if dtype in {"float32", "float"} or not packing_works():
        return _load(folder, dtype, context_length, is_embedding, None)
    with closing(WeightPrefetch(weight_files(folder))) as ahead:
        return _load(folder, dtype, context_length, is_embedding, ahead)


def _load(
    folder: Path, dtype: str, context_length: int | None, is_embedding: bool, ahead: WeightPrefetch | None
) -> TransformersRunner:
    """Load a model; its linear layers are packed if `ahead` is given."""
    from transformers import AutoConfig

    _quiet_transformers()
    with _model_errors(str(folder), "Mend config.json, or use engine='sglang' for a model that is newer"):
        config: Any = AutoConfig.from_pretrained(folder)
    _check_architecture(config)
    _check_context(config, context_length)
    model_class = _model_class(config)
    attention.register()
    weights = read_weights(weight_files(folder))
    with _model_errors(config.model_type):
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            # Packing goes through float32 layer by layer; until then the weights stay as small as on disk.
            dtype=torch.float32 if ahead is None else "auto",
            attn_implementation=attention.NAME,
        )
    del weights  # those of packed layers are freed one by one
    if is_embedding:
        info["missing_keys"] -= parameters_of_head(model)
    check_loaded(model, info, folder)
    with _model_errors(config.model_type):
        model.eval().requires_grad_(False)
        tied = model.get_input_embeddings().weight is getattr(model.get_output_embeddings(), "weight", None)
        weight_bytes = 0 if ahead is None else pack_linears(model, ahead)
    model.float()
    weight_bytes += sum(weight.numel() * weight.element_size() for weight in model.parameters())
    precision = "float32" if ahead is None else "float16 (packed)"
    if dtype == "bfloat16" and ahead is not None:
        logger.info("bfloat16 is slow on this CPU: the linear layers are packed to float16 instead")
    logger.info("weights: %.0f MB, %s%s", weight_bytes / 2**20, precision, ", tied" if tied else "")
    with _model_errors(config.model_type):
        return TransformersRunner(model, folder, precision, weight_bytes)


def _model_class(config: Any) -> Any:
    """Find the class of a causal model, without importing all of transformers' models."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if name is None:
        raise LaunchError(
            f"The folder holds a {config.model_type} model, which is not a causal language model",
            hint="Serve a model whose config.json names an architecture …ForCausalLM",
        )
    return getattr(transformers, name)


def _check_architecture(config: Any) -> None:
    """Refuse models that need more than a cache of keys and values, before the weights are read."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    foreign = kinds - {"full_attention", "sliding_attention"}
    if getattr(text, "attn_logit_softcapping", None):
        foreign.add("attention with soft-capped logits")
    if foreign:
        raise _unserved(config.model_type, f"it has {', '.join(sorted(foreign))}")


def _longest_context(text: Any) -> int:
    """Give the longest sequence that a model takes.

    A longrope model has one set of frequencies up to its original length and another beyond it. transformers
    chooses by the longest request of a step, for all of them, so only the original length is supported.
    """
    longest: int = getattr(text, "max_position_embeddings", None) or 2048
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [rope, *(each for each in rope.values() if isinstance(each, dict))]
    originals: list[int] = [
        each["original_max_position_embeddings"] for each in kinds if each.get("rope_type") == "longrope"
    ]
    return min([longest, *originals])


def _check_context(config: Any, wanted: int | None) -> None:
    text = config.get_text_config()
    longest, named = _longest_context(text), getattr(text, "max_position_embeddings", None)
    if named is not None and longest < named:
        logger.info("context length: %d tokens, which is the model's without longrope (%d)", longest, named)
    if wanted is not None and wanted > longest:
        raise LaunchError(
            f"--context-length {wanted} is more than the model's {longest} tokens",
            hint="Leave it out, or give a smaller one.",
        )


_PLAIN = "Use engine='sglang', or a model with plain attention"


@contextmanager
def _model_errors(subject: str, hint: str = _PLAIN) -> Iterator[None]:
    """Turn any error of transformers into a LaunchError: its models fail in too many ways to list."""
    try:
        yield
    except NbruntimeError:
        raise
    except Exception as error:
        logger.debug("transformers failed", exc_info=True)
        lines = [*filter(None, map(str.strip, str(error).splitlines()))]
        reason = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
        raise _unserved(subject, f"{type(error).__name__}: {reason}", hint) from error


def _unserved(subject: str, reason: str, hint: str = _PLAIN) -> LaunchError:
    return LaunchError(f"The embedded server cannot serve {subject}: {reason}", hint=hint)


def _end_tokens(named: Iterable[int | list[int] | None]) -> frozenset[int]:
    """Unite the end tokens that configurations name: none, one or several each."""
    ends = frozenset(chain.from_iterable([each] if isinstance(each, int) else each or () for each in named))
    if not all(isinstance(token_id, int) for token_id in ends):
        raise LaunchError(
            "eos_token_id in generation_config.json is no token id", hint="Write the number of a token there."
        )
    return ends


def _quiet_transformers() -> None:
    """Keep transformers' progress bars and advice out of the server's log."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
