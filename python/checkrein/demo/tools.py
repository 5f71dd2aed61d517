"""The tools of the demo: plain functions with real effects, on files of this machine only."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path

PAYMENTS = (
    ("pay_2092", "K-1027", "49.00"),
    ("pay_2093", "K-1027", "49.00"),
    ("pay_2177", "K-1031", "480.00"),
)


def dollars(cents: int) -> str:
    """Write an amount of cents in dollars, as the database has them."""
    return f"{cents // 100}.{cents % 100:02}"


class Shop:
    """A shop's back office: documents to search, a database of payments and refunds, a mail spool."""

    def __init__(self, directory: Path) -> None:
        """Create the database and the spool in `directory`, which must exist."""
        self.database = directory / "shop.sqlite"
        self.spool = directory / "spool"
        self.spool.mkdir()
        with self._connect() as connection:
            connection.execute("CREATE TABLE payments (id TEXT PRIMARY KEY, customer TEXT, amount TEXT)")
            # No uniqueness here on purpose: nothing in the database would stop a second refund.
            connection.execute("CREATE TABLE refunds (payment TEXT, amount TEXT)")
            connection.executemany("INSERT INTO payments VALUES (?, ?, ?)", PAYMENTS)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """Open the database, commit at the end, roll back on an error, and close it."""
        with closing(sqlite3.connect(self.database)) as connection, connection:
            yield connection

    def search(self, query: str) -> list[str]:
        """Search the shop's documents; returns the lines that share most words with the query."""
        words = set(re.findall(r"\w{3,}", query.lower()))
        found: list[tuple[int, str]] = []
        for document in sorted(resources.files(__package__).joinpath("documents").iterdir(), key=str):
            title, *lines = document.read_text(encoding="utf-8").splitlines()
            for line in filter(None, lines):
                shared = len(words & set(re.findall(r"\w{3,}", line.lower())))
                if shared:
                    found.append((shared, f"{title.lstrip('# ')}: {line}"))
        found.sort(key=lambda hit: -hit[0])
        return [line for _, line in found[:3]]

    def refund(self, payment_id: str, cents: int) -> dict[str, str]:
        """Give back so many US cents of one payment."""
        with self._connect() as connection:
            row = connection.execute("SELECT customer FROM payments WHERE id = ?", (payment_id,)).fetchone()
            if row is None:
                raise ValueError(f"no payment `{payment_id}`")
            paid = dollars(cents)
            number = connection.execute("SELECT count(*) FROM refunds").fetchone()[0] + 1
            connection.execute("INSERT INTO refunds (payment, amount) VALUES (?, ?)", (payment_id, paid))
        return {"refund": f"re_{number:04d}", "payment": payment_id, "amount": paid, "customer": row[0]}

    def send_mail(self, to: str, subject: str, body: str) -> str:
        """Send one mail; returns its number in the spool."""
        number = len(list(self.spool.iterdir())) + 1
        path = self.spool / f"{number:04d}.eml"
        path.write_text(f"To: {to}\nSubject: {subject}\n\n{body}\n", encoding="utf-8")
        return f"queued as {path.name}"

    def refunds(self) -> list[tuple[str, str]]:
        """Every refund that really took place: (payment, amount)."""
        with self._connect() as connection:
            return list(connection.execute("SELECT payment, amount FROM refunds ORDER BY rowid"))

    def mails(self) -> list[str]:
        """Receivers of every mail that was really sent."""
        return [
            path.read_text(encoding="utf-8").splitlines()[0].removeprefix("To: ")
            for path in sorted(self.spool.iterdir())
        ]
