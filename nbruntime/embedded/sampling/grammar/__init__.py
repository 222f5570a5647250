"""Grammars of answers: patterns, JSON schemas and EBNF, read as SGLang reads them, kept by llguidance."""

from nbruntime.embedded.sampling.grammar.compiler import GrammarCompiler
from nbruntime.embedded.sampling.grammar.matcher import Grammar, GrammarError, GrammarMatcher

__all__ = ["Grammar", "GrammarCompiler", "GrammarError", "GrammarMatcher"]
