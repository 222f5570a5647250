"""The model behind a small interface: a batch of tokens goes in, logits come out."""

from __future__ import annotations

from pathlib import Path

from nbruntime.embedded.runner.protocol import ModelRunner


def load_runner(
    folder: Path, *, dtype: str = "auto", context_length: int | None = None, is_embedding: bool = False
) -> ModelRunner:
    """Load a model folder; see `transformers_runner.load_model`."""
    # Importing transformers takes seconds; errors found earlier should not wait for it.
    from nbruntime.embedded.runner.transformers_runner import load_model

    return load_model(folder, dtype=dtype, context_length=context_length, is_embedding=is_embedding)
