"""A loaded model that can answer requests."""

from __future__ import annotations

from dataclasses import dataclass

from nbruntime.embedded.engine.engine import Engine
from nbruntime.embedded.runner.protocol import ModelFacts
from nbruntime.embedded.sampling.grammar import GrammarCompiler
from nbruntime.embedded.text.tokenizer import Tokenizer


@dataclass(slots=True)
class Service:
    """A loaded model that can answer requests."""

    engine: Engine
    tokenizer: Tokenizer
    grammars: GrammarCompiler
    facts: ModelFacts
    end_token_ids: frozenset[int]  # of model and tokenizer
    model_path: str
    tokenizer_path: str
    served_name: str
    context_length: int  # tokens of prompt and answer together
    most_sequences: int  # of one request: more would not fit into the queue
