"""`engine.guard(...)`: reads the gates, compiles them, and puts one native call before a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Signature
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeVar

from checkrein import _native, current, deadline, loops, spec, stacking, wait
from checkrein.compile import Description, describe
from checkrein.errors import ConfigError
from checkrein.facts import read_proves
from checkrein.failures import FailureKind
from checkrein.reconcile import Reconciler
from checkrein.rules import read_enforce
from checkrein.target import Target, inspect_target
from checkrein.wrapping import Shape, wrapper

if TYPE_CHECKING:
    from checkrein._native import Decision
    from checkrein.engine import Engine

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["Handle", "handle", "make_guard"]


class Handle:
    """What a guarded function carries as its attribute `checkrein`."""

    def __init__(
        self,
        engine: Engine,
        guard: _native.Guard,
        target: Target,
        slots: Sequence[str],
        bound_to: tuple[object, ...] = (),
        reconciler: Reconciler | None = None,
        code: CodeType | None = None,
        filed: bool = False,
    ) -> None:
        self.engine = engine
        self.guard = guard
        self._target = target
        self._slots = tuple(slots)
        self._bound_to = bound_to
        self._reconciler = reconciler
        # Of the wrapper that it belongs to, and whether a policy file has its say in it.
        self._code = code
        self._filed = filed

    @property
    def name(self) -> str:
        """The name of the guard, which the names of its gates begin with."""
        return self.guard.tool

    @property
    def policy(self) -> tuple[tuple[str, str], ...]:
        """The kinds and names of its gates, in the order of their reasons."""
        return tuple(self.guard.gates)

    def peek(self, /, *args: Any, **kwargs: Any) -> Decision:
        """Decide a call without taking anything; `Decision.meters` says where the meters stand."""
        bound = _bind(self._target, (*self._bound_to, *args), kwargs)
        return self.guard.peek(*(bound[name] for name in self._slots))

    def reset(self, key: object = None, *, tenant: str | None = None) -> int:
        """Forget what the gates of this guard spent, for one key or for all; returns how many records it were."""
        own = [gate for kind, gate in self.policy if kind != "once" and gate.startswith(f"{self.name}.")]
        return sum(self.engine._reset(gate, key, tenant, exact=True) for gate in own)

    def __repr__(self) -> str:
        return f"<checkrein guard `{self.name}`: {', '.join(name for _, name in self.policy) or 'no gates'}>"


def handle(function: object) -> Handle:
    """Return the handle of a guarded function or method.

    Raises ConfigError if the function is not guarded.
    """
    found = getattr(function, "checkrein", None)
    if isinstance(found, Handle):
        owner = getattr(function, "__self__", None)
        if owner is None:
            return found
        return Handle(found.engine, found.guard, found._target, found._slots, (owner,), found._reconciler)
    raise ConfigError("the function is not guarded", "target", "put @engine.guard(...) above it")


def make_guard(engine: Engine, options: dict[str, Any]) -> Callable[[F], F]:
    """Make the decorator for the options of `Engine.guard`."""
    gates = _read_gates(options, filed=engine._policy_name is not None)
    on_block, deadline_s = _read_waiting(options)
    safe_errors = spec.read_safe_errors(options["safe_errors"])
    # Without a once key of its own the hook answers for the one that the policy file gives its tool.
    reconcile = options["reconcile"] if gates.once is None else gates.once.reconcile
    if reconcile is not None:
        spec.Once("key", reconcile=reconcile)
    timeout_ns = None if options["timeout"] is None else spec.span_ns("timeout", options["timeout"], least=1)
    if options["mode"] not in ("enforce", "observe"):
        raise ConfigError(
            "mode is neither `enforce` nor `observe`", "mode", 'use mode="enforce" or mode="observe"'
        )

    has_file = engine._policy_name is not None
    fails = gates.breaker is None or FailureKind.TIMEOUT in gates.breaker.read_kinds()[0]
    excluded = (options["exclude"],) if isinstance(options["exclude"], str) else tuple(options["exclude"])

    def decorate(function: F) -> F:
        target = inspect_target(function)
        if gates.once is not None and gates.once.key_param is not None:
            target = target.inject(gates.once.key_param)
        below = stacking.handles_below(function)
        # Of several guards of one function the innermost brings the policy file's gates: they count once.
        filed = has_file and not any(handle.engine is engine and handle._filed for handle in below)

        def described(name: str) -> tuple[Description, dict[str, Any]]:
            return describe(
                target,
                gates,
                name=name,
                key=options["key"],
                tenant=options["tenant"],
                cost=options["cost"],
                actual=options["actual"],
                observe=options["mode"] == "observe",
                raises=on_block == "raise" and reconcile is None,
                safe_errors=safe_errors,
                on_loop=target.kind in ("async", "async_generator"),
                ledger=engine._ledger_arguments if engine._keeps_ledger else None,
                opens=options["on_store_error"] == "open",
                filed=filed,
                exclude=excluded,
                refused=stacking.refusals_of(below),
            )

        if options["name"] is None and any(handle.engine is engine for handle in below):
            name, (made, description) = stacking.name_above(engine, below, described)
        else:
            owner = f"{target.module}.{target.qualname}"
            name = engine._claim(options["name"], target.name, owner)
            made, description = described(name)
        _check_opening(options, made.gates)
        for gate, parts in made.shared.items():
            engine._claim_key(gate, parts)
        engine._warn_once_of_other_processes()
        guard = _native.Guard(engine, description)
        if filed and not engine._covers(name):
            engine._warn(name, "no section of the policy file covers it")
        is_generator = target.kind in ("generator", "async_generator")
        if is_generator and on_block == "result":
            raise ConfigError(
                "a generator cannot return a decision", "on_block", 'use on_block="raise" or "wait"'
            )
        if is_generator and timeout_ns is not None:
            raise ConfigError("a generator has no timeout", "timeout", "bound the work of its consumer")
        is_async = target.kind in ("async", "async_generator")
        asks_later = is_async and engine._waits
        # Whether there is a once key or a timeout is up to the file, which may be replaced at any time.
        may_be_once = gates.once is not None or (filed and not is_generator)
        is_timed = timeout_ns is not None or (filed and not is_generator)
        shape = Shape(
            slots=tuple(made.binder.slots),
            copies=made.binder.copies and bool(made.binder.slots),
            settles=guard.settles,
            once=may_be_once,
            returns_refusals=on_block == "result",
            waits=is_async and (on_block == "wait" or reconcile is not None or engine._waits),
            ends_later=asks_later,
            timed=is_timed,
        )
        admit: Callable[..., Any] = loops.admitter(guard) if asks_later else guard._admitter()
        reconciler = None
        if reconcile is not None:
            reconciler = Reconciler(engine, guard, reconcile)
            for kind, gate in guard.gates:
                if kind == "once":
                    engine._reconcilers[gate] = reconciler
            admit = reconciler.admitter(
                admit, is_async=is_async, raises=on_block == "raise", asks_later=asks_later
            )
        if on_block == "wait":
            later = asks_later or (is_async and reconcile is not None)
            admit = wait.admitter(engine, admit, deadline_s, is_async=is_async, asks_async=later)
        handles: dict[str, Any] = {
            "admit": admit,
            "enter": current.enter_if_once if filed else current.enter,
            "leave": current.leave_if_once if filed else current.leave,
            "done": loops.done,
        }
        own = None if timeout_ns is None else timeout_ns / 1e9
        timing: dict[str, Any] = {"is_async": target.kind == "async", "fails": fails, "tell": engine._emit}
        if filed and is_timed:
            handles["timed"] = deadline.timed_by_file(name, own, **timing)
        elif own is not None:
            handles["timed"] = deadline.timed(name, own, **timing)
        call = wrapper(target, shape, handles, name)
        call.checkrein = Handle(  # type: ignore[attr-defined]
            engine,
            guard,
            target,
            shape.slots,
            reconciler=reconciler,
            code=call.__code__,
            filed=filed,
        )
        engine._made(call)
        return call  # type: ignore[return-value]

    return decorate


def _check_opening(options: dict[str, Any], gates: list[dict[str, Any]]) -> None:
    """Check that only a single rate limit lets calls through when the store is gone."""
    if options["on_store_error"] not in ("closed", "open"):
        raise ConfigError(
            "on_store_error is neither `closed` nor `open`", "on_store_error", 'leave it out: "closed"'
        )
    if options["on_store_error"] == "open" and [gate["kind"] for gate in gates] != ["limit"]:
        hint = "budgets, once, attempts and breakers must hold when the store is gone; give the rate a guard of its own"
        raise ConfigError("only a single rate limit may fail open", "on_store_error", hint)


def _read_gates(options: dict[str, Any], *, filed: bool) -> spec.Gates:
    attempts = options["attempts"]
    if attempts is not None:
        spec._whole("attempts", attempts, least=1)
    if options["budget"] is None and (options["cost"] is not None or options["actual"] is not None):
        raise ConfigError("a cost without a budget", "cost", 'say what it is taken from: budget="50 usd/day"')
    exclude = options["exclude"]
    exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    once = options["once"]
    proves = read_proves(options["proves"])
    if exclude and once in (None, False) and not filed and not proves:
        raise ConfigError("exclude without once", "exclude", "it names arguments that a once key leaves out")
    if options["reconcile"] is not None and once in (None, False) and not filed:
        raise ConfigError("reconcile without once", "reconcile", "it answers for once keys in doubt")
    requires, checks, rules = read_enforce(options["enforce"], options["facts"])
    return spec.Gates(
        rates=spec.several("rate", options["rate"], spec.read_rate),
        budgets=spec.several("budget", options["budget"], spec.read_budget),
        rules=spec.several("rules", options["rules"], spec.read_rule) + rules,
        requires=requires,
        checks=checks,
        proves=proves,
        cooldown_ns=0 if options["cooldown"] is None else spec.span_ns("cooldown", options["cooldown"]),
        attempts=attempts,
        once=None if once in (None, False) else spec.read_once(once, exclude, options["reconcile"]),
        breaker=None if options["breaker"] is None else spec.read_breaker(options["breaker"]),
    )


def _read_waiting(options: dict[str, Any]) -> tuple[str, float]:
    on_block, deadline_s = options["on_block"], options["deadline"]
    if on_block not in ("raise", "result", "wait"):
        raise ConfigError("on_block is none of `raise`, `result`, `wait`", "on_block", 'use on_block="raise"')
    if on_block == "wait" and deadline_s is None:
        raise ConfigError("waiting without a deadline", "deadline", 'say how long: deadline="30s"')
    if on_block != "wait" and deadline_s is not None:
        raise ConfigError(
            "a deadline without waiting", "deadline", 'use on_block="wait", or timeout= for the call'
        )
    return on_block, 0.0 if deadline_s is None else spec.span_ns("deadline", deadline_s) / 1e9


def _bind(target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Bind arguments as the call would; what is left out gets its default."""
    bound = Signature(target.parameters).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments
