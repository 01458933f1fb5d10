"""The command `sacd`: one image at a time, with a trained adapter."""

import argparse
from pathlib import Path

from stages.common import run


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser(prog="sacd", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    invert = commands.add_parser(
        "invert", help="draw images whose features match those of an image"
    )
    invert.add_argument("image", type=Path, metavar="IMAGE")
    invert.add_argument(
        "--adapter", type=Path, required=True, metavar="DIR",
        help="a trained adapter: EXPERIMENT/adapters/BACKBONE/ADAPTER",
    )  # fmt: skip
    invert.add_argument("--samples", type=int, default=4, metavar="K")
    invert.add_argument("--out", type=Path, required=True, metavar="FILE")
    invert.add_argument("--seed", type=int, default=0)
    invert.add_argument("--steps", type=int, default=20)
    invert.add_argument("--guidance", type=float, default=5.0)
    invert.set_defaults(command=_invert)
    arguments = parser.parse_args()
    run(lambda: arguments.command(arguments))


def _invert(arguments: argparse.Namespace) -> None:
    from stages.invert import invert  # torch takes seconds to import: `sacd --help` must not

    invert(
        arguments.image, arguments.adapter, arguments.samples, arguments.out,
        arguments.seed, arguments.steps, arguments.guidance,
    )  # fmt: skip


if __name__ == "__main__":
    main()
