"""One life of the agent's process in the demo: `python -m checkrein.demo.life DIRECTORY [--die]`.

It pays a refund through a bank, under the policy file of the demo and on the store of its second act. With `--die` it
kills itself after the bank has paid and before anybody knows: between the intent and the outcome.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import checkrein
from checkrein.demo.place import AGENT, RUN, open_engine
from checkrein.demo.policy import FILE
from checkrein.demo.tools import dollars

PAYMENT, CENTS = "pay_2092", 4900
BANK = "bank.sqlite"


class Bank:
    """A bank that takes transfers with a key of the caller's, and can be asked about them."""

    def __init__(self, directory: Path) -> None:
        """Keep its books in `directory`."""
        self.books = directory / BANK
        with self._open() as books:
            books.execute("CREATE TABLE IF NOT EXISTS transfers (key TEXT, payment TEXT, amount TEXT)")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.books)) as connection, connection:
            yield connection

    def transfer(self, key: str, payment: str, amount: str) -> dict[str, str]:
        """Move money. Nothing here would stop a second transfer."""
        with self._open() as books:
            books.execute("INSERT INTO transfers VALUES (?, ?, ?)", (key, payment, amount))
        return {"payment": payment, "amount": amount}

    def find(self, key: str) -> dict[str, str] | None:
        """Look a transfer up by the key it was sent with."""
        with self._open() as books:
            row = books.execute("SELECT payment, amount FROM transfers WHERE key = ?", (key,)).fetchone()
        return None if row is None else {"payment": row[0], "amount": row[1]}

    def transfers(self) -> list[tuple[str, str]]:
        """Every transfer that really took place: (payment, amount)."""
        with self._open() as books:
            return list(books.execute("SELECT payment, amount FROM transfers ORDER BY rowid"))


def tell(**event: object) -> None:
    """Tell whoever started us, at once: there may be no later."""
    print(json.dumps(event), flush=True)


def live(directory: Path, *, die: bool) -> None:
    """Open the engine, say what is in doubt, and refund."""
    bank = Bank(directory)
    engine = open_engine(directory, directory / FILE)

    def look_up(operation: checkrein.Operation) -> checkrein.Done | type[checkrein.NotExecuted]:
        found = bank.find(operation.idempotency_key)
        tell(event="looked_up", found=found, idempotency_key=operation.idempotency_key)
        return checkrein.NotExecuted if found is None else checkrein.Done(found)

    @engine.guard(
        name="transfer",
        once=checkrein.Once("payment_id", key_param="key"),
        reconcile=look_up,
    )
    def transfer(payment_id: str, cents: int, key: str = "") -> dict[str, str]:
        """Give back an amount of one payment through the bank."""
        paid = bank.transfer(key, payment_id, dollars(cents))
        tell(event="paid", **paid)
        if die:
            os.kill(os.getpid(), signal.SIGKILL)
        return paid

    doubts = [{"gate": doubt.gate, "key": doubt.key, "state": doubt.state} for doubt in engine.in_doubt()]
    tell(event="started", in_doubt=doubts, spent=_refunded(engine))
    engine.add_listener(_heard)
    with checkrein.acting(agent=AGENT, run=RUN):
        tell(event="result", result=transfer(PAYMENT, CENTS))
    tell(event="ended", spent=_refunded(engine))


def _refunded(engine: checkrein.Engine) -> str:
    """What the budget of refunds has counted."""
    return next((row["spent"] for row in engine.list() if row["gate"] == "refunds"), "0")


def _heard(event: checkrein.Event) -> None:
    if event.decision is not None:
        tell(event="decision", decision=event.decision.to_dict())
    elif event.kind == "threshold":
        tell(event="threshold", budget=event.gate, percent=event.percent)


if __name__ == "__main__":
    live(Path(sys.argv[1]), die="--die" in sys.argv[2:])
