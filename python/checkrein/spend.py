"""Amounts of runs: what may be spent, what was, and what is left, by unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from checkrein import _native
from checkrein.errors import ConfigError, a_type

UNITS: Final = ("usd", "tokens", "calls")
"""What every scope counts; compute units are counted where somebody limits them."""


@dataclass(frozen=True, slots=True)
class Spend:
    """Amounts by unit: exact dollars, and whole tokens, calls and compute units."""

    usd: Decimal = Decimal(0)
    tokens: int = 0
    calls: int = 0
    cu: int = 0

    def __str__(self) -> str:
        calls = f"{self.calls} call{'' if self.calls == 1 else 's'}"
        cu = f", {self.cu} cu" if self.cu else ""
        return f"{self.usd:f} usd, {self.tokens} tokens, {calls}{cu}"

    def to_dict(self) -> dict[str, Any]:
        """Return the amounts as plain JSON values; dollars are text."""
        return {"usd": f"{self.usd:f}", "tokens": self.tokens, "calls": self.calls, "cu": self.cu}


@dataclass(frozen=True, slots=True)
class Limits:
    """Amounts by unit where there are any: `None` says that nothing limits the unit here."""

    usd: Decimal | None = None
    tokens: int | None = None
    calls: int | None = None
    cu: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Where a scope stands; as text it is a table for people."""

    name: str
    limits: Limits
    spent: Spend
    held: Spend
    remaining: Limits
    overrun: Spend
    forced: Spend
    stopped: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return everything about it as plain JSON values."""
        whole: dict[str, Any] = {"name": self.name, "stopped": self.stopped}
        for what in ("spent", "held", "overrun", "forced"):
            whole[what] = getattr(self, what).to_dict()
        for what in ("limits", "remaining"):
            amounts: Limits = getattr(self, what)
            whole[what] = {unit: _plain(getattr(amounts, unit)) for unit in (*UNITS, "cu")}
        return whole

    def __str__(self) -> str:
        lines = [f"{self.name}{'' if self.stopped is None else f' (stopped: {self.stopped})'}"]
        for unit in (*UNITS, "cu"):
            spent, held, limit = (getattr(part, unit) for part in (self.spent, self.held, self.limits))
            if not (spent or held or limit is not None):
                continue
            of = "" if limit is None else f" of {_text(limit)}"
            line = f"  {unit:<6} {_text(spent)}{of} spent"
            left = getattr(self.remaining, unit)
            line += f", {_text(held)} held" if held else ""
            line += "" if left is None else f", {_text(left)} left"
            lines.append(line)
            beyond = getattr(self.overrun, unit) + getattr(self.forced, unit)
            if beyond:
                lines.append(
                    f"         {_text(beyond)} of what was spent is beyond what was held or asked for"
                )
        return "\n".join(lines)


def read_limits(
    budget: str | Decimal | Sequence[str] | None, *, tokens: int | None, calls: int | None, cu: int | None
) -> dict[str, str]:
    """Read limits as exact decimals by unit."""
    found: dict[str, str] = {}
    several = budget if isinstance(budget, list | tuple) else [] if budget is None else [budget]
    for one in several:
        unit, amount = read_budget(one)
        if unit in found:
            raise ConfigError(f"two budgets in {unit}", "budget", "give one for each unit")
        found[unit] = amount
    for unit, count in (("tokens", tokens), ("calls", calls), ("cu", cu)):
        if count is None:
            continue
        if unit in found:
            raise ConfigError(f"two budgets in {unit}", "budget", "give one for each unit")
        found[unit] = str(whole(unit, count, least=0))
    return found


def read_budget(budget: object, what: str = "budget") -> tuple[str, str]:
    hint = 'write it as text with its unit: "$0.50", "0.50 usd" or "200000 tokens"; money is never a float'
    if isinstance(budget, Decimal):
        budget = f"{budget:f} usd"
    if not isinstance(budget, str):
        raise ConfigError(f"a {what} is {a_type(budget)}", "budget", hint)
    text = budget.strip()
    if text.startswith("$"):
        text = f"{text[1:].strip()} usd"
    if "/" in text or " per " in text:
        hint = (
            'a run is its window; `[budgets.daily]` of a policy file with `key = "action.user"` and '
            '`window = "1d"` has others: docs/reference/runs.md'
        )
        raise ConfigError(f"the {what} of a run has no window", "budget", hint)
    pico, unit = _native.parse_quantity(text)
    if pico < 0:
        raise ConfigError(f"a {what} is negative", "budget", hint)
    return str(unit), f"{Decimal(pico).scaleb(-12).normalize():f}"


def whole(what: str, count: object, *, least: int) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or not least <= count < 2**53:
        raise ConfigError(f"`{what}` is no whole number of {least} or more", what, f"give a number of {what}")
    return count


def number(unit: str, text: str) -> Any:
    return Decimal(text) if unit == "usd" else int(Decimal(text))


def total(rows: list[tuple[Any, ...]], at: int) -> Spend:
    return Spend(**{row[1]: number(row[1], row[at]) for row in rows})


def left_of(rows: list[tuple[Any, ...]]) -> Limits:
    limited = (row for row in rows if row[4] is not None)
    return Limits(
        **{
            row[1]: max(
                number(row[1], row[4]) - number(row[1], row[2]) - number(row[1], row[3]), number(row[1], "0")
            )
            for row in limited
        }
    )


def _plain(amount: Decimal | int | None) -> str | int | None:
    return f"{amount:f}" if isinstance(amount, Decimal) else amount


def _text(amount: Decimal | int) -> str:
    return f"{amount:f}" if isinstance(amount, Decimal) else str(amount)
