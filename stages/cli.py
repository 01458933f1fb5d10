"""The command `sacd`: one image at a time, with a trained adapter."""

import argparse
from pathlib import Path
from typing import Any

from stages.common import run


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser(prog="sacd", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    invert = commands.add_parser(
        "invert", help="draw images whose features match those of an image"
    )
    invert.set_defaults(command=_invert)
    explain = commands.add_parser(
        "explain", help="show what an image's features fix, and what the prior fills in"
    )
    explain.set_defaults(command=_explain)
    for command in (invert, explain):
        command.add_argument("image", type=Path, metavar="IMAGE")
        command.add_argument(
            "--adapter", type=Path, required=True, metavar="DIR",
            help="a trained adapter: EXPERIMENT/adapters/BACKBONE/ADAPTER",
        )  # fmt: skip
        command.add_argument("--samples", type=int, default=4, metavar="K")
        command.add_argument("--out", type=Path, required=True, metavar="FILE")
        command.add_argument("--seed", type=int, default=0)
        for option, kind in (("--steps", int), ("--guidance", float)):
            command.add_argument(option, type=kind, help="default: as the experiment's method has")
    arguments = vars(parser.parse_args())
    command = arguments.pop("command")
    run(lambda: command(**arguments))


# torch takes seconds to import: `sacd --help` must not.


def _invert(**arguments: Any) -> None:
    from stages.invert import invert
    from stages.one_image import Request

    invert(Request(**arguments))


def _explain(**arguments: Any) -> None:
    from stages.explain import explain
    from stages.one_image import Request

    explain(Request(**arguments))


if __name__ == "__main__":
    main()
