"""A radix tree of token sequences and the KV-cache slots that hold them.

Requests share the slots of their common prefix, as in SGLang's RadixAttention
(https://arxiv.org/abs/2312.07104). Nodes that a request uses are locked; of the others, the least recently
used leaf is evicted first.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Node:
    """A run of tokens below its parent's run, and their slots."""

    tokens: list[int]
    slots: list[int]
    parent: Node | None  # None for the root only
    children: dict[int, Node] = field(default_factory=dict)  # by first token
    locks: int = 0  # requests that use this node or one below it
    used: int = 0  # time of the last use, by the tree's clock


class RadixTree:
    """Token sequences with their slots, shared by prefix.

    Examples
    --------
    >>> tree = RadixTree()
    >>> tree.insert([5, 6, 7], [0, 1, 2])
    0
    >>> slots, node = tree.match([5, 6, 9])
    >>> slots
    [0, 1]
    >>> tree.evict(1)
    [2]
    """

    def __init__(self) -> None:
        self.root = Node([], [], None, locks=1)
        self.size = 0  # tokens
        self.locked = 0
        self._clock = 0

    def match(self, tokens: Sequence[int]) -> tuple[list[int], Node]:
        """Find the slots of the longest known prefix and the node where it ends; may split a node."""
        self._clock += 1
        node, slots, at = self.root, [], 0
        while at < len(tokens):
            child = node.children.get(tokens[at])
            if child is None:
                break
            common = _common_length(child.tokens, tokens, at)
            if common < len(child.tokens):
                child = self._split(child, common)
            child.used = self._clock
            slots.extend(child.slots)
            at += common
            node = child
        return slots, node

    def insert(self, tokens: Sequence[int], slots: Sequence[int]) -> int:
        """Add a sequence; a prefix that the tree has keeps its slots. Returns the length of that prefix."""
        known, node = self.match(tokens)
        at = len(known)
        if at < len(tokens):
            leaf = Node(list(tokens[at:]), list(slots[at:]), node, used=self._clock)
            node.children[tokens[at]] = leaf
            self.size += len(leaf.tokens)
        return at

    def lock(self, node: Node) -> None:
        """Keep a node and its ancestors from eviction."""
        for each in _to_root(node):
            if each.locks == 0:
                self.locked += len(each.tokens)
            each.locks += 1

    def unlock(self, node: Node) -> None:
        """Undo one `lock` of the same node."""
        for each in _to_root(node):
            each.locks -= 1
            if each.locks == 0:
                self.locked -= len(each.tokens)

    @property
    def evictable(self) -> int:
        """Number of unlocked tokens."""
        return self.size - self.locked

    def evict(self, count: int) -> list[int]:
        """Remove up to `count` unlocked tokens, least recently used first, and return their slots."""
        freed: list[int] = []
        leaves = [(node.used, id(node), node) for node in self._leaves()]
        heapq.heapify(leaves)
        while leaves and len(freed) < count:
            _, _, leaf = heapq.heappop(leaves)
            parent = leaf.parent
            assert parent is not None
            # A long run is shortened from its end instead of forgotten whole.
            kept = max(0, len(leaf.tokens) - (count - len(freed)))
            freed.extend(leaf.slots[kept:])
            self.size -= len(leaf.tokens) - kept
            if kept:
                del leaf.tokens[kept:], leaf.slots[kept:]
                break
            del parent.children[leaf.tokens[0]]
            if parent is not self.root and not parent.children and parent.locks == 0:
                heapq.heappush(leaves, (parent.used, id(parent), parent))
        return freed

    def _leaves(self) -> list[Node]:
        found, stack = [], list(self.root.children.values())
        while stack:
            node = stack.pop()
            if node.children:
                stack.extend(node.children.values())
            elif node.locks == 0:
                found.append(node)
        return found

    def _split(self, node: Node, at: int) -> Node:
        """Cut a node in two and return the upper one; both keep locks and age."""
        assert node.parent is not None
        upper = Node(node.tokens[:at], node.slots[:at], node.parent, locks=node.locks, used=node.used)
        upper.parent.children[upper.tokens[0]] = upper  # type: ignore[union-attr]
        node.tokens, node.slots, node.parent = node.tokens[at:], node.slots[at:], upper
        upper.children[node.tokens[0]] = node
        return upper


def _to_root(node: Node) -> list[Node]:
    """List a node and its ancestors, without the root."""
    path = []
    while node.parent is not None:
        path.append(node)
        node = node.parent
    return path


def _common_length(run: list[int], tokens: Sequence[int], at: int) -> int:
    """Count how many tokens of `run` match `tokens` from `at` on."""
    longest = min(len(run), len(tokens) - at)
    if run[:longest] == list(tokens[at : at + longest]):
        return longest
    return next(i for i in range(longest) if run[i] != tokens[at + i])
