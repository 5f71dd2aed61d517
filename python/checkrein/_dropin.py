"""What the drop-in modules share on the Python side: native classes that present themselves as dataclasses."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

_C = TypeVar("_C")


def native(implementation: type) -> Callable[[type[_C]], type[_C]]:
    """Class decorator: the native class takes the place of the dataclass that describes it.

    The dataclass stays the single description of fields and defaults; `dataclasses.fields`, `replace`, `asdict` and
    `match` work on the native class as they would on it.
    """

    def swap(described: type[_C]) -> type[_C]:
        fields = dataclasses.fields(described)  # type: ignore[arg-type]
        attributes: dict[str, Any] = {
            "__dataclass_fields__": described.__dict__["__dataclass_fields__"],
            "__dataclass_params__": described.__dict__["__dataclass_params__"],
            "__match_args__": tuple(field.name for field in fields),
            "__annotations__": inspect.get_annotations(described),
            "__slots__": tuple(field.name for field in fields),
            "__doc__": described.__doc__,
            "__signature__": inspect.signature(described),
        }
        if hasattr(dataclasses, "_replace"):
            attributes["__replace__"] = dataclasses._replace
        for name, value in attributes.items():
            setattr(implementation, name, value)
        return implementation

    return swap


def chosen(candidate: Any, method: str) -> Any:
    """The object given for a role, or None: a store that is empty and therefore falsy still counts as given."""
    if candidate is None:
        return None
    return candidate if hasattr(candidate, method) or candidate else None


def unchanged(instance: Any, reference: type, *methods: str) -> bool:
    """Whether `instance` uses the reference class's own methods, so that native code may act in their place."""
    return isinstance(instance, reference) and all(
        getattr(type(instance), name) is getattr(reference, name) for name in methods
    )
