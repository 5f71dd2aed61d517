"""`python -m checkrein.demo`, and what `checkrein demo` runs."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns 0, 1 when what it wrote does not verify, 2 when something is missing."""
    parser = argparse.ArgumentParser(
        prog="checkrein demo",
        description="Watch a misbehaving agent being controlled: no key, no network.",
    )
    parser.add_argument("--no-input", action="store_true", help="never wait for a key press, as in CI")
    parser.add_argument("--fast", action="store_true", help="no pauses between the steps")
    parser.add_argument("--output", choices=("text", "json", "jsonl"), default="text", help="what to print")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="a new directory for its files")
    options = parser.parse_args(argv)

    if importlib.util.find_spec("openai") is None:
        command = f"{shlex.quote(sys.executable)} -m pip install 'checkrein[demo]'"
        print(f"error: the demo needs the package `openai`\nhint: {command}", file=sys.stderr)
        return 2
    if options.keep is not None and options.keep.exists():
        print(f"error: `{options.keep}` exists\nhint: name a directory that does not", file=sys.stderr)
        return 2

    # The model server is on this machine; a proxy of the environment must not see its requests.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    from checkrein.demo.show import Show

    show = Show(
        fast=options.fast,
        json_output=options.output != "text",
        json_lines=options.output == "jsonl",
        interactive=not options.no_input,
    )
    try:
        return show.run(options.keep)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever watched went away; the interpreter must not complain about it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
