"""Compiled kernels of settling: many first votes at once, from their ids to their places on open decisions.

Every kernel does what `Learner.apply` does for one vote after the other, and leaves what is out of the ordinary to it.
Words of a vote's row (see `slots`): 0 kind, on, seen and model; 1, 2 who; 3, 4 the first feedback id; 5 to 9 its
numbers; 10, 11 the log factors at apply.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from banditroute.bandit.arithmetic._kernels_memory import carray, pointer
from banditroute.flow.pending._kernels_index import find
from banditroute.flow.pending.blocks import COLUMNS
from banditroute_features.compile import njit_cached

kernel = njit_cached()
WORDS = 12
USAGE = 4  # number of the kind that is no quality vote
_32, _16, _8 = np.uint64(32), np.uint64(16), np.uint64(8)


@kernel
def _found(table: Any, high: Any, low: Any, floor: int, first_block: int, bits: int, blocks: Any) -> int:
    """Return the lowest sequence number with a hash, or -1."""
    beyond = 0
    while True:
        distance = find(table, low, floor, beyond)
        if distance < 0:
            return -1
        number = floor + distance
        rows = carray(pointer(blocks[(number >> bits) - first_block, 0]), 1 << bits, COLUMNS)
        identity = rows[number & ((1 << bits) - 1)].id
        if identity[0] == high and identity[1] == low:
            return number
        beyond = distance + 1


@kernel
def look_up(
    table: Any, floor: int, opened: int, first_block: int, bits: int, blocks: Any, kinds: Any, ids: Any, start: int,
    stop: int, tenants: Any, claims: Any, usual: Any, found: Any, votes: Any, x: Any,
) -> None:  # fmt: skip
    """Find the open decisions of votes start..stop, and read what settling needs of them.

    ``blocks`` holds the addresses of each block's rows, contexts and places, and its first place; a block has
    ``1 << bits`` rows. ``kinds`` holds per kind of decision the number of its model's key (-1: not for us), that of
    its name and whether tokens were counted. Claims of a vote are the place and the number of the model that it
    names, -1 for none. ``found`` receives number, key and segment; a vote whose decision is not there, or not as
    claimed, is no longer usual.
    """
    for i in range(start, stop):
        if not usual[i]:
            continue
        usual[i] = False
        number = _found(table, ids[i, 0], ids[i, 1], floor, first_block, bits, blocks)
        if number < 0 or number >= opened:
            continue
        block, at = (number >> bits) - first_block, number & ((1 << bits) - 1)
        row = carray(pointer(blocks[block, 0]), 1 << bits, COLUMNS)[at]
        key, name = kinds[row.kind, 0], kinds[row.kind, 1]
        if key < 0 or claims[i, 1] not in (-1, name) or (tenants[i] != 0 and tenants[i] != row.tenant):
            continue
        place = blocks[block, 3] + np.int64(carray(pointer(blocks[block, 2]), 1 << bits, np.uint32)[at])
        if claims[i, 0] not in (-1, place):
            continue
        usual[i] = True
        found[i, 0], found[i, 1], found[i, 2] = number, key, row.segment
        predictions = row.predictions
        votes[i, 1], votes[i, 2], votes[i, 4], votes[i, 6] = (
            predictions[0], predictions[1], predictions[2], predictions[3],
        )  # fmt: skip
        votes[i, 9] = np.nan if kinds[row.kind, 2] else np.float64(row.tokens)
        d = x.shape[1]
        x[i] = carray(pointer(blocks[block, 1]), (1 << bits, d), np.float32)[at]


@kernel
def settle(
    start: int, stop: int, usual: Any, found: Any, kinds: Any, who: Any, seen: Any, identities: Any, votes: Any,
    offsets: Any, g: Any, g_shared: float, first_block: int, bits: int, blocks: Any, words: Any, numbers: Any,
    following: Any, touched: Any, voters: Any, owners: Any, free: int, most: int, made: Any,
) -> tuple[int, int]:  # fmt: skip
    """Make a row for each usual vote from ``start`` on; return the first vote without one, and the next free row.

    It ends at a vote that is not usual, has a row by the same kind, source and voter already, or finds ``most`` rows.
    """
    for i in range(start, stop):
        if not usual[i] or free < 0:
            return i, free
        number, kind = found[i, 0], kinds[i]
        rows = carray(pointer(blocks[(number >> bits) - first_block, 0]), 1 << bits, COLUMNS)
        decision = rows[number & ((1 << bits) - 1)]
        count, row = 0, decision.slot
        while row >= 0:
            same = words[row, 0] & np.uint64(255) == kind
            if same and words[row, 1] == who[i, 0] and words[row, 2] == who[i, 1]:
                return i, free
            count, row = count + 1, following[row]
        if count >= most:
            return i, free
        new, free = free, following[free]
        following[new], touched[new], made[i] = decision.slot, offsets[i], new
        words[new, 0] = (
            np.uint64(kind) | (np.uint64(1) << _8) | (np.uint64(seen[i]) << _16) | (np.uint64(found[i, 1]) << _32)
        )  # fmt: skip
        words[new, 1], words[new, 2] = who[i, 0], who[i, 1]
        voters[new], owners[new] = who[i, 1], number
        words[new, 3], words[new, 4] = identities[i, 0], identities[i, 1]
        numbers[new, 5], numbers[new, 6], numbers[new, 7] = votes[i, 0], votes[i, 3], votes[i, 5]
        numbers[new, 8], numbers[new, 9] = votes[i, 7], votes[i, 8]
        numbers[new, 10], numbers[new, 11] = g[found[i, 1]], g_shared
        decision.slot = new
        if kind != USAGE:
            decision.on += 1
    return stop, free


@kernel
def take_back(
    start: int, stop: int, found: Any, kinds: Any, first_block: int, bits: int, blocks: Any, following: Any,
    touched: Any, voters: Any, free: int, made: Any, never: int,
) -> int:  # fmt: skip
    """Undo `settle` of votes start..stop, the last ones that it made rows for; return the next free row."""
    for i in range(stop - 1, start - 1, -1):
        number, row = found[i, 0], made[i]
        rows = carray(pointer(blocks[(number >> bits) - first_block, 0]), 1 << bits, COLUMNS)
        decision = rows[number & ((1 << bits) - 1)]
        decision.slot = following[row]
        if kinds[i] != USAGE:
            decision.on -= 1
        following[row], touched[row], voters[row], free = free, never, 0, row
    return free
