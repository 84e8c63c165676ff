"""What becomes of evidence when the feature spec changes.

Contexts of another spec cannot be added up with those of the new one. What can be kept is what needs none: a vote
without its context is a vote on the intercept, which is column 0 of every context and always 1.
"""

from __future__ import annotations

from banditroute.bandit.evidence.evidence import Evidence
from banditroute.bandit.evidence.row_layout import HEAD, N_FREE, Q2_FREE, Q_FREE, SQ2, N


def context_free(evidence: Evidence, d: int) -> Evidence:
    """Return evidence for contexts of ``d`` columns that knows what ``evidence`` knows of the intercept alone."""
    result = Evidence(d)
    old, new = evidence.layout, result.layout
    for key, row in evidence.rows.items():
        bare = result.row(key)
        bare[:HEAD] = row[:HEAD]
        bare[new.tx.start] = row[old.tx.start]
        for start in (new.b, new.sx, new.a):
            bare[start.start] = 0.0
        bare[N] = bare[SQ2] = 0.0
    result.shared[0] = evidence.shared[0]
    result.shared[new.shared_tb.start] = evidence.shared[old.shared_tb.start]
    result.shared[new.shared_ta.start] = evidence.shared[old.shared_ta.start]
    on_intercept(result)
    return result


def on_intercept(evidence: Evidence) -> float:
    """Let the votes that came without a usable context count on the intercept; return the sum of their weights."""
    layout, moved = evidence.layout, 0.0
    for row in evidence.rows.values():
        votes = row[N_FREE] - row[N]
        moved += float(votes)
        row[layout.b.start] += row[Q_FREE] - row[layout.b.start]
        row[layout.sx.start] += votes
        row[layout.a.start] += votes
        row[N] = row[N_FREE]
        row[SQ2] = row[Q2_FREE]
    return moved
