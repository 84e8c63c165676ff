"""The rules that make a go or a no-go of a rehearsal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_AGREES: Final = 3.0  # standard errors that a world may be off the log, and the share below
_AGREES_SHARE: Final = 0.02
_PLAIN: Final = {"quality": "quality", "cost_usd": "cost"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The rules of go and no-go.

    Parameters
    ----------
    max_quality_loss : float
        The lower end of the interval of the change in quality is at least minus this.
    min_saving : float
        The lower end of the interval of the saving is at least this share.
    max_breach : float
        The probability that the mean cost of a request exceeds the budget is at most this.
    max_scenario_loss : float
        While a scenario lasts, quality is below that of the present policy by at most this, with 95 % confidence.
    max_days : float, optional
        The router can tell by itself within so many days that it keeps the quality; not a rule unless given.
    """

    max_quality_loss: float = 0.02
    min_saving: float = 0.0
    max_breach: float = 0.05
    max_scenario_loss: float = 0.05
    max_days: float | None = None


def _saving(
    expected: Mapping[str, Mapping[str, float | None]], saved: float, end: str
) -> tuple[str, str, float, float, bool]:
    """Return the rule about the saving: as a share, or in USD where today costs nothing."""
    share, usd = expected["saving"]["low"], expected["saving_usd"]["low"]
    if share is None:
        return "saving", f"costs, 0 today, do not rise, {end} in USD per request", usd or 0.0, 0.0, True
    return "saving", f"at least {saved:.0%} of the cost is saved, {end}", share, saved, True


def rules_of(result: Mapping[str, Any], limits: Limits) -> list[dict[str, Any]]:
    """Return each rule: its name, what it says, what was found, its limit, and whether it holds."""
    expected, budget, check = result["expected"], result["budget"], result["check"]
    end = f"lower end of the {result['confidence']:.0%} interval"
    loss, saved = limits.max_quality_loss, limits.min_saving
    told = [
        (
            "quality",
            f"quality falls by at most {loss:g}, {end}",
            expected["quality_change"]["low"],
            -loss,
            True,
        ),
        _saving(expected, saved, end),
    ]
    if budget is not None:
        most = limits.max_breach
        text = f"the budget is breached with a probability of at most {most:g}"
        told.append(("budget", text, budget["breach_probability"], most, False))
    for one in result["scenarios"]:
        most = limits.max_scenario_loss
        text = f"when {one['title']}, quality is at most {most:g} below today's policy"
        told.append((one["name"], text, one["loss_at_most"], most, False))
    if limits.max_days is not None:
        days = result["confident"]["days_nine_in_ten"]
        text = f"within {limits.max_days:g} days the router is sure by itself that quality is kept"
        told.append(("confidence", text, math.inf if days is None else days, limits.max_days, False))
    for what, one in (check or {}).items():
        if one["log"] is not None:
            most = _AGREES * one["error"] + _AGREES_SHARE * abs(one["log"])
            text = f"the world has the mean {_PLAIN[what]} of the log: the difference of the two"
            told.append((f"{_PLAIN[what]} of the world", text, abs(one["world"] - one["log"]), most, False))
    return [
        {
            "name": name,
            "rule": text,
            "found": found if math.isfinite(found) else None,
            "limit": limit,
            "holds": bool(found >= limit if least else found <= limit),
        }
        for name, text, found, limit, least in told
    ]
