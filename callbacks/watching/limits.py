"""The limits of a guard: what makes it refuse an edit."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from .collapse import MULTIPLE
from .signals import FALLING, SIGNALS


class Limits(NamedTuple):
    """Limits of an edit's figures; :class:`CollapseGuard` describes them."""

    threshold: float | None
    relative: float | None
    denominator: float
    risk: float
    unconverged: float
    signals: Mapping[str, float]

    def check(self) -> None:
        """Refuses limits that no edit could meet.

        Raises:
            ValueError: if one is out of its range, or belongs to an unknown signal.
        """
        low = (self.threshold is not None and self.threshold <= 0) or (self.relative or 2) <= 1
        if low or self.denominator < 0:
            raise ValueError(
                "threshold must be positive, relative above 1 and denominator not negative, got "
                f"{self.threshold}, {self.relative} and {self.denominator}"
            )
        if not 0 < self.risk <= 1:
            raise ValueError(f"risk must be a probability above 0, got {self.risk}")
        if not 0 <= self.unconverged <= 1:
            raise ValueError(f"unconverged must be a share from 0 to 1, got {self.unconverged}")
        for name, limit in self.signals.items():
            if name not in SIGNALS:
                raise ValueError(f"signals must be among {', '.join(SIGNALS)}, got {name!r}")
            if not limit > 0 or (name.startswith("overlap") and limit >= 1):
                within = "between 0 and 1" if name.startswith("overlap") else "positive"
                raise ValueError(f"the limit of signal {name} must be {within}, got {limit}")

    def danger(self, record: Mapping[str, Any]) -> str:
        """The fault of an edit before its perplexity is measured; empty if there is none."""
        found, risk = record.get("denominator", math.inf), record.get("collapse_probability", 0.0)
        if record.get("value_unconverged", 0) > self.unconverged:
            return str(record["reason"])
        if risk > self.risk:
            return f"probability of collapse {risk:.2g} > {self.risk:g}"
        return f"denominator {found:.3g} < {self.denominator:g}" * (found < self.denominator)

    def harm(self, record: Mapping[str, Any], unedited: float, healthy: Sequence[float]) -> str:
        """The fault of an edit after its perplexity is measured; empty if there is none.

        Args:
            record: of the edit.
            unedited: perplexity of the unedited model.
            healthy: the latest perplexities of edits that stand.
        """
        found, limit = record["perplexity"], self.threshold or MULTIPLE * unedited
        if self.relative is not None and healthy:
            limit = min(limit, self.relative * median(healthy))
        if not (math.isfinite(found) and found <= limit):
            return f"perplexity {found:.4g} > {limit:.4g}"
        return self.alarm(record)

    def alarm(self, record: Mapping[str, Any]) -> str:
        """The first warning signal beyond its limit; empty if there is none."""
        for name, limit in self.signals.items():
            found, falls = record.get(name), name in FALLING
            if found is not None and not (found >= limit if falls else found <= limit):
                return f"{name} {found:.4g} {'<' if falls else '>'} {limit:g}"
        return ""
