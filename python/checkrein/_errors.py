"""Errors that drop-in modules raise beyond those of the packages they stand in for."""

from __future__ import annotations


class UnreadableRecord(ValueError):
    """What a key of a store holds is no record of ours; nothing was changed. `.code` is `store_corrupt`."""

    code = "store_corrupt"
