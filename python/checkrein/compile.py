"""From the gates of a guard and the signature of its target to the description the native guard compiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from checkrein import _native
from checkrein.acting import actor
from checkrein.bind import NOTHING, Binder, Source, label_of
from checkrein.errors import ConfigError
from checkrein.facts import Prove, finder
from checkrein.outcomes import classifier
from checkrein.rules import RequireFact
from checkrein.spec import INHERITED, Breaker, Budget, Gates, Once, Rate, Window, span_ns
from checkrein.target import Target

HOUR_NS: Final = 3_600 * 10**9


@dataclass(slots=True)
class Description:
    """The parts of a native guard, in the making."""

    binder: Binder
    name: str
    observe: bool
    keys: list[Source] = field(default_factory=list)
    costs: list[tuple[str, str, Source | int]] = field(default_factory=list)
    rules: list[tuple[Any, str, str]] = field(default_factory=list)
    gates: list[dict[str, Any]] = field(default_factory=list)
    holds: list[tuple[str, int, Callable[[Any], Any] | None]] = field(default_factory=list)
    once: tuple[Any, ...] | None = None
    codec: tuple[Any, Any] | None = None
    shared: dict[str, int] = field(default_factory=dict)
    """The number of parts of the keys of gates that were named by the user."""

    def key(self, key: object, what: str) -> int:
        """The position of a key source, shared by gates that count for the same key."""
        source = NOTHING if key is None else self.binder.key(key, what)
        if source not in self.keys:
            self.keys.append(source)
        return self.keys.index(source)

    def share(self, name: str | None, key: object) -> None:
        """Note a gate that others may name too."""
        if name is not None:
            self.shared[name] = len(key) if isinstance(key, tuple) else 0 if key is None else 1

    def gate(self, kind: str, name: str, **values: Any) -> None:
        """Add a gate; a second one that would count on the records of the first is numbered."""
        taken = {(gate["kind"], gate["name"], gate.get("window"), gate.get("unit")) for gate in self.gates}
        number, unique = 1, name
        while (kind, unique, values.get("window"), values.get("unit")) in taken:
            number += 1
            unique = f"{name}#{number}"
        self.gates.append(
            {"kind": kind, "name": unique, "observe": self.observe and kind != "once", **values}
        )


def describe(
    target: Target,
    gates: Gates,
    *,
    name: str,
    key: object,
    tenant: object,
    cost: object,
    actual: Callable[[Any], Any] | None,
    observe: bool,
    raises: bool,
    safe_errors: tuple[type[Exception], ...] = (),
    on_loop: bool = False,
    ledger: str | None = None,
    opens: bool = False,
    filed: bool = False,
    exclude: tuple[str, ...] = (),
    refused: Callable[[BaseException], bool] | None = None,
) -> tuple[Description, dict[str, Any]]:
    """Describe a guard. Returns the description and what `_native.Guard` takes.

    `filed` says that a policy file has its say too: its gates read all arguments but those in `exclude`. `refused` says
    whether an exception is a refusal by another guard of the same function.

    Raises ConfigError for whatever cannot be bound to the signature.
    """
    binder = Binder(target, name)
    made = Description(binder, name, observe)
    for number, rule in enumerate(gates.rules, start=1):
        made.rules.append(binder.rule(rule, number))
        made.gate("rule", made.rules[-1][2], verdict=number - 1)
    for check in gates.checks:
        slot, path = binder.argument(check.arg, f"`{type(check).__name__}`")
        words = check.message
        asked = ("call", (check.bound(path), (slot,), (), None), words)
        made.rules.append((asked, words, words))
        made.gate("rule", words, verdict=len(made.rules) - 1)
    if gates.once is not None:
        _once(made, gates.once, target)
    if (breaker := gates.breaker) is not None:
        made.share(breaker.name, breaker.key)
        made.gate(
            "breaker",
            breaker.name or f"{name}.breaker",
            key=made.key(breaker.key, "the key of the breaker"),
            max_fails=breaker.max_fails,
            reset=span_ns("reset", breaker.reset),
            probes=breaker.probes,
            probe_lease=span_ns("probe_lease", breaker.probe_lease),
        )
    if gates.attempts is not None:
        made.gate("attempts", f"{name}.attempts", key=made.key(key, "the key"), max=gates.attempts)
    _limits(made, gates, key)
    for budget in gates.budgets:
        _budget(made, budget, key, cost, actual)
    told: tuple[Any, ...] | None = None
    keeps = ledger not in (None, "none")
    if filed:
        for argument in exclude:
            target.require(argument, "exclude")
        told = (actor, _all_arguments(made, exclude), keeps, list(exclude), _object(target, exclude))
    elif ledger is not None:
        told = (actor, _told_arguments(made, gates.once) if keeps else None, keeps, [], None)
    breaker = gates.breaker if gates.breaker is not None else Breaker()
    fail_on, ignore_on = breaker.read_kinds()
    classify = classifier(breaker.classify, safe_errors, fail_on, ignore_on, refused)
    # Before the slots are counted.
    requires, proves = _requires(made, gates.requires), _proves(made, gates.proves, exclude)
    description = {
        "tool": name,
        "tenant": None if tenant is None else binder.key(tenant, "the tenant"),
        "gates": made.gates,
        "keys": made.keys,
        "costs": made.costs,
        "rules": made.rules,
        "once": made.once,
        "told": told,
        "leases": (HOUR_NS, HOUR_NS),
        "slots": len(binder.slots),
        "copies": binder.copies,
        "raises": raises,
        "on_loop": on_loop,
        "open": opens,
        "filed": filed,
        "is_generator": target.kind in ("generator", "async_generator"),
        "requires": requires,
        "proves": proves,
        "replays": gates.once is None or gates.once.on_duplicate == "return",
        "hooks": (made.holds, classify, made.codec),
    }
    return made, description


def _requires(made: Description, requires: list[RequireFact]) -> tuple[Any, ...] | None:
    """Which arguments have to be facts of which kind."""
    if not requires:
        return None
    needs: list[tuple[int, Source, bool]] = []
    kinds: dict[str, str] = {}
    for require in requires:
        slot, path = made.binder.argument(require.arg, "`RequireFact`")
        source: Source = ("path", slot, path, require.arg) if path else ("slot", slot, require.arg)
        kinds[require.kind] = kinds.get(require.kind) or require.hint
        needs.append((list(kinds).index(require.kind), source, require.optional))
    return (needs, list(kinds.items()), actor, made.observe)


def _proves(made: Description, proves: list[Prove], exclude: tuple[str, ...]) -> tuple[Any, ...] | None:
    """What the results prove, and which arguments may say it beforehand."""
    if not proves:
        return None
    target = made.binder.target
    if target.kind in ("generator", "async_generator"):
        hint = "prove what is true of a result as a whole: return a list"
        raise ConfigError("a generator has no result that proves anything", "proves", hint)
    for name in exclude:
        target.require(name, "exclude")
    arguments = () if all(proof.echo for proof in proves) else _all_arguments(made, exclude)
    kinds = [(proof.kind, span_ns("ttl", proof.ttl), proof.echo) for proof in proves]
    return (finder(made.name, proves), kinds, actor, list(arguments))


def _limits(made: Description, gates: Gates, key: object) -> None:
    rates = list(gates.rates)
    cooldown = gates.cooldown_ns
    if not rates and cooldown:
        # A cooldown alone is a limit that nobody reaches: the window only says how long the last call is remembered.
        made.gate(
            "limit",
            f"{made.name}.cooldown{_label(key)}",
            key=made.key(key, "the key"),
            max_calls=2**32,
            window=(cooldown, None, "UTC"),
            cooldown=cooldown,
        )
    for rate in rates:
        own_key = key if rate.key is INHERITED else rate.key
        own = span_ns("cooldown", rate.cooldown) if rate.cooldown is not None else cooldown
        cooldown = 0
        made.share(rate.name, own_key)
        made.gate(
            "limit",
            rate.name or f"{made.name}.rate{_label(own_key)}",
            key=made.key(own_key, "the key of a rate"),
            max_calls=rate.max_calls,
            window=_window(rate.read_window()),
            cooldown=own,
        )


def _budget(
    made: Description, budget: Budget, key: object, cost: object, actual: Callable[[Any], Any] | None
) -> None:
    unit = _native.parse_quantity(budget.limit)[1]
    # A budget that several guards share counts for everybody unless it says for whom.
    own_key = budget.key if budget.key is not INHERITED else None if budget.name else key
    made.share(budget.name, own_key)
    name = budget.name or f"{made.name}.budget{_label(own_key)}"
    own_cost = made.binder.cost(
        cost if budget.cost is None else budget.cost, unit, f"the cost for budget `{name}`"
    )
    reads_actual = budget.actual or actual
    position = len(made.costs)
    made.costs.append((unit, name, own_cost))
    if reads_actual is not None and not callable(reads_actual):
        raise ConfigError("`actual` is no callable", "actual", "give a callable of the result")
    # In observe mode a budget that is passed over holds nothing, so that with several of them nobody could tell whose
    # hold an actual cost settles; there only the first one holds.
    holds = reads_actual is not None and not (made.observe and made.holds)
    if holds:
        made.holds.append((unit, position, reads_actual))
    made.gate(
        "budget",
        name,
        key=made.key(own_key, f"the key of budget `{name}`"),
        limit=budget.limit,
        unit=unit,
        window=_window(budget.read_window()),
        cost=position,
        holds=holds,
        hard=budget.hard,
    )


def _once(made: Description, once: Once, target: Target) -> None:
    binder = made.binder
    if target.kind in ("generator", "async_generator"):
        raise ConfigError(
            "once on a generator", "once_generator", "a generator has no result to store; guard its caller"
        )
    excluded = (once.exclude,) if isinstance(once.exclude, str) else tuple(once.exclude)
    for name in excluded:
        target.require(name, "exclude")
    covered = [name for name in target.names if name not in excluded]
    if covered and covered[0] in ("self", "cls"):
        hint = f'write exclude=("{covered[0]}",): the object has no canonical form that could be compared'
        raise ConfigError(f"once covers `{covered[0]}`", "once_self", hint)
    source = None if once.key is True else binder.key(once.key, "the once key")
    scope = once.scope or made.name
    name = once.scope or f"{made.name}.once"
    binder.copies = binder.copies or bool(covered)
    arguments = tuple((arg, binder.slot(arg)) for arg in covered)
    made.once = (source, arguments, scope, name, actor if once.per_run else None)
    made.codec = None if once.codec == "json" else once.codec
    keep = span_ns("keep_result", once.keep_result)
    made.gate("once", name, keep_result=keep, keep_key=max(keep, span_ns("keep_key", once.keep_key)))


def _told_arguments(made: Description, once: Once | None) -> tuple[tuple[str, int], ...]:
    """The arguments that the ledger is told: what the once key covers, or all but the object of a method."""
    made.binder.copies = True
    if once is not None and made.once is not None:
        covered: tuple[tuple[str, int], ...] = made.once[1]
        return covered
    return _all_arguments(made, ())


def _object(target: Target, exclude: tuple[str, ...] = ()) -> str | None:
    """The name of the object of a method, unless it is excluded."""
    first = target.names[0] if target.names else None
    return first if first in ("self", "cls") and first not in exclude else None


def _all_arguments(made: Description, exclude: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """All arguments but the object of a method and those that are excluded."""
    binder = made.binder
    binder.copies = True
    left_out = (_object(binder.target), *exclude)
    return tuple((name, binder.slot(name)) for name in binder.target.names if name not in left_out)


def _window(window: Window) -> tuple[int | None, str | None, str]:
    return (window.span_ns, window.calendar, window.tz)


def _label(key: object) -> str:
    return "" if key is None else f"[{label_of(key)}]"


__all__ = ["Description", "Rate", "describe"]
