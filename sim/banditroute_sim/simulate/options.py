"""What to simulate."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from banditroute.errors import ConfigError
from banditroute_sim.policies import POLICIES
from banditroute_sim.scenarios import SCENARIOS, SUITE
from banditroute_sim.simulate.compiled import BASELINES

OURS: Final = "banditroute"
COMPILED: Final = (OURS, *BASELINES)
LONGEST: Final = 2**31 - 1  # rounds: a vote on its way is a round and an arrival in 64 bits


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulateOptions:
    """What to simulate.

    Parameters
    ----------
    scenarios : tuple of str
        Names of `SCENARIOS`; ``all`` is the suite.
    policies : tuple of str
        Names of `POLICIES`; ``all`` is every one, and nothing is all that are compiled.
    seeds, first_seed : int
        Seeds ``first_seed`` and up; the same for every policy.
    horizon : int, optional
        Rounds; default: the scenario's own.
    workers : int
        Processes.
    budget : float, optional
        Of a request, in units of utility: our policy meets it, and all are measured against it.

    Raises
    ------
    ConfigError
        If a name is unknown or a number out of range.
    """

    scenarios: tuple[str, ...] = ("stationary",)
    policies: tuple[str, ...] = ()
    seeds: int = 10
    first_seed: int = 0
    horizon: int | None = None
    workers: int = 1
    budget: float | None = None

    def __post_init__(self) -> None:
        scenarios = _names("scenario", self.scenarios, SCENARIOS, SUITE)
        policies = _names("policy", self.policies or COMPILED, POLICIES, tuple(POLICIES))
        object.__setattr__(self, "scenarios", scenarios)
        object.__setattr__(self, "policies", policies)
        for name, value, least in (
            ("seeds", self.seeds, 1),
            ("first-seed", self.first_seed, 0),
            ("workers", self.workers, 1),
            ("horizon", 1 if self.horizon is None else self.horizon, 1),
        ):
            if not least <= value <= LONGEST:
                raise ConfigError(f"--{name} is a number from {least} to {LONGEST:,}, got {value}")
        if self.budget is not None and not (math.isfinite(self.budget) and self.budget > 0.0):
            raise ConfigError(f"--budget is a number above 0, got {self.budget:g}")


def _names(
    what: str, given: Collection[str], known: Collection[str], everything: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the names that were given, without repeats; ``all`` stands for everything."""
    found: dict[str, None] = {}
    for name in given:
        if name == "all":
            found |= dict.fromkeys(everything)
        elif name in known:
            found[name] = None
        else:
            close = difflib.get_close_matches(name, [*known, "all"], n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(known)}, all"
            raise ConfigError(f"there is no {what} '{name}': {hint}")
    return tuple(found)
