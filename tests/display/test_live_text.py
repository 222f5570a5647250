"""Text drawn in pieces equals text drawn at once."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.html_checks import DANGEROUS

from nbruntime.display.live_text import LONGEST_TAIL, LiveText, text_html
from nbruntime.display.markdown import render_markdown

words = st.sampled_from(
    ["word ", "longer", "**bold** ", "`code` ", ". ", "\n", "\n\n", "\n```\n", "\n```python\n", "\n- item\n"]
)
texts = st.lists(words, max_size=400).map("".join)


def bare(html: str) -> str:
    """Return HTML without tags and white space."""
    return re.sub(r"\s+", "", re.sub(r"<[^>]*>", "", html))


@given(texts, st.lists(st.integers(1, 200), min_size=1, max_size=50), st.booleans())
def test_pieces_hold_the_whole_text_in_order(text: str, cuts: list[int], markdown: bool) -> None:
    live = LiveText(markdown=markdown)
    pieces: list[str] = []
    position = 0
    while position < len(text):
        for cut in cuts:
            live.add(text[position : position + cut])
            position += cut
            pieces += live.take_settled()
            assert len(live.tail) <= LONGEST_TAIL + 200
    shown = "".join([*pieces, live.tail_html()])
    whole = text_html(text, markdown=markdown)
    assert re.sub(r"[^a-z]", "", bare(shown)) == re.sub(r"[^a-z]", "", bare(whole))
    if not markdown:
        assert bare(shown) == bare(whole)


def test_settled_paragraphs_equal_those_of_the_whole_text() -> None:
    text = "\n\n".join(
        f"Paragraph {number} with *some* `code`. " + "And words. " * 20 for number in range(20)
    )
    live = LiveText()
    pieces: list[str] = []
    for start in range(0, len(text), 7):
        live.add(text[start : start + 7])
        pieces += live.take_settled()
    inner = [
        re.fullmatch(r'<div class="nbr-text">(.*)</div>', piece, re.S)
        for piece in [*pieces, live.tail_html()]
    ]
    assert len(pieces) > 3
    assert "".join(match[1] for match in inner if match) == render_markdown(text)


def test_a_long_code_block_stays_code_when_it_is_cut() -> None:
    live = LiveText()
    pieces = []
    for line in ["```python", *["value = 1"] * 500, "```", "", "After it."]:
        live.add(line + "\n")
        pieces += live.take_settled()
    assert len(pieces) > 3
    assert all("<pre>" in piece for piece in pieces)
    assert "After it." in live.tail_html()


@pytest.mark.parametrize("text", DANGEROUS)
@pytest.mark.parametrize("markdown", [True, False])
def test_hostile_text_becomes_no_active_html(text: str, markdown: bool) -> None:
    html = text_html(text, markdown=markdown)
    tree = ElementTree.fromstring(html)
    for element in tree.iter():
        assert element.tag not in {"script", "img", "iframe", "style", "object", "embed", "form", "input"}
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            assert name in {"class", "href", "rel", "target", "style", "start", "title"}
            if name == "href":
                assert value.startswith(("https://", "http://", "mailto:"))
    assert not re.search("[\x00-\x08\x0b-\x1f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", html)


DEEP = "Steps: \n\n" + "1. " * 40 + "the hidden end\n\n" + "> " * 30 + "quoted secret\n\nAfter."


@example([DEEP])
@given(
    st.lists(st.sampled_from(["1. ", "- ", "> ", "  ", "    ", "\n", "\n\n", "# ", "**", "word ", "```\n"]))
)
def test_no_word_is_lost_in_deep_nesting(pieces: list[str]) -> None:
    count = itertools.count()
    text = "".join(f"w{next(count)} " if piece == "word " else piece for piece in pieces)
    shown = bare(render_markdown(text))
    for word in re.findall(r"[a-z]\w*", text):
        assert word in shown, (word, text)


@given(st.text(max_size=300))
def test_any_text_becomes_well_formed_html(text: str) -> None:
    ElementTree.fromstring(text_html(text, markdown=True))
    ElementTree.fromstring(text_html(text, markdown=False))
