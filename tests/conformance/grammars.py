"""Checks of grammars: which are taken, what is refused and where, and what greedy answers look like."""

from __future__ import annotations

import json
import re
from typing import Any

from support.server_client import ServerClient, generate_body

from conformance.suite import PROMPT, check, check_answer

DECIMAL = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"
_NUMBER = {"type": "integer"}

REFUSED: dict[str, Any] = {
    "not": {"properties": {"a": {"not": _NUMBER}}},
    "uniqueItems": {"properties": {"a": {"type": "array", "items": _NUMBER, "uniqueItems": True}}},
    "multipleOf": {"anyOf": [{"type": "integer", "multipleOf": 5}, {"type": "null"}]},
    "contains": {"type": "array", "items": {"type": "array", "contains": _NUMBER}},
    "if": {"$defs": {"a/b": {"if": _NUMBER}}, "type": "integer"},
    "dependentRequired": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "path": {"properties": {"a": {"type": "string", "format": "path"}}},
    "binary": {"type": "array", "prefixItems": [_NUMBER, {"type": "string", "format": "binary"}]},
    "minLength": {"additionalProperties": {"type": "string", "format": "uri", "minLength": 1}},
    "maxLength": {"patternProperties": {"^a": {"type": "string", "pattern": "b", "maxLength": 5}}},
}
"""Schemas by the word that they are refused for."""

EBNF = {
    "options on lines of their own": 'root ::=\n  "yes"\n  | "no"\n',
    "options after a bar": 'root ::= "yes" |\n  "no"\n',
    "the sign on a line of its own": 'root\n::= "yes"\n',
    "parts on lines of their own": 'root ::= "y"\n  [e]\n  "s"',
    "comments": '# one\nroot ::= yes # "no"\n# two\nyes ::= "yes"',
    "the root last": 'yes ::= "yes"\nroot ::= yes',
    "repetitions": 'root ::= "a"{2} "b"{1,1} ( "c" ) {1} "d"{0}',
    "classes": r"root ::= [a] [\x62] [\u0063] [\-] [\]]",
    "escapes": r'root ::= "\n\t\"\\" "\x41" "\u00e9" "\U0001F642"',
    "names": 'root ::= a-b_c.D1\na-b_c.D1 ::= "yes"',
    "a look-ahead": 'root ::= a "b"\na ::= "a" (="b")',
    "an empty group": 'root ::= "yes" ()',
    "a pattern": 'root ::= Regex("[0]{2}")',
    "recursion": 'root ::= "(" two ")"\ntwo ::= "(" one ")"\none ::= "x" | "y" root',
    "a letter that could be of another part": 'root ::= a b\na ::= [x]{1,2}\nb ::= "xz"',
}

WRONG_EBNF = {
    "no root": 'a ::= "b"',
    "an unknown rule": 'root ::= "a"\n  | b',
    "a rule twice": 'root ::= "a"\nroot ::= "b"',
    "two rules on a line": 'root ::= a b ::= "b"',
    "an open text": 'root ::= "a',
    "an open bracket": 'root ::=\n  ("a"',
    "an empty option": 'root ::= "a" |',
    "no ::=": 'root := "a"',
    "an unknown escape": r'root ::= "\q"',
}

WRONG_PATTERNS = ["(", "a**", "[z-a]", r"\bfoo", r"(a)\1", "(?<=a)b", "(?=a)b", r"\p{L}", "(?i)a", "a{b}"]


def _refusal(server: ServerClient, **params: Any) -> dict[str, Any]:
    answer = server.post("/generate", generate_body(PROMPT, max_new_tokens=2, **params))
    place = re.search(r"JSON schema at (#\S*?):? |line (\d+), column", answer.text, re.IGNORECASE)
    found = {"status": answer.status_code}
    return found | ({"place": place[1] or int(place[2])} if place else {})


@check("grammars: a pattern with a look-ahead")
def _(server: ServerClient) -> Any:
    schema = {
        "type": "object",
        "properties": {"x": {"type": "string", "pattern": DECIMAL}},
        "required": ["x"],
    }
    answer = server.generate("Pi is", json_schema=json.dumps(schema), max_new_tokens=48)
    check_answer(answer)
    return {"digits": bool(re.match(r'\s*\{\s*"x":\s*"[-+]?\d*\.?\d*', answer["text"]))}


@check("grammars: keywords that are refused")
def _(server: ServerClient) -> Any:
    found = {}
    for word, schema in REFUSED.items():
        text = json.dumps(schema)
        assert word in server.post("/generate", generate_body(PROMPT, json_schema=text)).text
        found[word] = _refusal(server, json_schema=text)
    return found


@check("grammars: forms of EBNF")
def _(server: ServerClient) -> Any:
    found = {}
    for name, text in EBNF.items():
        answer = server.post("/generate", generate_body(PROMPT, ebnf=text, max_new_tokens=16))
        assert answer.status_code == 200, (name, answer.text)
        body = answer.json()
        found[name] = [body["text"], body["meta_info"]["finish_reason"]["type"]]
    return found


@check("grammars: errors of EBNF")
def _(server: ServerClient) -> Any:
    return {name: _refusal(server, ebnf=text) for name, text in WRONG_EBNF.items()}


@check("grammars: patterns that are refused")
def _(server: ServerClient) -> Any:
    return {pattern: _refusal(server, regex=pattern)["status"] for pattern in WRONG_PATTERNS}


@check("grammars: objects hold what their schemas name")
def _(server: ServerClient) -> Any:
    inner = {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]}
    schemas = {
        "nested": {"type": "object", "properties": {"a": inner}, "required": ["a"]},
        "a reference": {"$ref": "#/$defs/inner", "$defs": {"inner": inner}},
        "an option": {"anyOf": [inner]},
        "one of all": {"allOf": [inner]},
        "no type": {"properties": {"b": {"const": 1}}, "required": ["b"]},
        "no properties": {"type": "object", "properties": {}},
        "a tuple": {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "minItems": 2},
    }
    found = {}
    for name, schema in schemas.items():
        answer = server.generate("JSON:", json_schema=json.dumps(schema), max_new_tokens=64)
        check_answer(answer)
        value = json.loads(answer["text"])
        found[name] = _keys(value)
    return found


def _keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _keys(each) for key, each in value.items()}
    return type(value).__name__
