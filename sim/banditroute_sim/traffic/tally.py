"""What a run of traffic came to: which model each request got, and how that compares with other ways to choose."""

from __future__ import annotations

import bisect
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from banditroute_sim.data.dataset import Baseline, DataSet, Rows

NO_MODEL: Final = "(none)"  # the share of decisions that name no model


@dataclass(frozen=True)
class TrafficSummary:
    """The outcome of a run.

    Means, baselines and the oracle are all taken over the same requests: those whose first decision named a model
    with a recorded outcome. Without any there is no mean: None. utility = quality - cost_weight * cost_usd.

    Attributes
    ----------
    requests : int
        Requests handed to the client library; fewer than asked for if the run was cut short.
    decisions, duplicates, undecided : int
        First decisions, later decisions of the same requests, and requests without any.
    unknown_outcomes : int
        First decisions that name no model, or one the data set does not know: they get no feedback.
    feedback_sent : int
        Feedback events the broker has acknowledged.
    decisions_per_second : float or None
        First decisions over the time from the first request sent to the last of them read.
    latency_ms : dict
        p50 and p99 from handing a request to the client library to reading its decision.
    share : dict of str to float
        Fraction of the first decisions per model, of all models of the data set and any other that was named.
    """

    requests: int
    decisions: int
    duplicates: int
    undecided: int
    unknown_outcomes: int
    feedback_sent: int
    mean_quality: float | None
    mean_cost_usd: float | None
    mean_utility: float | None
    best_fixed: Baseline | None
    cheapest: Baseline | None
    uniform: Baseline | None
    oracle_utility: float | None
    decisions_per_second: float | None
    latency_ms: dict[str, float | None]
    share: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        baselines = {key: getattr(self, key) for key in ("best_fixed", "cheapest", "uniform")}
        return asdict(self) | {key: value and value.to_dict() for key, value in baselines.items()}


class Tally:
    """Keeps the books of a run; request number i is row i modulo n of the data set.

    Parameters
    ----------
    data : DataSet
        Prompts and outcomes.
    requests : int
        The most requests there will be.
    cost_weight : float
        Weight of cost in the utility.

    Attributes
    ----------
    sent, decided, duplicates, feedback_sent : int
        Counts so far.
    """

    def __init__(self, data: DataSet, requests: int, cost_weight: float) -> None:
        self.data = data
        self.requests = requests
        self.cost_weight = cost_weight
        self.sent = self.decided = self.duplicates = self.feedback_sent = 0
        self._names = {name: index for index, name in enumerate(data.models)}
        self._sent_at = np.zeros(requests)
        # lists, because decisions come one by one: which requests, the columns chosen, when
        self._open = [True] * requests
        self._order: list[int] = []
        self._choice: list[int] = []
        self._decided_at: list[float] = []

    def send(self, count: int, now: float) -> None:
        """Enter the next `count` requests as sent at `now`."""
        self._sent_at[self.sent : self.sent + count] = now
        self.sent += count

    def decide(self, number: int, model: str | None, now: float) -> bool:
        """Enter a decision read at `now`; return whether it is the first of its request."""
        if not self._open[number]:
            self.duplicates += 1
            return False
        self._open[number] = False
        self._choice.append(self._names.setdefault(NO_MODEL if model is None else model, len(self._names)))
        self._order.append(number)
        self._decided_at.append(now)
        self.decided += 1
        return True

    def column(self, model: str | None) -> int | None:
        """Return the column of a model's outcomes, None if there are none."""
        column = None if model is None else self._names.get(model)
        return None if column is None or column >= len(self.data.models) else column

    def known(self) -> tuple[Rows, Rows]:
        """Return rows and columns of the outcomes received so far, in the order of the decisions."""
        numbers, choice = np.array(self._order, np.int64), self.choices()
        kept = choice < len(self.data.models)
        return numbers[kept] % len(self.data), choice[kept]

    def choices(self) -> Rows:
        """Return the column chosen by every first decision, in order; strangers have columns beyond the last."""
        return np.array(self._choice, np.int64)

    def rate(self, now: float, window: float) -> float:
        """Return first decisions per second over the last `window` seconds."""
        if not self.decided:
            return 0.0
        span = min(window, now - float(self._sent_at[0]))
        recent = self.decided - bisect.bisect_left(self._decided_at, now - span)
        return recent / span if span > 0.0 else 0.0

    def latency_ms(self, last: int = 0) -> dict[str, float | None]:
        """Return p50 and p99 of the last `last` decisions, 0 = all."""
        if not self.decided:
            return {"p50": None, "p99": None}
        order = np.array(self._order[-last:], np.int64)
        spans = np.array(self._decided_at[-last:]) - self._sent_at[order]
        p50, p99 = np.percentile(spans, [50, 99]) * 1e3
        return {"p50": float(p50), "p99": float(p99)}

    def summary(self) -> TrafficSummary:
        """Sum up what there is so far."""
        data, weight = self.data, self.cost_weight
        rows, columns = self.known()
        any_known = rows.size > 0
        quality = float(data.quality[rows, columns].mean()) if any_known else None
        cost = float(data.cost[rows, columns].mean()) if any_known else None
        took = self._decided_at[-1] - float(self._sent_at[0]) if self.decided else 0.0
        counts = np.bincount(self.choices(), minlength=len(self._names))
        return TrafficSummary(
            requests=self.sent,
            decisions=self.decided,
            duplicates=self.duplicates,
            undecided=self.sent - self.decided,
            unknown_outcomes=self.decided - rows.size,
            feedback_sent=self.feedback_sent,
            mean_quality=quality,
            mean_cost_usd=cost,
            mean_utility=None if quality is None or cost is None else quality - weight * cost,
            best_fixed=data.best_fixed(weight, rows) if any_known else None,
            cheapest=data.cheapest(weight, rows) if any_known else None,
            uniform=data.uniform(weight, rows) if any_known else None,
            oracle_utility=data.oracle_utility(weight, rows) if any_known else None,
            decisions_per_second=self.decided / took if took > 0.0 else None,
            latency_ms=self.latency_ms(),
            share={name: float(counts[index]) / max(1, self.decided) for name, index in self._names.items()},
        )
