"""Runs: first votes that follow each other in the journal, settled together.

A run does what `Learner.apply` does for one record after the other, bit for bit. What is out of the ordinary ends it:
a vote that changes or repeats another, names another model than the decided one or waits for its decision, a step
of forgetting, and every record that is not feedback.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.evidence.evidence import RowKey
from banditroute.flow.pending.slots import KINDS
from banditroute.flow.settling.chunk import Chunk, Columns
from banditroute.flow.settling.effects import LearnedRun
from banditroute.flow.settling.settler import Settler

LEAST_RUN: Final = 6  # records that are worth columns

#: looks at what is about to be learned and says how many of these votes may be
Watch = Callable[[LearnedRun], int]


class Runs(Settler):
    """Settles runs of votes."""

    def settle_run(self, chunk: Chunk, stop: int, watch: Watch | None = None) -> LearnedRun | None:
        """Settle as many votes as follow each other from `chunk.at` on, which moves behind them.

        Parameters
        ----------
        chunk : Chunk
            The records.
        stop : int
            Place in the chunk before which the run ends at the latest.
        watch : callable, optional
            Is shown the votes before evidence has them, and returns how many of them, at least one, it may have.

        Returns
        -------
        LearnedRun or None
            What was learned; None for nothing, which says nothing of how many votes there were while frozen.
        """
        columns = chunk.columns
        if columns is None:
            if stop - chunk.at < LEAST_RUN:
                return None
            columns = chunk.columns = self.pending.columns(chunk, self.partition, self.fields.hi)
        start = chunk.at
        if not columns.usual[start]:
            return None
        stop = self._before_a_tick(columns, start, stop)
        if start >= columns.looked:
            self.pending.look_up(columns, start, columns.next_barrier(start))
        fields, keys = self.fields, self.pending.slots.keys
        g = np.full(len(keys), fields.decay)
        if fields.shrink:
            g += [fields.shrink.get(key.name, 0.0) for key in keys]
        end = self.pending.settle(columns, start, stop, g, fields.decay)
        if end == start:
            return None
        run = None if self.frozen else self._learned_run(columns, start, end)
        if run is not None and watch is not None and (accepted := watch(run)) < end - start:
            self.pending.take_back(columns, start + accepted, end)
            run, end = run.upto(accepted), start + accepted
        if run is not None:
            self._add_run(run, columns, start, end)
        fields.hi.update(columns.sources[start:end])
        chunk.at = end
        chunk.outcomes += ["applied"] * (end - start)
        return run

    def _before_a_tick(self, columns: Columns, start: int, stop: int) -> int:
        """Return the place of the first record that moves the clock of forgetting, if it comes before `stop`."""
        if self.settings.half_life_ms is None:
            return stop
        if self.fields.clock is None:
            return start
        ticks = columns.timestamps[start:stop] // self.settings.tick_ms
        later = np.flatnonzero(ticks > np.int64(self.fields.clock))
        return start + int(later[0]) if len(later) else stop

    def _learned_run(self, columns: Columns, start: int, stop: int) -> LearnedRun:
        found, kinds = columns.found[start:stop], columns.kinds[start:stop]
        return LearnedRun(
            self.pending.slots.keys, found[:, 1], columns.x[start:stop], columns.votes[start:stop],
            self._weight_of_kind[kinds], kinds, self.pending.segments(found[:, 2]),
        )  # fmt: skip

    def _add_run(self, run: LearnedRun, columns: Columns, start: int, stop: int) -> None:
        pairs: NDArray[np.int64] = len(KINDS) * run.models + run.kinds
        present = np.bincount(pairs).nonzero()[0]
        which: NDArray[np.int64] = np.searchsorted(present, pairs)
        keys = [RowKey(*run.keys[pair // len(KINDS)], KINDS[pair % len(KINDS)]) for pair in present.tolist()]
        self.evidence.add_many(keys, which, run.x, run.votes, run.weights)
        self._count("quality_votes", int(np.count_nonzero(columns.has_quality[start:stop])))
        self._count("usage_votes", int(np.count_nonzero(columns.has_usage[start:stop])))
        self._count("applied", stop - start)
