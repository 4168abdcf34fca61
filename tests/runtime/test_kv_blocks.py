"""The block pool against a naive model, under any sequence of operations that a lane may do."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from runtime.engine.kv_blocks import ROOT, BlockPool

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=14)  # few kinds, so that prefixes coincide


class Held:
    """A sequence that holds blocks; `registered` of them have been made findable."""

    def __init__(self, tokens: list[int], blocks: list[int], names: list[int]) -> None:
        self.tokens, self.blocks, self.names = tokens, blocks, names


class PoolMachine(RuleBasedStateMachine):
    held = Bundle("held")

    @initialize(blocks=st.integers(2, 12), size=st.integers(1, 4), caching=st.booleans())
    def make(self, blocks: int, size: int, caching: bool) -> None:
        self.pool = BlockPool(blocks, size, caching)
        self.size, self.caching = size, caching
        self.living: list[Held] = []
        self.contents: dict[int, tuple[int, ...]] = {}  # what a block was filled with last: the whole prefix up to its end
        self.names: dict[int, tuple[int, ...]] = {ROOT: ()}

    @rule(target=held, tokens=TOKENS)
    def admit(self, tokens: list[int]) -> object:
        found, names = self.pool.find(tokens)
        assert len(found) == len(names)
        assert len(found) * self.size < len(tokens), "one token at least is left to compute"
        for i, (block, name) in enumerate(zip(found, names, strict=True)):
            prefix = tuple(tokens[: (i + 1) * self.size])
            assert self.contents[block] == prefix, "a block of another prefix"
            assert self.names[name] == prefix, "a name of another prefix"
        missing = self.pool.needed(len(tokens)) - len(found)
        assert (missing - 1) * self.size < len(tokens) - len(found) * self.size <= missing * self.size
        others = {block for each in self.living for block in each.blocks}
        assert self.pool.free_without(found) == self.pool.total - len(others | set(found))
        if missing > self.pool.free_without(found):
            return multiple()
        self.pool.hold(found)
        fresh = self.pool.allocate(missing)
        assert not set(fresh) & (others | set(found)), "handed out twice"
        assert len(set(fresh)) == missing
        assert all(1 <= block <= self.pool.total for block in fresh), "block 0 belongs to nobody"
        for block in fresh:
            self.contents.pop(block, None)
        sequence = Held(list(tokens), found + fresh, names)
        self.living.append(sequence)
        return sequence

    @rule(sequence=held, count=st.integers(1, 4))
    def register(self, sequence: Held, count: int) -> None:
        full = len(sequence.tokens) // self.size
        for i in range(len(sequence.names), min(full, len(sequence.names) + count)):
            parent = sequence.names[-1] if sequence.names else ROOT
            own = sequence.tokens[i * self.size : (i + 1) * self.size]
            name = self.pool.register(sequence.blocks[i], parent, own)
            prefix = tuple(sequence.tokens[: (i + 1) * self.size])
            self.contents[sequence.blocks[i]] = prefix
            assert self.names.setdefault(name, prefix) == prefix, "one name for two prefixes"
            sequence.names.append(name)

    @rule(sequence=held, token=st.integers(0, 2))
    def grow(self, sequence: Held, token: int) -> None:
        if self.pool.needed(len(sequence.tokens) + 1) > len(sequence.blocks):
            if not self.pool.free:
                return
            (block,) = self.pool.allocate(1)
            assert all(block not in each.blocks for each in self.living)
            self.contents.pop(block, None)
            sequence.blocks.append(block)
        sequence.tokens.append(token)

    @rule(sequence=consumes(held))
    def release(self, sequence: Held) -> None:
        self.pool.release(sequence.blocks)
        self.living.remove(sequence)

    @invariant()
    def counts_are_right(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool, holders = self.pool, [0] * (self.pool.total + 1)
        for sequence in self.living:
            for block in sequence.blocks:
                holders[block] += 1
        assert pool._holders == holders
        assert pool.used == sum(1 for count in holders if count)
        assert pool.used + pool.free == pool.total
        assert pool.cached == sum(1 for block in pool._content if not holders[block])
        assert 0 <= pool.cached <= pool.free
        assert set(pool._free) == {block for block in range(1, pool.total + 1) if not holders[block]}
        assert {block: content for content, (block, _) in pool._found.items()} == pool._content
        if not self.caching:
            assert pool.cached == 0

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        for sequence in self.living:
            self.pool.release(sequence.blocks)
        assert self.pool.used == 0


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def fill(pool: BlockPool, tokens: list[int]) -> list[int]:
    """Hold, compute and register a sequence as a lane would; its blocks."""
    found, names = pool.find(tokens)
    pool.hold(found)
    blocks = found + pool.allocate(pool.needed(len(tokens)) - len(found))
    for i in range(len(names), len(tokens) // pool.block_size):
        part = tokens[i * pool.block_size : (i + 1) * pool.block_size]
        names.append(pool.register(blocks[i], names[-1] if names else ROOT, part))
    return blocks


def test_a_freed_prefix_is_found_again_until_its_blocks_are_needed() -> None:
    pool = BlockPool(9, 2, True)
    blocks = fill(pool, [1, 2, 3, 4, 5])
    pool.release(blocks)
    assert (pool.used, pool.cached) == (0, 2)
    assert pool.find([1, 2, 3, 4, 9])[0] == blocks[:2]
    assert pool.find([1, 2, 3, 4])[0] == blocks[:1]  # the last token is always computed
    assert pool.find([9, 2, 3, 4, 5])[0] == []
    # blocks without a prefix go first, then the end of a prefix, its beginning last
    assert pool.allocate(1) == [blocks[2]]
    pool.allocate(5)
    assert pool.find([1, 2, 3, 4, 9])[0] == blocks[:2]
    assert pool.allocate(1) == [blocks[1]]
    assert pool.find([1, 2, 3, 4, 9])[0] == blocks[:1]


@pytest.mark.parametrize("holders", [1, 2, 3])
def test_a_shared_block_is_free_when_its_last_holder_leaves(holders: int) -> None:
    pool = BlockPool(16, 4, True)
    held = [fill(pool, [7] * 4 + [i]) for i in range(holders)]
    assert len({blocks[0] for blocks in held}) == 1
    assert pool.used == 1 + holders
    for left, blocks in enumerate(reversed(held), 1):
        assert pool.cached == 0
        pool.release(blocks)
        assert pool.used == (1 + holders - left if left < holders else 0)
    assert pool.cached == 1


def test_the_same_tokens_after_another_prefix_are_another_block() -> None:
    pool = BlockPool(16, 2, True)
    first, second = fill(pool, [1, 1, 5, 5, 0]), fill(pool, [2, 2, 5, 5, 0])
    assert pool.find([1, 1, 5, 5, 9])[0] == first[:2]
    assert pool.find([2, 2, 5, 5, 9])[0] == second[:2]
    assert not set(first) & set(second)


def test_without_caching_nothing_is_found() -> None:
    pool = BlockPool(8, 2, False)
    pool.release(fill(pool, [1, 2, 3, 4, 5]))
    assert pool.find([1, 2, 3, 4, 5]) == ([], [])
    assert pool.cached == 0
