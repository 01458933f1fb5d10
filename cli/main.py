"""The command `sacd`: one image at a time, with a trained adapter."""

import argparse
import math
from pathlib import Path
from typing import Any

from pipeline.program import run

# torch takes seconds to import: `sacd --help` must not.


def main() -> None:
    """Entry point of the console script."""
    arguments = vars(create_parser().parse_args())
    command = arguments.pop("command")
    run(lambda: command(**arguments))


def create_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(prog="sacd", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_invert, _add_explain, _add_steer, _add_compose, _add_learn):
        add(commands)
    return parser


def _add_invert(commands: Any) -> None:
    command = commands.add_parser(
        "invert", help="draw images whose features match those of an image"
    )
    _add_drawing(command)
    command.set_defaults(command=_invert)


def _invert(**arguments: Any) -> None:
    from cli.invert import invert
    from cli.one_image import Request

    invert(Request(**arguments))


def _add_explain(commands: Any) -> None:
    command = commands.add_parser(
        "explain", help="show what an image's features fix, and what the prior fills in"
    )
    _add_drawing(command)
    command.set_defaults(command=_explain)


def _explain(**arguments: Any) -> None:
    from cli.explain import explain
    from cli.one_image import Request

    explain(Request(**arguments))


def _add_steer(commands: Any) -> None:
    command = commands.add_parser("steer", help="move an image's features along a concept")
    _add_drawing(command)
    command.add_argument("--concept", required=True, metavar="NAME")
    command.add_argument(
        "--concepts", type=Path, metavar="FILE",
        help="where it is from; default: those that the experiment found",
    )  # fmt: skip
    command.add_argument(
        "--strengths", type=_number, nargs="+", default=[-1.0, 1.0, 2.0], metavar="A",
        help="in units of the concept's scale; 0 is always drawn",
    )  # fmt: skip
    command.add_argument(
        "--where", choices=("image", "active"), default="image",
        help="everywhere, or where the concept already is",
    )  # fmt: skip
    _add_mask(command, "image of the steered region")
    command.set_defaults(command=_steer)


def _steer(**arguments: Any) -> None:
    from cli.steer import SteerRequest, steer_image

    steer_image(SteerRequest(**arguments))


def _add_compose(commands: Any) -> None:
    command = commands.add_parser("compose", help="mix or transplant the features of two images")
    _add_drawing(command)
    command.add_argument("other", type=Path, metavar="OTHER")
    command.add_argument(
        "--weights", type=_number, nargs="+", default=[0.0, 0.25, 0.5, 0.75, 1.0], metavar="T",
        help="of the other image in the mixture",
    )  # fmt: skip
    command.add_argument("--path", choices=("line", "sphere"), default="line")
    _add_mask(command, "transplants instead: image of the region that takes the other's features")
    command.set_defaults(command=_compose)


def _compose(**arguments: Any) -> None:
    from cli.compose import ComposeRequest, compose

    compose(ComposeRequest(**arguments))


def _add_learn(commands: Any) -> None:
    command = commands.add_parser("learn", help="learn a concept from two folders of images")
    command.add_argument("name", metavar="NAME")
    command.add_argument("--positive", type=Path, required=True, metavar="DIR", help="with it")
    command.add_argument("--negative", type=Path, required=True, metavar="DIR", help="without it")
    _add_adapter(command)
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help=".safetensors")
    command.add_argument("--seed", type=_seed, default=0)
    command.set_defaults(command=_learn)


def _learn(**arguments: Any) -> None:
    from cli.learn import LearnRequest, learn

    learn(LearnRequest(**arguments))


def _add_drawing(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", type=Path, metavar="IMAGE")
    _add_adapter(command)
    command.add_argument("--samples", type=int, default=4, metavar="K")
    command.add_argument("--out", type=Path, required=True, metavar="FILE")
    command.add_argument("--seed", type=_seed, default=0)
    for option, kind in (("--steps", int), ("--guidance", _number)):
        command.add_argument(option, type=kind, help="default: as the experiment's method has")


def _add_adapter(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--adapter", type=Path, required=True, metavar="DIR",
        help="a trained adapter: EXPERIMENT/adapters/BACKBONE/ADAPTER",
    )  # fmt: skip


def _add_mask(command: argparse.ArgumentParser, meaning: str) -> None:
    command.add_argument(
        "--mask", type=Path, metavar="FILE", help=f"{meaning}: white, of the inverted square's size"
    )


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to {2**32 - 1}")
    return value


if __name__ == "__main__":
    main()
