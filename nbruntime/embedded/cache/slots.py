"""Slots of the KV cache, one per token. Slot 0 pads shorter contexts; it stays zero and is not handed out."""

from __future__ import annotations


class SlotPool:
    """Hands out slots 1 to `capacity` of the KV cache.

    Examples
    --------
    >>> pool = SlotPool(3)
    >>> pool.take(2)
    [1, 2]
    >>> pool.give_back([1]); pool.free
    2
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = list(range(capacity, 0, -1))

    @property
    def free(self) -> int:
        """Number of free slots."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Take `count` slots; raises AssertionError if fewer are free."""
        if count > len(self._free):
            raise AssertionError(f"{count} slots wanted, {len(self._free)} free")
        if count == 0:
            return []
        taken = self._free[-count:][::-1]
        del self._free[-count:]
        return taken

    def give_back(self, slots: list[int]) -> None:
        """Return slots to the pool."""
        self._free.extend(reversed(slots))
