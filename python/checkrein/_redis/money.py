"""Amounts as a script takes them: whole numbers below 10^14, so that no sum is ever a binary fraction."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

BASE: Final = 10**14
PLACES: Final = 38
"""Decimal places that are kept."""
MOST: Final = (2**127 - 1) // 10**12
"""Whole units below which every amount and sum is, as in the memory store."""

Limbs = tuple[int, int, int, int, int]


def limbs(amount: Any) -> tuple[int, Limbs]:
    """The decimal places an amount is written with, and its limbs; ValueError for what is none or does not fit."""
    if isinstance(amount, int):
        if amount < 0:
            raise ValueError("amount must be >= 0")
        if amount >= MOST:
            raise ValueError("amount is out of range")
        return 0, (amount // BASE, amount % BASE, 0, 0, 0)
    if not isinstance(amount, Decimal):
        raise ValueError(f"amount must be a Decimal, got {type(amount).__name__}")
    if not amount.is_finite():
        raise ValueError(f"amount must be a finite number, got {_short(amount)}")
    if not amount:
        exponent = amount.as_tuple().exponent
        return min(max(-int(exponent), 0), PLACES), (0, 0, 0, 0, 0)
    if amount.is_signed():
        raise ValueError(f"amount must be >= 0, got {_short(amount)}")
    # Asked before any digit is written out: an exponent may be a million.
    if amount.adjusted() > 26:
        raise ValueError(f"amount is out of range: {_short(amount)}")
    if amount.adjusted() < -PLACES:
        raise ValueError(f"amount has more than {PLACES} decimal places: {_short(amount)}")
    whole, _, fraction = f"{amount:f}".partition(".")
    if len(fraction) > PLACES and fraction[PLACES:].strip("0"):
        raise ValueError(f"amount has more than {PLACES} decimal places: {_short(amount)}")
    units = int(whole)
    if units >= MOST:
        raise ValueError(f"amount is out of range: {_short(amount)}")
    return min(len(fraction), PLACES), (units // BASE, units % BASE, *_fraction(fraction))


def limit(most: Any) -> Limbs | None:
    """The limbs of a limit; `None` where no sum can reach it. What is finer than any sum is cut off."""
    if isinstance(most, int):
        return None if most >= MOST else (most // BASE, most % BASE, 0, 0, 0)
    if not most.is_finite() or most.adjusted() > 26:
        return None
    if most.adjusted() < -PLACES:
        return (0, 0, 0, 0, 0)
    whole, _, fraction = f"{most:f}".partition(".")
    units = int(whole)
    return None if units >= MOST else (units // BASE, units % BASE, *_fraction(fraction[:PLACES]))


def decimal(words: list[str]) -> Decimal:
    """The sum in a script's reply: its decimal places, then its limbs, or the middle two where the others are 0."""
    if len(words) == 3:
        digits, whole = words[2].zfill(14).rstrip("0"), words[1]
    else:
        high, low, *rest = words[1:]
        digits = "".join(limb.zfill(14) for limb in rest).rstrip("0")
        whole = low if high == "0" else high + low.zfill(14)
    places = int(words[0])
    if len(digits) < places:
        digits = digits.ljust(places, "0")
    return Decimal(f"{whole}.{digits}" if digits else whole)


def _fraction(digits: str) -> tuple[int, int, int]:
    if len(digits) <= 14:
        return int(digits.ljust(14, "0")), 0, 0
    padded = digits.ljust(42, "0")
    return int(padded[:14]), int(padded[14:28]), int(padded[28:42])


def _short(amount: Decimal) -> str:
    """Keeps hostile input out of messages."""
    text = str(amount)
    return text if len(text) <= 40 else f"{text[:40]}…"
