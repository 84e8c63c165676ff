"""The identities of the ledger: every journal record has one outcome, every first decision one fate.

Both hold after every record that was applied; a difference means that something was lost or counted twice.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from banditroute.flow.partition import Partition
from banditroute.flow.records.snapshot import Start

FEEDBACK_CLASSES: Final = (
    "applied", "revised", "duplicate", "late", "orphan", "elsewhere", "foreign", "rejected", "withdrawn",
    "copied_twice",
)  # fmt: skip
OWN_CLASSES: Final = ("decided", "expired_records", "control", "control_repeated", "unreadable")


class Imbalance(NamedTuple):
    """What is missing (positive) or too many (negative) on the side of the outcomes; 0 both.

    ``journal`` is None where the offset at which the journal began is not known.
    """

    journal: int | None
    decisions: int


def imbalance(partition: Partition) -> Imbalance:
    """Add up the ledger of a partition that is not being restored."""
    learner, start = partition.learner, partition.genesis.start
    ledger = learner.ledger
    counted = sum(ledger[name] for name in (*FEEDBACK_CLASSES, *OWN_CLASSES)) + len(learner.parked)
    journal = learner.j - start.journal - counted if isinstance(start, Start) else None
    decisions = ledger["first"] - ledger["answered"] - ledger["expired"] - len(learner.pending)
    return Imbalance(journal, decisions)
