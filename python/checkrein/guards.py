"""One gate each, as a decorator: `@engine.rate_limit(...)`, `@engine.circuit_breaker(...)` and the others.

Each is `engine.guard` with one option. Several of them on one function are several admissions, one after the other;
`engine.tool(...)` takes them all in one, where a refusal by any leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal

from checkrein.errors import ConfigError
from checkrein.facts import Prove
from checkrein.failures import FAIL_ON_DEFAULT, FailureKind
from checkrein.spec import (
    PER_RUN,
    Breaker,
    Duration,
    Key,
    Mode,
    Once,
    Rate,
    Reconcile,
)

if TYPE_CHECKING:
    from checkrein.options import Enforced, Keeping

Codec = Literal["json"] | tuple[Callable[[Any], bytes | str], Callable[[bytes], Any]]


class GuardForms:
    """The decorators of an engine that bring one gate each."""

    if TYPE_CHECKING:
        guard: Callable[..., Any]

    def rate_limit(
        self,
        max_calls: int,
        period: Duration = "1m",
        scope: Key | None = None,
        *,
        name: str | None = None,
        tenant: Key | None = None,
        mode: Mode = "enforce",
        on_store_error: Literal["closed", "open"] = "closed",
    ) -> Keeping:
        """Admit at most `max_calls` calls in any stretch of `period`.

        scope: whom the calls are counted for: an argument's name, a path (`"user.id"`), `PER_RUN`, ...; everybody
            together without it. An argument that the function does not have is an error here.
        name: limits of one name count together, whichever function they are on.

        A call that fails counts. Raises RateLimited, with `retry_after`.
        """
        _check_parentheses("rate_limit", max_calls)
        rate = Rate(max_calls, window=period, key=scope, name=name)
        return self._form(rate=rate, tenant=tenant, mode=mode, on_store_error=on_store_error)

    def circuit_breaker(
        self,
        name: str | None = None,
        *,
        max_fails: int = 5,
        reset: Duration = "60s",
        probes: int = 1,
        probe_lease: Duration = "60s",
        key: Key | None = None,
        fail_on: Collection[FailureKind | str] = FAIL_ON_DEFAULT,
        ignore_on: Collection[FailureKind | str] | None = None,
        classify: Callable[[BaseException], str | None] | None = None,
        tenant: Key | None = None,
        mode: Mode = "enforce",
    ) -> Keeping:
        """Stop calls to a dependency after `max_fails` failures in a row.

        After `reset`, `probes` calls at a time may try; the first that succeeds closes it, one that fails opens it
        again, and so does one that is not heard of for `probe_lease`. What counts as a failure is said by
        `fail_on`, `ignore_on` and `classify`, see `Breaker`; an exception that nobody knows says nothing.

        name: the dependency. Breakers of one name are one, in all functions and in all processes of the store;
            without it the function has its own.

        Raises CircuitOpen, with `retry_after`.
        """
        _check_parentheses("circuit_breaker", name)
        breaker = Breaker(
            name,
            max_fails=max_fails,
            reset=reset,
            probes=probes,
            probe_lease=probe_lease,
            key=key,
            classify=classify,
            fail_on=fail_on,
            ignore_on=ignore_on,
        )
        return self._form(breaker=breaker, tenant=tenant, mode=mode)

    def timeout(self, seconds: Duration) -> Keeping:
        """Let a caller wait no longer than `seconds`.

        An async function is cancelled. Any other runs in a thread of its own, with the caller's context; one that
        hangs is left behind (`timeout_workers()` counts these) and hinders neither the next call nor the end of the
        process. What it does later is recorded. One that nobody had begun when the time was over never is.

        Raises TimedOut. A TimeoutError of the function itself is passed on as it is.
        """
        _check_parentheses("timeout", seconds)
        if seconds is None:
            raise ConfigError("timeout without a time", "duration", 'say how long: timeout("2s")')
        return self._form(timeout=seconds)

    def max_attempts(
        self,
        calls: int,
        *,
        key: Key | None = PER_RUN,
        name: str | None = None,
        tenant: Key | None = None,
        mode: Mode = "enforce",
    ) -> Keeping:
        """Admit at most `calls` calls in each run, whether they succeed or not, and outside of runs until a reset.

        key: whom they are counted for instead.

        Raises AttemptsExceeded.
        """
        _check_parentheses("max_attempts", calls)
        if calls is None:
            raise ConfigError("max_attempts without a number", "attempts", "say how many: max_attempts(3)")
        return self._form(attempts=calls, key=key, name=name, tenant=tenant, mode=mode)

    def idempotent(
        self,
        key: Key | Sequence[str] | Literal[True] = True,
        *,
        ttl: Duration = "1d",
        on_duplicate: Literal["return", "raise"] = "return",
        safe_errors: type[Exception] | Sequence[type[Exception]] | None = None,
        exclude: str | Sequence[str] = (),
        codec: Codec = "json",
        reconcile: Reconcile | None = None,
        key_param: str | None = None,
        per_run: bool = True,
        name: str | None = None,
        tenant: Key | None = None,
    ) -> Keeping:
        """Run each operation at most once: a repetition gets the stored result, as a copy of its own.

        key: the argument that names the operation; all arguments together without it. The same key with other
            arguments is KeyReused. A refusal by another gate or guard never uses a key up.
        ttl: how long results and keys are kept after the operation ended.
        on_duplicate: `"raise"` refuses repetitions with AlreadyDone.
        safe_errors: exceptions of the function that mean it had no effect; any other leaves the operation in doubt.
        exclude, codec, reconcile, key_param: see `Once`.
        per_run: a key is another operation in every run; `False` counts it for the whole engine.

        With a store on a disk or a server, operations outlive the process and are shared with others. Raises
        InProgress, KeyReused, InDoubt, ResultPruned or AlreadyDone.
        """
        if not isinstance(key, (str, tuple, list, type(PER_RUN))) and key is not True:
            _check_parentheses("idempotent", key)
        once = Once(
            tuple(key) if isinstance(key, list) else key,  # type: ignore[arg-type]
            exclude=exclude,
            codec=codec,
            keep_result=ttl,
            keep_key=ttl,
            reconcile=reconcile,
            key_param=key_param,
            per_run=per_run,
            on_duplicate=on_duplicate,
        )
        return self._form(once=once, safe_errors=safe_errors, name=name, tenant=tenant)

    def prove(
        self,
        kind: str,
        extract: str | Callable[[Any], Any],
        *,
        ttl: Duration = "1d",
        max_items: int = 200,
        on_too_many: Literal["block", "truncate"] = "block",
        echo: bool = False,
        exclude: str | Sequence[str] = (),
        tenant: Key | None = None,
    ) -> Keeping:
        """Record values in the results of a read as facts of the run or session, for `enforce`; see `Prove`.

        exclude: arguments that no agent chooses, such as a connection.

        Raises NotProved, which carries the result, for one with too many values or with some that cannot be facts.
        """
        _check_parentheses("prove", kind)
        proof = Prove(kind, extract, ttl, max_items, on_too_many, echo)
        return self._form(proves=proof, exclude=exclude, tenant=tenant)

    def enforce(
        self,
        rules: Enforced | Sequence[Enforced],
        *,
        tenant: Key | None = None,
        mode: Mode = "enforce",
    ) -> Keeping:
        """Admit only calls whose arguments keep all rules: `RequireFact`, `Threshold`, `BlockRegex`, your own.

        An argument that the function does not have is an error here. Raises MissingFact and RuleViolated, and
        InvalidAction for a call that needs facts outside of any run and session.
        """
        if isinstance(rules, (list, tuple)) and not rules:
            raise ConfigError(
                "enforce without rules", "rule", 'give some: [RequireFact("order_id", "order")]'
            )
        return self._form(enforce=rules, tenant=tenant, mode=mode)

    def _form(self, **options: Any) -> Keeping:
        made: Keeping = self.guard(**options)
        return made


def _check_parentheses(what: str, first: object) -> None:
    """Refuse `@engine.rate_limit` without parentheses, which would take the function for an option."""
    if callable(first) or isinstance(first, (staticmethod, classmethod)):
        hint = f"write @engine.{what}(...), with its options in parentheses"
        raise ConfigError(f"`{what}` was given a function instead of options", "decorator_order", hint)
