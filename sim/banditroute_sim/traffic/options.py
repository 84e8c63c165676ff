"""What traffic to send."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from banditroute.errors import ConfigError
from banditroute.flow.copying.partitioner import PARTITIONERS


@dataclass(frozen=True, kw_only=True)
class TrafficOptions:
    """What traffic to send.

    Parameters
    ----------
    requests : int
        How many; prompts repeat, in order, when there are more requests than prompts.
    seconds : float, optional
        Send no further requests after this long.
    rate : float
        Requests per second, evenly spaced; 0 = as fast as possible within `max_in_flight`.
    feedback_share : float
        Fraction of the decisions that get feedback, drawn independently for each request.
    feedback_delay : float or (float, float)
        Seconds from reading a decision to its feedback: one number is the mean of an exponential delay, two are
        the ends of a uniform one (both equal: fixed).
    run_id : str
        Request i is called ``{run_id}-{i:06d}``, counted from 1; default: one made of the present time.
    seed : int
        Seed of delays and shares.
    partitioner : {"murmur2", "crc32", "fnv1a"}
        Which partition the key of a request sends it to: "murmur2" is Java's default, "crc32" librdkafka's.
    feedback_partitioner : {"murmur2", "crc32", "fnv1a"}
        The same for feedback.
    send_decision_id : bool
        Whether feedback names the decision, or its request alone.
    source : str
        The `source` of the feedback.
    max_in_flight : int
        Send nothing while this many requests are undecided.
    fetch_wait_ms : int
        How long the broker may hold back an empty answer when decisions are fetched; a real broker answers as soon
        as there is something, the embedded one only then.
    stall_timeout : float
        Give up after so many seconds in which nothing moved.
    """

    requests: int
    seconds: float | None = None
    rate: float = 0.0
    feedback_share: float = 1.0
    feedback_delay: float | tuple[float, float] = 0.0
    run_id: str = ""
    seed: int = 0
    partitioner: Literal["murmur2", "crc32", "fnv1a"] = "murmur2"
    feedback_partitioner: Literal["murmur2", "crc32", "fnv1a"] = "murmur2"
    send_decision_id: bool = True
    source: str = "traffic"
    max_in_flight: int = 4096
    fetch_wait_ms: int = 250
    stall_timeout: float = 60.0

    def __post_init__(self) -> None:
        low, high = self.delay_bounds
        for name, good, expected in (
            ("requests", self.requests >= 1, "at least 1"),
            ("seconds", self.seconds is None or 0.0 < self.seconds < math.inf, "more than 0"),
            ("rate", 0.0 <= self.rate < math.inf, "0 or more"),
            ("feedback_share", 0.0 <= self.feedback_share <= 1.0, "from 0 to 1"),
            ("feedback_delay", 0.0 <= low <= high < math.inf, "0 or more seconds, the lower end first"),
            ("run_id", len(self.run_id.encode()) <= 200, "at most 200 bytes"),
            ("seed", self.seed >= 0, "0 or more"),
            ("partitioner", self.partitioner in PARTITIONERS, f"one of {', '.join(PARTITIONERS)}"),
            (
                "feedback_partitioner",
                self.feedback_partitioner in PARTITIONERS,
                f"one of {', '.join(PARTITIONERS)}",
            ),
            ("max_in_flight", self.max_in_flight >= 1, "at least 1"),
            ("fetch_wait_ms", self.fetch_wait_ms >= 0, "0 or more"),
            ("stall_timeout", self.stall_timeout > 0.0, "more than 0 seconds"),
        ):
            if not good:
                raise ConfigError(f"{name} is {getattr(self, name)!r}: expected {expected}")

    @property
    def delay_bounds(self) -> tuple[float, float]:
        """The two ends of a uniform delay; of an exponential one its mean, twice."""
        delay = self.feedback_delay
        return delay if isinstance(delay, tuple) else (delay, delay)
