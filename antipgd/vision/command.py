"""The command line of ``antipgd.vision.train``, from its typed settings."""

import argparse
from dataclasses import dataclass
from typing import Annotated

import tyro

from antipgd.vision.settings import PRESETS, Settings
from antipgd.vision.train import Machine


@dataclass(frozen=True)
class Preset:
    """Where the settings start from; what else is given changes them."""

    preset: str
    """fig2, fig6: the paper's, on all images. fig2-small, fig6-small: for a CPU. tiny: seconds, to try the program."""


def parsed(arguments=None):
    """Settings and machine from the words of a command line. Ends the program, with a message, for what is not right."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=PRESETS, default="fig2")
    name = first.parse_known_args(arguments)[0].preset
    flat = tyro.conf.OmitArgPrefixes

    def command(
        preset: Preset = Preset(name),
        settings: Annotated[Settings, flat] = PRESETS[name],
        machine: Annotated[Machine, flat] = Machine(),
    ):
        return settings, machine

    try:
        return tyro.cli(command, args=arguments, config=(flat,), prog="python -m antipgd.vision.train")
    except ValueError as error:
        raise SystemExit(str(error)) from None
