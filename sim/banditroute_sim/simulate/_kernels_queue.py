"""Compiled kernels of votes on their way: a heap of rounds at which they arrive, and what they will say."""

from __future__ import annotations

from typing import Any

from banditroute_features.compile import njit_cached

kernel = njit_cached(_nrt=False)
# Places of a cursor: the next row, votes on their way, free places for more, votes learned, the alarmed model.
ROW, WAITING, FREE, LEARNED, ALARMED, CURSOR = 0, 1, 2, 3, 4, 5
DONE, FULL, DERIVE = (
    0,
    1,
    2,
)  # why a loop comes back: all rows are decided, no place for a vote, a derive may be due
NEVER = -1
AT_ONCE, ON_ITS_WAY, LOST = 0, 1, 2
BITS = 32  # of the round that a vote is on, below those of the round in which it arrives


@kernel
def arriving(heap: Any, cursor: Any, t: int) -> bool:
    """Return whether a vote arrives before round ``t`` is decided."""
    return cursor[WAITING] > 0 and heap[0, 0] >> BITS <= t


@kernel
def push(heap: Any, cursor: Any, key: int, slot: int) -> None:
    """Put a vote into the heap; the earliest arrival is first, and of equal ones the earliest round."""
    at = cursor[WAITING]
    cursor[WAITING] += 1
    while at > 0:
        up = (at - 1) // 2
        if heap[up, 0] <= key:
            break
        heap[at, 0], heap[at, 1] = heap[up, 0], heap[up, 1]
        at = up
    heap[at, 0], heap[at, 1] = key, slot


@kernel
def pop(heap: Any, cursor: Any) -> int:
    """Take the first vote out of the heap and return its slot."""
    slot = heap[0, 1]
    cursor[WAITING] -= 1
    size = cursor[WAITING]
    key, moved = heap[size, 0], heap[size, 1]
    at = 0
    while 2 * at + 1 < size:
        down = 2 * at + 1
        if down + 1 < size and heap[down + 1, 0] < heap[down, 0]:
            down += 1
        if key <= heap[down, 0]:
            break
        heap[at, 0], heap[at, 1] = heap[down, 0], heap[down, 1]
        at = down
    heap[at, 0], heap[at, 1] = key, moved
    return slot


@kernel
def fate(heap: Any, cursor: Any, t: int, wait: int, horizon: int) -> int:
    """Return what becomes of a vote on round ``t`` that waits so long: heard at once, on its way, or never heard."""
    arrives = t + 1 + wait
    if wait == NEVER or arrives >= horizon:
        return LOST
    if wait == 0 and not arriving(heap, cursor, t + 1):
        return AT_ONCE
    return ON_ITS_WAY


@kernel
def take_place(heap: Any, free: Any, cursor: Any, t: int, wait: int) -> int:
    """Give a vote on round ``t`` a slot and put it into the heap; there must be a free one."""
    cursor[FREE] -= 1
    slot = free[cursor[FREE]]
    push(heap, cursor, ((t + 1 + wait) << BITS) | t, slot)
    return slot


@kernel
def arrive(heap: Any, free: Any, cursor: Any) -> int:
    """Take the next vote out of the heap, give its place back and return its slot, which stays as it is for now."""
    slot = pop(heap, cursor)
    free[cursor[FREE]] = slot
    cursor[FREE] += 1
    return slot
