"""What every piece of HTML must keep to: well-formed, and nothing of what is shown is obeyed."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

HOSTILE = "<script>alert(1)</script><img src=x onerror='x'>\"&amp;\x1b[31m\u202e\x00\ud800]]>"
"""A name, a value or a line that means harm."""

TAGS = {
    *("div", "span", "b", "style", "table", "tbody", "tr", "td", "th", "details", "summary", "pre", "code"),
    *("svg", "path", "text", "title"),
}
"""Elements that cards, charts and panels are made of."""


def parsed(html: str) -> ElementTree.Element:
    """Parse HTML as XML; fails where it is not well-formed or has an unexpected element."""
    root = ElementTree.fromstring(f"<root>{html}</root>")
    for element in root.iter():
        tag = element.tag.rpartition("}")[2]
        assert tag == "root" or tag in TAGS, f"<{tag}> in {html[:300]}"
        assert not [name for name in element.attrib if name.startswith("on")]
    return root


def checked(bundle: dict[str, Any]) -> str:
    """Check the forms of an object, and give all that they say."""
    assert {"text/plain", "text/html"} <= bundle.keys()
    root = parsed(bundle["text/html"])
    text = "".join(root.itertext())
    assert "mathjax_ignore" in root[0].attrib["class"].split()
    for form in (bundle["text/plain"], bundle["text/html"]):
        form.encode()  # no half characters
        assert not {character for character in form if ord(character) < 32} - {"\n", "\t"}
        assert "\u202e" not in form
    return str(bundle["text/plain"]) + text


DANGEROUS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](https://tracker.example/pixel.png)",
    "<style>*{display:none}</style>",
    "</div></div><iframe src='https://example.org'>",
    "\x1b]8;;https://example.org\x1b\\link\x1b[31m",
    "\u202eevil\u2066",
    '<a href="data:text/html,<script>alert(1)</script>">x</a>',
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "```html\n<script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\ncode\n```',
    "&#x3c;script&#x3e;alert(1)&#x3c;/script&#x3e;",
    "[ref]: javascript:alert(1)\n[ref]",
    "<javascript:alert(1)>",
    "user&#x202e;txt.exe &#8238;abc &rlm;x [&#x2066;](https://example.org/&#x202e;) ![&#x202e;](https://x.y)",
    "\u200e\u200f\u061c\ufffe\uffff &lrm;",
]
