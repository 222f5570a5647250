"""A loaded model that can answer requests."""

from __future__ import annotations

from dataclasses import dataclass

from nbruntime.embedded.engine.engine import Engine
from nbruntime.embedded.runner.protocol import ModelFacts
from nbruntime.embedded.sampling.grammar import GrammarCompiler
from nbruntime.embedded.text.tokenizer import Tokenizer


@dataclass(slots=True)
class Service:
    """A loaded model that can answer.

    Parameters
    ----------
    engine : Engine
        Runs requests.
    tokenizer : Tokenizer
    grammars : GrammarCompiler
    facts : ModelFacts
    model_path, tokenizer_path, served_name : str
        As the server tells them.
    context_length : int
        Tokens that prompt and answer may have together.
    most_sequences : int
        Answers that one request may ask for: more would not fit the queue.
    """

    engine: Engine
    tokenizer: Tokenizer
    grammars: GrammarCompiler
    facts: ModelFacts
    model_path: str
    tokenizer_path: str
    served_name: str
    context_length: int
    most_sequences: int
