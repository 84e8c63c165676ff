"""One partition: its learner, where it stands in its logs, and what it owes them.

States go one way and back only through a new restore::

    RESTORING ──replayed──> RUNNING ──failure, lost ownership──> SUSPENDED ──> RESTORING
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from banditroute.bandit.uncopied import Uncopied
from banditroute.errors import StateError
from banditroute.events import Control, Decided, Edit, Expire, JournalRecord, decode_decision_key, encode
from banditroute.flow.deciding.decider import OutputRecord
from banditroute.flow.pending.open_decision import KnownBatch, KnownDecision
from banditroute.flow.pending.pending import KEPT_WHOLE
from banditroute.flow.records.position import Fields, LearnerSettings
from banditroute.flow.records.read_back import Logged, header_of, read_back
from banditroute.flow.records.snapshot import Genesis, Mark, State, genesis_state, mark_of, settings_digest
from banditroute.flow.settling.chunk import Chunk, readable
from banditroute.flow.settling.effects import Ready
from banditroute.flow.settling.learner import Learner
from banditroute.flow.settling.runs import Watch

__all__ = ["Partition", "genesis_state"]

CHECKPOINT_EVERY: Final = 1000  # journal records between two remembered positions
MAX_CHECKPOINTS: Final = 512  # beyond it every other one is forgotten
RESEND_MS: Final = 2000.0  # a Decided or Control that the journal does not show by then is sent again


class Partition(Uncopied):
    """Partition `number` of decisions, journal and state.

    Parameters
    ----------
    state : State
        The newest state record: genesis or later.
    d : int
        Columns of the context.
    spec_id : str
        The feature spec in force.
    settings : LearnerSettings
        What evidence depends on beside the log.
    keep : int or None
        Newest decisions of which all predictions are kept in memory; None keeps those of all, for who has no log to
        read them from again.

    Raises
    ------
    StateError
        If the state was learned under another spec or other settings.

    Notes
    -----
    Restoring: `read_decision` for every record of decisions from `decisions_from` to its end, then `begin`, then
    `apply` for every record of the journal from `journal_from`, then `finish`.
    """

    def __init__(
        self,
        state: State,
        d: int,
        spec_id: str,
        settings: LearnerSettings,
        keep: int | None = KEPT_WHOLE,
    ) -> None:
        self.number = state.partition
        self._refuse_foreign(state, d, spec_id, settings)
        self._restored = state
        self._digest = state.digest
        self.genesis: Genesis = state.genesis
        # the last records read, whose marks are worked out when a state record needs them
        self._journal_last: tuple[int, bytes | None] | None = None
        self._decisions_last: tuple[int, bytes | None] | None = None
        self._unverified = {"journal": state.journal_mark, "decisions": state.decisions_mark}
        learner = Learner(state.partition, d, spec_id, settings, state.genesis.hash_key, keep)
        anchor = state.anchor.copy()
        learner.fields = anchor
        anchor.D = max(anchor.D, anchor.X)
        anchor.rD = anchor.rX  # the scan from X finds the firsts again
        learner.end = anchor.X
        learner.r = anchor.rX
        learner.j = state.replay_from
        learner.frozen = True
        self.learner = learner
        self._checkpoints: list[tuple[int, Fields]] = [(state.replay_from, state.anchor.copy())]
        self.published_j = state.j
        self.expires_more = False
        self._announced = 0
        self._announced_at = 0.0
        self._controls: dict[int, Edit] = {}
        self._control_sent = -1
        self._control_sent_at = 0.0

    def _refuse_foreign(self, state: State, d: int, spec_id: str, settings: LearnerSettings) -> None:
        if (state.spec_id, state.d) != (spec_id, d):
            raise StateError(
                f"the state of partition {state.partition} was learned with feature spec {state.spec_id}, but "
                f"[features] says {spec_id}: put the old [features] back, or name a new state topic and run "
                "`banditroute topics create`"
            )
        if state.digest != settings_digest(settings):
            raise StateError(
                f"the state of partition {state.partition} was learned with other settings of [learning] or "
                "feedback.max_parked: put them back, or name a new state topic and run `banditroute topics create`"
            )

    # -- restore -----------------------------------------------------------------------------------

    @property
    def decisions_from(self) -> int:
        """The decisions offset a restore reads from."""
        mark = self._restored.decisions_mark
        return min(self._restored.anchor.X, mark[0] if mark else self._restored.anchor.X)

    @property
    def journal_from(self) -> int:
        """The journal offset a restore reads from."""
        mark = self._restored.journal_mark
        return min(self._restored.replay_from, mark[0] if mark else self._restored.replay_from)

    def begin(self) -> None:
        """Open the decisions the anchor already knew; call once decisions have been read to their end."""
        self._require_mark("decisions")
        learner = self.learner
        if learner.end < learner.fields.D:
            raise StateError(
                f"decisions of partition {self.number} end at {learner.end}, but the state knows {learner.fields.D} "
                "of them: the decisions topic was truncated or replaced"
            )
        learner.take_in(learner.fields.D)

    def finish(self) -> None:
        """End the restore: the journal was read to the end it had when the restore began."""
        self._thaw_if_due(self.learner.j)
        if self.learner.frozen:
            raise StateError(
                f"the journal of partition {self.number} ends at {self.learner.j}, but its state covers "
                f"{self._restored.j} records: the journal topic was truncated or replaced"
            )
        self._announced = self.learner.fields.D

    def _thaw_if_due(self, offset: int) -> None:
        learner, state = self.learner, self._restored
        if not learner.frozen or offset < state.j:
            return
        self._require_mark("journal")
        learner.j = state.j
        if learner.fields != state.at or len(learner.parked) != state.parked:
            raise StateError(
                f"replaying partition {self.number} does not lead to what its state record says: "
                "the topics do not belong together or are damaged"
            )
        learner.evidence = state.evidence.copy()
        learner.ledger = state.ledger.copy()
        learner.frozen = False

    def _require_mark(self, log: str) -> None:
        mark = self._unverified[log]
        if mark is not None:
            raise StateError(
                f"the {log} of partition {self.number} no longer holds record {mark[0]} as the state knew it: "
                "the topic was truncated or replaced"
            )

    def _require_no_hole(self, log: str, expected: int, offset: int) -> None:
        if offset > expected:
            raise StateError(
                f"the {log} of partition {self.number} lost the records from {expected} to {offset} before they were "
                "read: the retention of the topic is too short"
            )

    def skip_mark(self, log: str) -> None:
        """Do without the check of a log's mark: retention has rightly removed that record."""
        self._unverified[log] = None

    def _verify(self, log: str, offset: int, value: bytes | None) -> None:
        mark = self._unverified[log]
        if mark is not None and offset == mark[0] and mark == mark_of(offset, value):
            self._unverified[log] = None

    # -- decisions ---------------------------------------------------------------------------------

    def read_decisions(self, records: Sequence[Logged]) -> None:
        """Take note of decision records read from the log, in order: as `read_decision` of each."""
        learner = self.learner
        batch = None
        if records and learner.end == records[0].offset == records[-1].offset - len(records) + 1:
            batch = read_back(records, learner.spec_id, learner.r)
        if batch is None:
            for record in records:
                self.read_decision(record.offset, record.timestamp, record.value, record.headers)
            return
        if self._unverified["decisions"] is not None:
            for record in records:
                self._verify("decisions", record.offset, record.value)
        timestamps = np.fromiter((record.timestamp for record in records), np.int64, len(records))
        learner.know_batch(batch, records[0].offset, timestamps)
        self._decisions_last = (records[-1].offset, records[-1].value)

    def read_decision(
        self, offset: int, timestamp: int, value: bytes | None, headers: Iterable[tuple[str, bytes]]
    ) -> None:
        """Take note of a decision record read from the log."""
        self._verify("decisions", offset, value)
        if offset < self.learner.end:
            return
        self._require_no_hole("decisions", self.learner.end, offset)
        header = header_of(headers)
        try:
            key = decode_decision_key(value or b"")
        except msgspec.DecodeError as error:
            raise StateError(
                f"decision record {offset} of partition {self.number} cannot be read: {error}"
            ) from error
        self.learner.know(
            KnownDecision(offset, timestamp, key.request_id, key.model, key.tenant, header, key.segment)
        )
        self._decisions_last = (offset, value)

    def acknowledged(self, known: KnownBatch, base: int, timestamp: int, last: bytes) -> bool:
        """Take note of decisions of our own that the broker acknowledged at log offset `base`.

        `last` is the value of the last of them.

        Returns
        -------
        bool
            False when memory is not the log before `base`, or another owner's decisions on the same requests were read
            from it meanwhile: read decisions from `learner.end` to their end, these among them.
        """
        if base != self.learner.end or (known.ids and known.request_offsets[0] < self.learner.r):
            return False
        self.learner.know_batch(known, base, np.full(len(known.ids), timestamp, np.int64))
        if known.ids:
            self._decisions_last = (self.learner.end - 1, last)
        return True

    def supply(self, offset: int, headers: Iterable[tuple[str, bytes]]) -> None:
        """Give the headers of the decision that `NeedPredictions` asked for, before applying again."""
        self.learner.pending.supply(offset, header_of(headers))

    # -- journal -----------------------------------------------------------------------------------

    def apply(self, offset: int, timestamp: int, value: bytes | None) -> Ready:
        """Apply one journal record, remembering positions on the way; see `Learner.apply`."""
        self._verify("journal", offset, value)
        return self.apply_decoded(offset, timestamp, readable(value), value)

    def apply_decoded(
        self, offset: int, timestamp: int, record: JournalRecord | None, value: bytes | None = None
    ) -> Ready:
        """Apply one journal record that was decoded from a value, or never encoded; see `Learner.apply_decoded`."""
        if offset < self.learner.j:
            return Ready()
        self._before(offset)
        ready = self.learner.apply_decoded(offset, timestamp, record)
        self._journal_last = (offset, value)
        return ready

    def apply_many(self, chunk: Chunk) -> None:
        """Apply the records of a chunk from `chunk.at` on: the same, bit for bit, as `apply` of each in order.

        The chunk takes what that brings about.

        Raises
        ------
        NeedDecisions, NeedPredictions
            As `apply` does, for the record at `chunk.at`, before it changed anything; go on with the same chunk.
        """
        if self._unverified["journal"] is not None:
            for offset, value in zip(chunk.offsets, chunk.values, strict=True):
                self._verify("journal", offset, value)
        while chunk.at < len(chunk):
            ready = self.apply_some(chunk)
            chunk.learned += ready.learned if ready.run is None else (ready.run,)
            chunk.refused += ready.refused
            chunk.control = chunk.control or ready.control

    def apply_some(self, chunk: Chunk, watch: Watch | None = None) -> Ready:
        """Apply a run of votes, or else one record, from `chunk.at` on; see `apply_many` and `Runs.settle_run`."""
        at = chunk.at
        if chunk.offsets[at] < self.learner.j:
            chunk.at += 1
            chunk.outcomes.append(None)
            return Ready()
        self._before(chunk.offsets[at])
        ready = self.learner.apply_some(chunk, self._stop(chunk), watch)
        self._journal_last = (chunk.offsets[chunk.at - 1], chunk.values[chunk.at - 1])
        return ready

    def _before(self, offset: int) -> None:
        """Do what is due before the journal record at an offset is applied."""
        learner = self.learner
        self._require_no_hole("journal", learner.j, offset)
        self._thaw_if_due(offset)
        if learner.j >= self._checkpoints[-1][0] + CHECKPOINT_EVERY:
            self._checkpoints.append((learner.j, learner.fields.copy()))
            if len(self._checkpoints) > MAX_CHECKPOINTS:
                del self._checkpoints[1::2]

    def _stop(self, chunk: Chunk) -> int:
        """Return the place in a chunk before whose record something may be due again."""
        at, first = chunk.at, chunk.offsets[chunk.at]
        if chunk.offsets[-1] - first != len(chunk) - 1 - at:
            return at + 1
        due = self._checkpoints[-1][0] + CHECKPOINT_EVERY
        if self.learner.frozen:
            due = min(due, self._restored.j)
        return min(len(chunk), max(at + 1, at + due - first))

    def learn_of_control(self, number: int, edit: Edit) -> None:
        """Take note of a control record; it acts once the journal holds its copy."""
        if number > self.learner.fields.cursor:
            self._controls[number] = edit

    @property
    def owes(self) -> bool:
        """Whether the journal may lack a Decided or Control record; nothing is owed where this is False."""
        return self.learner.end > self.learner.fields.D or bool(self._controls)

    def owed(self, now_ms: float) -> list[OutputRecord]:
        """Return the Decided and Control records that the journal does not show yet."""
        learner = self.learner
        records = []
        waiting = self._announced > learner.fields.D and now_ms - self._announced_at < RESEND_MS
        if learner.end > (self._announced if waiting else learner.fields.D):
            records.append(OutputRecord(None, encode(Decided(learner.end))))
            self._announced, self._announced_at = learner.end, now_ms
        cursor = learner.fields.cursor
        for number in [number for number in self._controls if number <= cursor]:
            del self._controls[number]
        if self._control_sent > cursor and now_ms - self._control_sent_at < RESEND_MS:
            cursor = self._control_sent
        due = sorted(number for number in self._controls if number > cursor)
        if due:
            records += [OutputRecord(None, encode(Control(number, self._controls[number]))) for number in due]
            self._control_sent, self._control_sent_at = due[-1], now_ms
        return records

    def resend(self) -> None:
        """Forget what was sent: an append failed, so everything owed is owed again."""
        self._announced = self.learner.fields.D
        self._control_sent = -1

    def expiry(
        self, now_ms: float, join_window_ms: float, max_open: int, most: int | None = None
    ) -> OutputRecord | None:
        """Return the Expire record that is due, if any.

        It closes `most` decisions at most and gives up that many parked records (more only if they have one and the
        same timestamp); `expires_more` says afterwards whether that left some behind.
        """
        learner = self.learner
        before = int(now_ms - join_window_ms)
        surplus = len(learner.pending) - max_open
        upto = learner.pending.due(before, surplus, most) or learner.fields.X
        whole = before
        if most is not None:
            before = learner.parked.before_of(before, most)
            self.expires_more = before < whole or upto < (
                learner.pending.due(whole, surplus, most + 1) or upto
            )
        oldest = learner.parked.oldest()
        given_up = oldest is not None and oldest.timestamp < before
        return (
            OutputRecord(None, encode(Expire(upto, before))) if upto > learner.fields.X or given_up else None
        )

    # -- state -------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether something was applied since the last published state."""
        return not self.learner.frozen and self.learner.j > self.published_j

    def snapshot(self) -> State:
        """Return the state record as of now."""
        learner = self.learner
        touched = learner.pending.first_touch()
        oldest = learner.parked.oldest()
        waits = learner.j if oldest is None else oldest.journal_offset
        low = min((learner.j if touched is None else touched), learner.j, waits)
        while len(self._checkpoints) > 1 and self._checkpoints[1][0] <= low:
            del self._checkpoints[0]
        replay_from, anchor = self._checkpoints[0]
        if low == learner.j:  # nothing open was touched: the newest position is anchor enough
            replay_from, anchor = learner.j, learner.fields
        return State(
            partition=self.number,
            spec_id=learner.spec_id,
            d=learner.evidence.layout.d,
            genesis=self.genesis,
            digest=self._digest,
            j=learner.j,
            replay_from=replay_from,
            at=learner.fields.copy(),
            anchor=anchor.copy(),
            ledger=learner.ledger.copy(),
            parked=len(learner.parked),
            evidence=learner.evidence.copy(),
            journal_mark=_mark(self._journal_last, self._restored.journal_mark),
            decisions_mark=_mark(self._decisions_last, self._restored.decisions_mark),
        )


def _mark(last: tuple[int, bytes | None] | None, restored: Mark | None) -> Mark | None:
    return restored if last is None else mark_of(*last)
