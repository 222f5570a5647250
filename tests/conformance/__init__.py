"""What a server must do to be SGLang to a client: one suite of checks for the real and the embedded server.

A check sends requests, asserts what holds of every right answer, and returns its findings: statuses, forms of
the JSON, finish reasons, texts of greedy answers, bodies of errors. The findings about the real server are
kept in ``data/conformance.json``; the embedded server's must be the same, but for `DIFFERENCES`.

What SGLang answers, field by field, is checked by replayed exchanges (``test_embedded_records.py``). These
checks run against both servers as they are now, and look at what a recording cannot show: order, growth,
aborts, the cache, requests at the same time.
"""

from conformance import (  # noqa: F401
    aborts,
    answers,
    errors,
    grammars,
    logprobs,
    odd_folder,
    others,
    service,
    stops,
    streams,
)
from conformance.comparison import DIFFERENCES, RECORD, deviations, recorded, run, summary, table
from conformance.suite import CHECKS, ODD_FOLDER

__all__ = [
    "CHECKS",
    "DIFFERENCES",
    "ODD_FOLDER",
    "RECORD",
    "deviations",
    "recorded",
    "run",
    "summary",
    "table",
]
