"""Holds of code that is no function call: taken from a budget or a run, settled or charged in full."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from checkrein import _native, events, loops, spec
from checkrein.compile import describe
from checkrein.errors import ConfigError, NotExecuted, PermitError
from checkrein.target import inspect_target

if TYPE_CHECKING:
    from checkrein.engine import Engine
    from checkrein.spec import Quantity


class BudgetHandle:
    """A budget of an engine; guards that name it share it."""

    def __init__(self, engine: Engine, budget: str | spec.Budget, *, keyed: bool, name: str | None) -> None:
        read = spec.read_budget(budget)
        if read.cost is not None or read.actual is not None:
            raise ConfigError(
                "a budget of holds has no cost of its own", "budget", "every hold says its amount"
            )
        if read.key is not spec.INHERITED and read.key is not None:
            raise ConfigError(
                "a budget of holds has no arguments to take a key from", "budget", "use key=True"
            )
        own = name or read.name
        if own is None and engine._waits:
            hint = 'its records outlive the process: engine.budget(..., name="team")'
            raise ConfigError("a budget of holds on a store needs a name", "name", hint)
        self.name = engine._claim(own, "budget")
        self.keyed = keyed
        shared = spec.Budget(
            read.limit,
            window=read.window,
            calendar=read.calendar,
            tz=read.tz,
            hard=read.hard,
            name=self.name,
            key="key" if keyed else None,
        )
        if engine._has_budget(self.name):
            hint = "take it in a tool of the file, or give this budget another name"
            raise ConfigError(f"the policy file has a budget `{self.name}` too", "policy_contradiction", hint)
        made, description = describe(
            inspect_target(_call if keyed else _call_unkeyed),
            spec.Gates(budgets=[shared]),
            name=self.name,
            key=None,
            tenant=None,
            cost=_amount,
            actual=_full,
            observe=False,
            raises=True,
        )
        self._slots = tuple(made.binder.slots)
        self._guard = _native.Guard(engine, description)
        self._admit = self._guard._admitter()
        self._admit_later = loops.admitter(self._guard) if engine._waits else None

    def hold(self, amount: Quantity, *, key: object = None) -> Hold:
        """Prepare a hold of at most `amount`; it is taken when the `with` block begins.

        Inside, `hold.settle(actual)` charges what it really cost. A block that ends without it, by an exception or a
        cancellation too, is charged in full, because nobody knows; only `NotExecuted` gives the hold back.
        """
        return Hold(self._admit, self._values(amount, key), self._admit_later)

    def status(self, *, key: object = None) -> _native.MeterStatus:
        """Return where the budget stands."""
        return self._guard.peek(*self._values(0, key)).meters[0]

    def _values(self, amount: object, key: object) -> tuple[Any, ...]:
        if (key is not None) != self.keyed:
            hint = "make the budget with key=True" if key is not None else "say whom the hold counts for"
            raise ConfigError(f"budget `{self.name}` is {'' if self.keyed else 'not '}keyed", "key", hint)
        values = {"amount": amount, "key": key}
        return tuple(values[name] for name in self._slots)

    def __repr__(self) -> str:
        return f"<checkrein budget `{self.name}`>"


class Hold:
    """An amount held from a budget, as a context manager for `with` and `async with`."""

    def __init__(self, admit: Any, values: tuple[Any, ...], admit_later: Any = None) -> None:
        self._admit = admit
        self._admit_later = admit_later
        self._values = values
        self._permit: _native.Permit | None = None
        self._settled = False

    def settle(self, actual: Quantity) -> None:
        """Charge what the work really cost and give the rest back.

        Raises PermitError if the hold is not open, ConfigError (and leaves it open) for an amount that is none.
        """
        self._open().settle(actual)
        self._settled = True

    def release(self) -> None:
        """Give everything back: the work provably did not happen."""
        self._open().release()
        self._settled = True

    def _open(self) -> _native.Permit:
        if self._permit is None or self._settled:
            raise PermitError("the hold is not open (hint: settle it once, inside its `with` block)")
        return self._permit

    def __enter__(self) -> Hold:
        self._check_new()
        self._permit = self._admit(*self._values)
        return self

    def _check_new(self) -> None:
        if self._permit is not None:
            raise PermitError("the hold was taken before (hint: call budget.hold(...) again)")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._settled or self._permit is None:
            return
        self._settled = True
        if isinstance(error, NotExecuted):
            self._permit.release()
        else:
            self._permit.settle()

    async def __aenter__(self) -> Hold:
        if self._admit_later is None:
            return self.__enter__()
        self._check_new()
        self._permit = await self._admit_later(*self._values)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._admit_later is None or self._settled:
            self.__exit__(kind, error, trace)
            return
        # Whoever awaits has asyncio already; nobody else pays for importing it.
        import asyncio

        await asyncio.to_thread(self.__exit__, kind, error, trace)


def _call(amount: object, key: object) -> None:
    """The shape of a keyed hold, for the binder."""


def _call_unkeyed(amount: object) -> None:
    """The shape of a hold, for the binder."""


def _amount(amount: object) -> object:
    return amount


def _full(result: object) -> object:
    """Never asked: holds are settled by their own methods."""
    return result


class ScopeHold:
    """Amounts that were taken and not yet settled; as a `with` block, charged in full when nobody settles them."""

    def __init__(self, permit: _native.ScopePermit, engine: Engine, name: str) -> None:
        self._permit = permit
        self._engine = engine
        self._name = name
        self.ended = False

    def settle(self, actual: Mapping[str, Quantity]) -> None:
        """Charge what was really spent, by unit; a unit that is left out is charged as it was held."""
        self._permit.settle(dict(actual))
        self.ended = True
        if self._engine._listening:
            self._tell("hold.settled", exact=True, charged=events.charged(self._name, actual))

    def settle_in_full(self) -> None:
        """Charge everything that was held."""
        self._permit.settle_in_full()
        self.ended = True
        self._tell("hold.settled", exact=False)

    def release(self) -> None:
        """Give everything back: nothing was spent."""
        self._permit.release()
        self.ended = True
        self._tell("hold.released")

    def doubt(self) -> None:
        """Nobody knows: it stays held for an hour, and is charged then unless it is settled before."""
        self._permit.doubt()
        self.ended = True
        self._tell("hold.in_doubt")

    def abandon(self) -> bool:
        """Charge everything that was held, without waiting for the store; `False` when it was settled before."""
        self.ended = True
        return self._permit.abandon()

    def _tell(self, name: str, **detail: Any) -> None:
        """Announce what became of it."""
        if self._engine._listening:
            self._engine._emit(name, self._name, detail, who={"call": events.number_of(self)})

    async def asettle(self, actual: Mapping[str, Quantity]) -> None:
        """Do the same as `settle` without blocking the event loop."""
        await self._later(self.settle, actual)

    async def asettle_in_full(self) -> None:
        """Do the same as `settle_in_full` without blocking the event loop."""
        await self._later(self.settle_in_full)

    async def arelease(self) -> None:
        """Do the same as `release` without blocking the event loop."""
        await self._later(self.release)

    async def adoubt(self) -> None:
        """Do the same as `doubt` without blocking the event loop."""
        await self._later(self.doubt)

    async def _later(self, end: Any, *args: Any) -> None:
        if not self._engine._waits:
            end(*args)
            return
        import asyncio

        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(end, *args)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ended:
            return
        if isinstance(error, NotExecuted):
            self.release()
        else:
            self.settle_in_full()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._later(self.__exit__, kind, error, trace)

    def __repr__(self) -> str:
        return f"<checkrein hold `{self._name}`, {'ended' if self.ended else 'held'}>"
