"""Asks the grammar library of SGLang's real server what it takes, as SGLang's own backend does.

``SGLANG_PYTHON tests/support/sglang_grammars.py FILE`` writes the verdicts into a file of grammars: for each
either what its grammar accepts, or the error. Only SGLang's interpreter has what this imports.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parents[1] / "data" / "grammars.json"
"""Grammars, answers that may follow them, and the verdicts of SGLang 0.5.23's library."""


def recorded() -> dict[str, dict[str, Any]]:
    """Read the record, by the grammars' names."""
    return {case["name"]: case for case in json.loads(RECORD.read_text(encoding="utf-8"))}


def sglang_module(path: str) -> Any:
    """Load one file of SGLang, without the packages around it, which want a GPU's libraries."""
    (folder,) = importlib.util.find_spec("sglang").submodule_search_locations  # type: ignore[union-attr,misc]
    spec = importlib.util.spec_from_file_location("loaded", Path(folder) / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def verdicts(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compile each grammar with the options of SGLang's backend, and try its answers."""
    import xgrammar
    from xgrammar.testing import _is_grammar_accept_string

    refuse_unserved = sglang_module("srt/constrained/json_schema_validation.py").validate_xgrammar_json_schema
    vocabulary = [bytes([byte]) for byte in range(256)] + ["</s>"]
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[256]))

    def compiled(kind: str, text: str) -> Any:
        if kind == "ebnf":
            return compiler.compile_grammar(text)
        if kind == "regex":
            return compiler.compile_regex(text)
        refuse_unserved(json.loads(text))
        return compiler.compile_json_schema(schema=text, any_whitespace=True, max_whitespace_cnt=None)

    found = []
    for case in cases:
        known = {name: case[name] for name in ("name", "kind", "text")}
        answers = case.get("answers", {})
        try:
            grammar = compiled(case["kind"], case["text"]).grammar
        except (RuntimeError, ValueError) as error:
            reason = re.sub(r"^\[[\d:]+\] \S+: ", "", str(error)).strip()
            found.append(known | {"error": reason, "answers": dict.fromkeys(answers)})
        else:
            accepted = {answer: _is_grammar_accept_string(grammar, answer) for answer in answers}
            found.append(known | {"answers": accepted})
    return found


def write(path: Path, cases: list[dict[str, Any]]) -> None:
    """Write a file of grammars, one a line."""
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    file = Path(sys.argv[1])
    write(file, verdicts(json.loads(file.read_text(encoding="utf-8"))))
