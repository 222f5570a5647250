"""Add our completions to IPython's completer, whose matchers changed in release 8.6."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, IPCompleter, SimpleMatcherResult

Complete = Callable[[str], tuple[str, list[str]] | None]
"""From a line up to the cursor: its last word and the choices for it, or None if the line is not ours."""

_IDENTIFIER = "nbruntime.magics"


def add_matcher(completer: IPCompleter, complete: Complete) -> None:
    """Complete the lines that `complete` takes, in place of IPython's own matchers."""
    try:
        from IPython.core.completer import SimpleCompletion, context_matcher
    except ImportError:
        matcher = _matcher_of_lines(completer, complete)
        matcher.matcher_identifier = _IDENTIFIER
        completer.magic_arg_matchers.append(matcher)
        return

    @context_matcher(identifier=_IDENTIFIER, priority=100)  # type: ignore[untyped-decorator]
    def match(context: CompletionContext) -> SimpleMatcherResult:
        if (completed := complete(context.text_until_cursor)) is None:
            return {"completions": []}
        fragment, choices = completed
        return {
            "completions": [SimpleCompletion(choice, type="magic") for choice in choices],
            "matched_fragment": fragment,
            "suppress": True,
        }

    completer.custom_matchers.append(match)


def remove_matcher(completer: IPCompleter) -> None:
    """Undo `add_matcher`."""
    for matchers in (completer.custom_matchers, completer.magic_arg_matchers):
        matchers[:] = [each for each in matchers if getattr(each, "matcher_identifier", "") != _IDENTIFIER]


def _matcher_of_lines(completer: IPCompleter, complete: Complete) -> Any:
    """Return a matcher for IPython before 8.6, whose results replace its last token, not our last word."""

    def match(_line: str) -> list[str]:
        line = completer.text_until_cursor
        fragment, choices = complete(line) or ("", [])
        token = completer.splitter.split_line(line)
        return [choice[len(fragment) - len(token) :] for choice in choices if fragment.endswith(token)]

    return match
