"""Grammars: what is taken and refused, beside what SGLang's grammar library was found to do."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from support.grammar_walks import allows, compiler, walks
from support.pydantic_fields import FIELDS, UNSAID, model_of
from support.sglang_grammars import recorded

from nbruntime.embedded.sampling.grammar import GrammarError

CASES = recorded()
LOOK_AHEAD = "SGLang ignores look-aheads; those at the beginning are heeded here"
QUOTED = "SGLang takes the pattern for the JSON text, where quotes and control characters are escaped"
WRITTEN = "values are written in one way here, of several that JSON has"
ANCHORS = "Python's anchors are letters to SGLang"
DIFFERENCES = {
    "schema: allOf: two": "SGLang allows every value; here all of the schemas hold",
    "schema: allOf: two objects": "SGLang allows every value; here all of the schemas hold",
    "schema: $ref to another document": "SGLang allows every value",
    "schema: enum: of all types": WRITTEN,
    "schema: const": WRITTEN,
    "schema: the order of properties": WRITTEN,
    "schema: escapes of a string": WRITTEN,
    "schema: forms of integers": "SGLang has no -0",
    "pattern: ^.*$": QUOTED,
    'pattern: ^a"b\\\\c$': QUOTED,
    "pattern: ^\\u00e9\\x41\\t$": QUOTED,
    'pattern: \\/\\:\\@\\-\\_\\!\\"': QUOTED,
    "pattern: \\x41\\u0042\\u{43}\\U00000044": "SGLang does not read them in JSON",
    "pattern: ^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$": LOOK_AHEAD,
    "pattern: ^(?=.*\\d)[a-z0-9]{2,4}$": LOOK_AHEAD,
    "pattern: \\Aabc\\Z": ANCHORS,
    "pattern: \\Aa\\Z": ANCHORS,
    "regex: \\Aabc\\Z": ANCHORS,
    "regex: \\Aa\\Z": ANCHORS,
    "regex: .": "SGLang's dot is any character; here, as in Python, none that breaks a line",
    "pattern: (?i)a": "SGLang takes this flag at the beginning of some patterns",
}
"""Where the verdicts differ, and why."""


def verdict(case: dict[str, Any]) -> str | dict[str, bool]:
    """What a grammar accepts here, or why it is refused."""
    try:
        compiler().compile(case["kind"], case["text"])
    except ValueError as error:
        return str(error)
    return {answer: allows(case["kind"], case["text"], answer) for answer in case["answers"]}


@pytest.mark.parametrize("name", CASES)
def test_verdicts_are_sglangs(name: str) -> None:
    case = CASES[name]
    ours = verdict(case)
    same = isinstance(ours, str) if "error" in case else ours == case["answers"]
    assert same == (name not in DIFFERENCES), (ours, case.get("error", case["answers"]))


def place(error: str) -> str | None:
    found = re.search(r"JSON schema at (#\S*?):? |EBNF at (line \d+, column \d+)", error, re.IGNORECASE)
    return found and (found[1] or found[2])


@pytest.mark.parametrize(
    "name",
    [name for name, case in CASES.items() if "is not supported by xgrammar" in case.get("error", "")],
)
def test_refusals_name_keyword_and_place_and_help(name: str) -> None:
    theirs, ours = CASES[name]["error"], verdict(CASES[name])
    assert isinstance(ours, str)
    assert place(ours) == place(theirs)
    assert ours.endswith("Leave it out, or check it afterwards.")
    words = re.findall(r"keyword\(s\) (.*) would|format ('.*') is|constraints (.*) cannot", theirs)[0]
    for word in re.split(", ", next(filter(None, words))):
        assert word in ours


@pytest.mark.parametrize(
    "name", [name for name in CASES if name.startswith("ebnf: ") and "error" in CASES[name]]
)
def test_errors_of_ebnf_name_line_and_column(name: str) -> None:
    ours = verdict(CASES[name])
    assert isinstance(ours, str)
    line = re.search(r"line (\d+), column \d+", CASES[name]["error"])
    found = re.search(r"EBNF at line (\d+), column \d+: ", ours)
    assert line
    assert found
    assert found[1] == line[1]


@pytest.mark.parametrize("name", FIELDS)
def test_answers_to_a_pydantic_field_are_valid(name: str) -> None:
    model = model_of(name)
    schema = json.dumps(model.model_json_schema())
    if "error" in CASES[f"pydantic: {name}"]:
        with pytest.raises(ValueError, match=r"JSON schema at #/properties/x: .* afterwards\.$"):
            compiler().compile("json_schema", schema)
        return
    answers = list(walks("json_schema", schema, 12))
    assert len(answers) >= 6
    for answer in answers:
        json.loads(answer)
        if name not in UNSAID:
            model.model_validate_json(answer)


def test_decimals_have_digits_where_their_pattern_says_so() -> None:
    pattern = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"
    model = model_of("Decimal")
    schema = {"properties": {"x": {"type": "string", "pattern": pattern}}, "required": ["x"]}
    for answer in walks("json_schema", json.dumps(schema), 40):
        model.model_validate_json(answer)


def test_a_schema_says_that_it_is_open() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": True}
    found = [json.loads(answer) for answer in walks("json_schema", json.dumps(schema), 30)]
    assert any(answer.keys() - {"a"} for answer in found)


@pytest.mark.parametrize(("least", "most"), [(1, None), (2, 3), (None, 1), (0, 0)])
def test_the_number_of_optional_properties_is_bounded(least: int | None, most: int | None) -> None:
    bounds = {"minProperties": least, "maxProperties": most}
    schema = {
        "type": "object",
        "properties": {name: {"type": "integer"} for name in "abcd"},
        "required": ["b"],
    }
    schema |= {word: bound for word, bound in bounds.items() if bound is not None}
    if most == 0:
        with pytest.raises(ValueError, match="Unsatisfiable"):
            compiler().compile("json_schema", json.dumps(schema))
        return
    sizes = {len(json.loads(answer)) for answer in walks("json_schema", json.dumps(schema), 30)}
    assert min(sizes) >= (least or 1)
    assert max(sizes) <= (most or 4)


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("json_schema", "[" * 40_000, "nested too deeply"),
        ("ebnf", "root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "nested too deeply"),
        ("json_schema", '{"type": "integer", "minimum": Infinity}', "beyond 64 bits"),
        ("json_schema", '{"type": "number", "maximum": true}', "not a number"),
        ("json_schema", '{"type": "string", "pattern": 5}', "pattern is not a string"),
        ("json_schema", '{"type": "string", "format": ["date"]}', "format"),
        ("json_schema", '{"type": {"a": 1}}', "there is no type"),
        ("json_schema", '{"type": "object", "propertyNames": true}', "propertyNames"),
        ("json_schema", '{"type": "object", "properties": [1]}', "properties is not an object"),
        ("json_schema", '{"anyOf": 5}', "anyOf is not a list"),
        ("json_schema", '{"$ref": 5}', r"\$ref is not a string"),
        ("json_schema", '{"type": "object", "minProperties": "2"}', "minProperties is not a number"),
        ("json_schema", '{"properties": {"a": true}, "required": [["a"]]}', "required holds more than names"),
        ("json_schema", '{"type": "object", "propertyNames": {"type": "integer"}}', "names of properties"),
        ("json_schema", '{"type": "object", "propertyNames": {"$ref": "#"}}', "names of properties"),
        (
            "json_schema",
            '{"type": "integer", "minimum": 5, "maximum": 1}',
            r"grammar: Unsatisfiable schema: .*\)$",
        ),
        ("json_schema", r'{"type": "string", "pattern": "\ud800"}', r"U\+D800 is half of a character"),
        ("ebnf", r'root ::= "\ud83d"', r"U\+D83D is half of a character"),
        ("ebnf", "root ::= Token(5)", "Token"),
        ("ebnf", 'root ::= Regex("(")', "a bracket is not closed"),
    ],
)
def test_errors(kind: str, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compiler().compile(kind, text)


def test_texts_of_recursive_rules_are_found_wherever_they_end() -> None:
    # A lexer that takes the longest text would take the last letter for one of the first.
    text = 'root ::= "(" root ")" | [a-z]+ "end" | "a" | "ab" "c"'
    assert allows("ebnf", text, "((blend))")
    assert allows("ebnf", text, "(abc)")
    assert not allows("ebnf", text, "(blen)")


def test_bounded_objects_within_each_other_are_written_once() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(8):
        named = {"a": schema, "b": {"type": "integer"}, "c": {"type": "null"}, "d": {"type": "boolean"}}
        schema = {"type": "object", "properties": named, "minProperties": 2, "maxProperties": 3}
    text = json.dumps(schema)
    assert allows("json_schema", text, '{"b": 1, "c": null}')
    assert not allows("json_schema", text, '{"b": 1}')


def test_one_of_many_optional_properties_may_be_asked_for() -> None:
    named = {f"p{number}": {"type": "integer"} for number in range(40)}
    schema = {"type": "object", "properties": named, "required": ["p3"], "minProperties": 2}
    text = json.dumps(schema)
    assert allows("json_schema", text, '{"p0": 1, "p3": 1, "p7": 1, "p39": 1}')
    assert allows("json_schema", text, '{"p3": 1, "p39": 1}')
    assert not allows("json_schema", text, '{"p3": 1}')
    assert allows("json_schema", json.dumps(schema | {"minProperties": 1}), '{"p3": 1}')
    assert allows("json_schema", json.dumps(schema | {"maxProperties": 40}), '{"p3": 1, "p4": 1}')
    with pytest.raises(ValueError, match=r"at #: maxProperties of so many optional .* afterwards\.$"):
        compiler().compile("json_schema", json.dumps({"properties": named, "maxProperties": 20}))


def test_groups_may_have_names() -> None:
    assert allows("regex", "(?<year>[0-9]{4})-(?<month>[0-9]{2})", "2026-11")
    with pytest.raises(ValueError, match="a group that begins so is not served, at character 2"):
        compiler().compile("regex", "(?P<year>[0-9]{4})")


def test_a_grammar_without_an_answer_says_so() -> None:
    matcher = compiler().compile("ebnf", "root ::= []")()
    with pytest.raises(GrammarError, match=r"cannot follow its grammar: no text goes on from here$"):
        matcher.mask(torch.zeros(257))


def test_many_rules_and_fields_are_compiled() -> None:
    doubling = [f'r{number} ::= "x" r{number + 1} r{number + 1}' for number in range(60)]
    compiler().compile("ebnf", "\n".join(["root ::= r0", *doubling, 'r60 ::= "z"']))
    fields = {f"field_{number}": {"$ref": f"#/$defs/m{number}"} for number in range(200)}
    defs = {
        f"m{number}": {"type": "object", "properties": {"next": {"$ref": f"#/$defs/m{(number + 1) % 200}"}}}
        for number in range(200)
    }
    schema = {"type": "object", "properties": fields, "required": list(fields), "$defs": defs}
    compiler().compile("json_schema", json.dumps(schema))
