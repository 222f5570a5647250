"""The radix tree and the token cache: prefixes are found, slots are never lost or given twice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from nbruntime.embedded.cache.radix import Node, RadixTree
from nbruntime.embedded.cache.slots import SlotPool
from nbruntime.embedded.cache.token_cache import Span, TokenCache

token_lists = st.lists(st.integers(0, 3), min_size=1, max_size=12)


def tree_slots(tree: RadixTree) -> list[int]:
    found: list[int] = []
    stack: list[Node] = [tree.root]
    while stack:
        node = stack.pop()
        assert len(node.tokens) == len(node.slots)
        for first, child in node.children.items():
            assert child.parent is node
            assert child.tokens[0] == first
            stack.append(child)
        found.extend(node.slots)
    return found


@given(st.lists(token_lists, max_size=20), token_lists)
def test_match_finds_the_longest_inserted_prefix(inserted: list[list[int]], query: list[int]) -> None:
    tree = RadixTree()
    slot_of: dict[tuple[int, ...], int] = {}
    for tokens in inserted:
        prefixes = [tuple(tokens[:end]) for end in range(1, len(tokens) + 1)]
        slots = [slot_of.setdefault(prefix, len(slot_of)) for prefix in prefixes]
        tree.insert(tokens, slots)
    expected = []
    for end in range(1, len(query) + 1):
        if tuple(query[:end]) not in slot_of:
            break
        expected.append(slot_of[tuple(query[:end])])
    slots, _ = tree.match(query)
    assert slots == expected
    assert sorted(tree_slots(tree)) == sorted(slot_of.values())
    assert tree.size == len(slot_of)


def test_eviction_takes_the_least_recently_used_first() -> None:
    tree = RadixTree()
    tree.insert([1, 2, 3], [0, 1, 2])
    tree.insert([1, 2, 4], [0, 1, 3])
    tree.insert([5, 6], [4, 5])
    tree.match([1, 2, 3])
    assert tree.evict(1) == [3]
    assert tree.evict(2) == [4, 5]
    assert tree.evict(99) == [2, 0, 1]
    assert tree.size == 0


def test_a_long_run_is_shortened_from_its_end() -> None:
    tree = RadixTree()
    tree.insert([1, 2, 3, 4], [0, 1, 2, 3])
    assert tree.evict(1) == [3]
    assert tree.match([1, 2, 3, 4])[0] == [0, 1, 2]


def test_locked_nodes_are_not_evicted() -> None:
    tree = RadixTree()
    tree.insert([1, 2, 3], [0, 1, 2])
    _, node = tree.match([1, 2])
    tree.lock(node)
    assert tree.evictable == 1
    assert tree.evict(3) == [2]
    tree.unlock(node)
    assert sorted(tree.evict(3)) == [0, 1]


def test_a_pool_refuses_to_hand_out_more_slots_than_are_free() -> None:
    pool = SlotPool(2)
    with pytest.raises(AssertionError, match="3 slots wanted, 2 free"):
        pool.take(3)


class CacheMachine(RuleBasedStateMachine):
    """Requests that open, grow, share and close in any order over a small cache.

    Each slot remembers the tokens whose keys and values it holds; a request that reads one must find its own.
    """

    spans = Bundle("spans")

    def __init__(self) -> None:
        super().__init__()
        self.cache = TokenCache(24)
        self.held: dict[int, tuple[int, ...]] = {}
        self.open_spans: list[tuple[Span, list[int]]] = []

    def is_open(self, entry: tuple[Span, list[int]]) -> bool:
        return any(each is entry for each in self.open_spans)  # two spans of the same slots are equal

    def write(self, span: Span, tokens: list[int], start: int) -> None:
        for position in range(start, len(span.slots)):
            self.held[span.slots[position]] = tuple(tokens[: position + 1])

    @rule(target=spans, tokens=token_lists)
    def open(self, tokens: list[int]) -> object:
        span = self.cache.open(tokens, limit=len(tokens) - 1)
        shared = span.shared
        available = self.cache.available
        if not self.cache.grow(span, len(tokens) - shared):
            assert available < len(tokens) - shared
            self.cache.close(span, tokens[:shared])
            return None
        self.write(span, tokens, shared)
        entry = (span, list(tokens))
        self.open_spans.append(entry)
        return entry

    @rule(entry=spans, token=st.integers(0, 3))
    def grow(self, entry: tuple[Span, list[int]] | None, token: int) -> None:
        if entry is not None and self.is_open(entry):
            span, tokens = entry
            before = list(span.slots)
            if self.cache.grow(span, 1):
                tokens.append(token)
                self.write(span, tokens, len(before))
            else:
                assert span.slots == before

    @rule(entry=spans)
    def share(self, entry: tuple[Span, list[int]] | None) -> None:
        if entry is not None and self.is_open(entry):
            self.cache.share(entry[0], entry[1])
            assert entry[0].shared == len(entry[1])

    @rule(entry=consumes(spans), kept=st.integers(0, 12))
    def close(self, entry: tuple[Span, list[int]] | None, kept: int) -> None:
        if entry is not None and self.is_open(entry):
            self.open_spans = [each for each in self.open_spans if each is not entry]
            span, tokens = entry
            self.cache.close(span, tokens[: max(kept, span.shared)])
            assert span.slots == []

    @rule()
    def flush(self) -> None:
        self.cache.flush()
        assert self.cache.tree.evictable == 0

    @invariant()
    def slots_are_conserved(self) -> None:
        owned = tree_slots(self.cache.tree)
        for span, _ in self.open_spans:
            owned.extend(span.slots[span.shared :])
        assert len(owned) == len(set(owned)), "a slot has two owners"
        assert len(owned) + self.cache.pool.free == self.cache.capacity, "a slot is lost"

    @invariant()
    def every_request_finds_its_own_tokens(self) -> None:
        for span, tokens in self.open_spans:
            assert len(span.slots) == len(tokens)
            for position, slot in enumerate(span.slots):
                assert self.held[slot] == tuple(tokens[: position + 1])


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
