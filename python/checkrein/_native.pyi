"""Types of the extension module; `mypy.stubtest` compares them with what it really exports."""

__version__: str
