"""The KV blocks of one ep member: who holds which, and which free ones still hold a prefix worth finding again.

A block's content is named by its parent's name and its own tokens, compared in full: two prefixes are never taken for each other.
Block 0 belongs to nobody: padding points to it.
"""

from __future__ import annotations

from collections import OrderedDict

Content = tuple[int, tuple[int, ...]]
ROOT = 0  # the name of the empty prefix


class BlockPool:
    """`blocks` blocks of `block_size` tokens. A held block has holders; a free one is handed out again, oldest first."""

    def __init__(self, blocks: int, block_size: int, prefix_caching: bool) -> None:
        self.block_size = block_size
        self.total = blocks - 1
        self._caching = prefix_caching
        self._holders = [0] * blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, blocks))
        self._content: dict[int, Content] = {}  # of registered blocks, held or free
        self._found: dict[Content, tuple[int, int]] = {}  # content -> (block, name)
        self._names = ROOT
        self.cached = 0  # free blocks that still hold a findable prefix

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        return self.total - len(self._free)

    def needed(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def find(self, tokens: list[int]) -> tuple[list[int], list[int]]:
        """The longest registered prefix in whole blocks, at least one token short of all: (blocks, names). Holds nothing."""
        blocks: list[int] = []
        names: list[int] = []
        if not self._caching:
            return blocks, names
        size, parent = self.block_size, ROOT
        for start in range(0, len(tokens) - size, size):
            found = self._found.get((parent, tuple(tokens[start : start + size])))
            if found is None:
                break
            block, parent = found
            blocks.append(block)
            names.append(parent)
        return blocks, names

    def free_without(self, blocks: list[int]) -> int:
        """Free blocks once `blocks`, just found, are held."""
        return len(self._free) - sum(1 for block in blocks if not self._holders[block])

    def hold(self, blocks: list[int]) -> None:
        for block in blocks:
            if not self._holders[block]:
                del self._free[block]
                self.cached -= 1
            self._holders[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Fresh blocks, forgetting the prefixes they held. The caller has looked at `free`."""
        taken: list[int] = []
        for _ in range(count):
            block, _none = self._free.popitem(last=False)
            content = self._content.pop(block, None)
            if content is not None:
                del self._found[content]
                self.cached -= 1
            self._holders[block] = 1
            taken.append(block)
        return taken

    def release(self, blocks: list[int]) -> None:
        """Let go; the end of a prefix is reused before its beginning."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if not self._holders[block]:
                self._free[block] = None
                if block in self._content:
                    self.cached += 1
                else:
                    self._free.move_to_end(block, last=False)

    def register(self, block: int, parent: int, tokens: list[int]) -> int:
        """Make a full block findable. Returns the name of its content, by which the next block names its parent."""
        content = (parent, tuple(tokens))
        found = self._found.get(content)
        if found is not None:
            return found[1]
        self._names += 1
        if self._caching:
            self._content[block] = content
            self._found[content] = (block, self._names)
        return self._names
