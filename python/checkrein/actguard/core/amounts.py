"""What a scope limits and counts: tokens, compute units and US dollars."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Amounts:
    """An amount in each unit."""

    tokens: int = 0
    cost: int = 0
    usd: Decimal = ZERO

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(self.tokens + other.tokens, self.cost + other.cost, self.usd + other.usd)

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(self.tokens - other.tokens, self.cost - other.cost, self.usd - other.usd)

    def least(self, other: Limits) -> Amounts:
        """Return the smaller in each unit, never less than nothing; a unit without a limit stays."""
        return Amounts(
            self.tokens if other.tokens is None else max(0, min(self.tokens, other.tokens)),
            self.cost if other.cost is None else max(0, min(self.cost, other.cost)),
            self.usd if other.usd is None else max(ZERO, min(self.usd, other.usd)),
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """A limit, or what is left of it, in each unit; `None` where there is none."""

    tokens: int | None = None
    cost: int | None = None
    usd: Decimal | None = None

    def __bool__(self) -> bool:
        return not (self.tokens is None and self.cost is None and self.usd is None)

    def left(self, *taken: Amounts) -> Limits:
        """Return what is left after what was taken."""
        return Limits(
            None if self.tokens is None else self.tokens - sum(one.tokens for one in taken),
            None if self.cost is None else self.cost - sum(one.cost for one in taken),
            None if self.usd is None else self.usd - sum((one.usd for one in taken), ZERO),
        )

    def within(self, other: Limits) -> Limits:
        """Return the tighter of two in each unit."""
        return Limits(
            _tighter(self.tokens, other.tokens),
            _tighter(self.cost, other.cost),
            None
            if self.usd is None and other.usd is None
            else min(u for u in (self.usd, other.usd) if u is not None),
        )

    def spent(self) -> str | None:
        """Return the unit in which nothing is left, as "cost", "usd" or "token", or `None`."""
        if self.cost is not None and self.cost <= 0:
            return "cost"
        if self.usd is not None and self.usd <= 0:
            return "usd"
        if self.tokens is not None and self.tokens <= 0:
            return "token"
        return None

    def short(self, asked: Amounts) -> str | None:
        """Return the unit in which what is left does not cover what is asked, or `None`."""
        if self.cost is not None and asked.cost > self.cost:
            return "cost"
        if self.usd is not None and asked.usd > self.usd:
            return "usd"
        if self.tokens is not None and asked.tokens > self.tokens:
            return "token"
        return None


def _tighter(one: int | None, other: int | None) -> int | None:
    return min((value for value in (one, other) if value is not None), default=None)
