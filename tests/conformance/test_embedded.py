"""The embedded server does what the real one was found to do, but for the differences that are named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.embedded_server import EmbeddedServer
from support.sglang_server import LIMITS

import conformance
from conformance import CHECKS, DIFFERENCES, ODD_FOLDER, deviations, recorded

pytestmark = [pytest.mark.model, pytest.mark.sglang]


def serve(*own: str) -> Iterator[EmbeddedServer]:
    flags = [word for name, value in LIMITS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    server = EmbeddedServer("--dtype", "float32", *flags, *own, api_key="sk-conformance")
    try:
        yield server.ready()
    finally:
        server.close()
    assert "Traceback" not in server.log, server.log


@pytest.fixture(scope="module")
def embedded() -> Iterator[EmbeddedServer]:
    yield from serve()


@pytest.fixture(scope="module")
def embedded_odd(odd_folder: Path) -> Iterator[EmbeddedServer]:
    yield from serve("--model-path", str(odd_folder))


@pytest.mark.parametrize("name", CHECKS)
def test_check(request: pytest.FixtureRequest, name: str, record_property: pytest.RecordProperty) -> None:
    server = request.getfixturevalue("embedded_odd" if name.startswith(ODD_FOLDER) else "embedded")
    found = conformance.run(name, server)
    known = DIFFERENCES.get(name, {})
    places = list(deviations(recorded()[name], found))
    unknown = [place for place in places if not any(_within(place, each) for each in known)]
    record_property("conformance", "differs" if places else "same")
    assert unknown == [], {place: _at(found, place) for place in unknown}
    gone = [each for each in known if not any(_within(place, each) for place in places)]
    assert gone == [], "these differ no longer"


@pytest.mark.parametrize(
    ("real", "embedded", "places"),
    [
        ({"a": None, "b": 1}, {"b": 1}, ["a"]),
        ({"b": 1}, {"a": None, "b": 1}, ["a"]),
        ({"a": None}, {"a": None}, []),
        ({"a": [{"b": 1, "c": 2}]}, {"a": [{"b": 1, "c": 3}]}, ["a/0/c"]),
        ([1, 2], [1], [""]),
    ],
)
def test_deviations(real: object, embedded: object, places: list[str]) -> None:
    assert list(deviations(real, embedded)) == places


def test_every_check_has_a_recorded_finding() -> None:
    assert recorded().keys() == CHECKS.keys()


def test_the_documentation_names_every_deviation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text(encoding="utf-8")
    reasons = {why for known in DIFFERENCES.values() for why in known.values()}
    assert [why for why in reasons if why not in text] == []
    assert [row for row in conformance.summary() if row not in text] == []


def _within(place: str, other: str) -> bool:
    return not other or place == other or place.startswith(f"{other}/")


def _at(found: object, place: str) -> object:
    for key in filter(None, place.split("/")):
        if isinstance(found, list):
            found = found[int(key)]
        else:
            found = found.get(key) if isinstance(found, dict) else None
    return found
