"""The KV cache for the scheduler: slots for running requests, and the prefixes of earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nbruntime.embedded.cache.radix import Node, RadixTree
from nbruntime.embedded.cache.slots import SlotPool


@dataclass(slots=True)
class Span:
    """The slots of one request."""

    slots: list[int] = field(default_factory=list)  # one per token, in order
    shared: int = 0  # the first so many belong to the radix tree
    node: Node | None = None  # the locked node where the shared slots end


class TokenCache:
    """Slots for up to `capacity` tokens, and, with `reuse`, a radix tree of what earlier requests computed.

    Examples
    --------
    >>> cache = TokenCache(8)
    >>> span = cache.open([1, 2, 3])
    >>> cache.grow(span, 3)
    True
    >>> cache.close(span, [1, 2, 3])
    >>> cache.open([1, 2, 3, 4], limit=3).shared
    3
    """

    def __init__(self, capacity: int, *, reuse: bool = True) -> None:
        self.pool = SlotPool(capacity)
        self.tree = RadixTree()
        self.reuse = reuse

    @property
    def capacity(self) -> int:
        """Number of tokens that fit."""
        return self.pool.capacity

    @property
    def available(self) -> int:
        """Number of tokens whose slots are free or can be evicted."""
        return self.pool.free + self.tree.evictable

    @property
    def used(self) -> int:
        """Number of tokens held by requests."""
        return self.capacity - self.available

    def known(self, tokens: Sequence[int]) -> int:
        """Count the cached tokens at the beginning of `tokens`."""
        return len(self.tree.match(tokens)[0]) if self.reuse else 0

    def open(self, tokens: Sequence[int], *, limit: int | None = None) -> Span:
        """Start a request with the cached prefix of `tokens`, at most `limit` long; end it with `close`."""
        if not self.reuse:
            return Span()
        slots, node = self.tree.match(tokens if limit is None else tokens[:limit])
        self.tree.lock(node)
        return Span(slots, len(slots), node)

    def grow(self, span: Span, count: int) -> bool:
        """Give a request `count` more slots, evicting unused ones; False if there are too few."""
        if count > self.available:
            return False
        if count > self.pool.free:
            self.pool.give_back(self.tree.evict(count - self.pool.free))
        span.slots.extend(self.pool.take(count))
        return True

    def share(self, span: Span, tokens: Sequence[int]) -> None:
        """Let other requests use the computed `tokens` of a running one.

        Slots of the span are exchanged where the tree already held the same tokens.
        """
        if not self.reuse:
            return
        own = span.slots[: len(tokens)]
        known = self.tree.insert(tokens, own)
        self.pool.give_back(own[span.shared : max(known, span.shared)])
        slots, node = self.tree.match(tokens)
        self.tree.lock(node)
        if span.node is not None:
            self.tree.unlock(span.node)
        span.slots[: len(tokens)] = slots
        span.shared, span.node = len(slots), node

    def close(self, span: Span, tokens: Sequence[int]) -> None:
        """Release the slots of a request and empty its span; the computed `tokens` stay cached."""
        if self.reuse and tokens:
            self.share(span, tokens)
        self.pool.give_back(span.slots[span.shared :])
        if span.node is not None:
            self.tree.unlock(span.node)
        span.slots, span.shared, span.node = [], 0, None

    def flush(self) -> None:
        """Remove all cached tokens that no request uses."""
        self.pool.give_back(self.tree.evict(self.tree.evictable))
