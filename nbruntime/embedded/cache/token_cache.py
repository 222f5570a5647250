"""The KV cache as the scheduler sees it: spans of slots for requests, and a memory of past prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nbruntime.embedded.cache.radix import Node, RadixTree
from nbruntime.embedded.cache.slots import SlotPool


@dataclass(slots=True)
class Span:
    """The slots of one request.

    Parameters
    ----------
    slots : list of int
        Where the keys and values of its tokens lie, in order.
    shared : int
        How many of the first slots belong to the radix tree.
    node : Node or None
        The locked node of the tree where the shared slots end.
    """

    slots: list[int] = field(default_factory=list)
    shared: int = 0
    node: Node | None = None


class TokenCache:
    """Slots for running requests, and the radix tree of what earlier ones left.

    Parameters
    ----------
    capacity : int
        Tokens that fit.
    reuse : bool
        Whether later requests may use what earlier ones computed.

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
        """Tokens that fit."""
        return self.pool.capacity

    @property
    def available(self) -> int:
        """Tokens for which a slot is free or can be made free."""
        return self.pool.free + self.tree.evictable

    @property
    def used(self) -> int:
        """Tokens held by requests."""
        return self.capacity - self.available

    def known(self, tokens: Sequence[int]) -> int:
        """Count how many tokens at the beginning of `tokens` are cached."""
        return len(self.tree.match(tokens)[0]) if self.reuse else 0

    def open(self, tokens: Sequence[int], *, limit: int | None = None) -> Span:
        """Begin a request with as much as is cached of its tokens.

        Parameters
        ----------
        tokens : sequence of int
            The tokens of the request.
        limit : int, optional
            Reuse at most so many, since the logits of later tokens are wanted.

        Returns
        -------
        Span
            To be given back with `close`.
        """
        if not self.reuse:
            return Span()
        slots, node = self.tree.match(tokens if limit is None else tokens[:limit])
        self.tree.lock(node)
        return Span(slots, len(slots), node)

    def grow(self, span: Span, count: int) -> bool:
        """Give a request `count` more slots, evicting what nobody uses.

        Returns
        -------
        bool
            False if there are not so many; nothing has changed then.
        """
        if count > self.available:
            return False
        if count > self.pool.free:
            self.pool.give_back(self.tree.evict(count - self.pool.free))
        span.slots.extend(self.pool.take(count))
        return True

    def share(self, span: Span, tokens: Sequence[int]) -> None:
        """Make the computed tokens of a running request known to others.

        Parameters
        ----------
        span : Span
            Of the request; its slots may be exchanged for equal ones that the tree had before.
        tokens : sequence of int
            The tokens whose keys and values are computed: one per slot at most.
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
        """End a request: its slots stay as a memory of `tokens`, or are freed.

        Parameters
        ----------
        span : Span
            Of the request; empty afterwards.
        tokens : sequence of int
            The tokens whose keys and values are computed.
        """
        if self.reuse and tokens:
            self.share(span, tokens)
        self.pool.give_back(span.slots[span.shared :])
        if span.node is not None:
            self.tree.unlock(span.node)
        span.slots, span.shared, span.node = [], 0, None

    def flush(self) -> None:
        """Forget all that no request uses."""
        self.pool.give_back(self.tree.evict(self.tree.evictable))
