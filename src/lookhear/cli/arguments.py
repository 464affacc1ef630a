"""Arguments that several verbs have."""

import math
from pathlib import Path
from typing import Annotated

import tyro

from lookhear.errors import UserError
from lookhear.media.clock import read_clock

Seconds = Annotated[
    float,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="SECONDS",
        instance_from_str=lambda texts: read_clock(texts[0]),
        is_instance=lambda value: isinstance(value, float),
        str_from_instance=lambda value: [str(value)],
    ),
]
IndexPlace = Annotated[str, tyro.conf.arg(metavar="DIR")]
Set = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE"), tyro.conf.UseAppendAction]


def kinds_of(truth: Path | None) -> dict[str, str] | None:
    """The kinds of made scenes by path; None without --truth."""
    from lookhear.media.scenes import load_truth

    return {path: scene.kind for path, scene in load_truth(truth).items()} if truth else None


def bytes_of(number: float, unit: int, option: str) -> int:
    """The bytes of `number` units. Raises UserError for what is no number."""
    if not math.isfinite(number):
        raise UserError(f"{option} is {number}, which is no size; give a number above 0")
    return int(number * unit)


def several_labels(multi_label: bool, single_label: bool) -> bool | None:
    """What --multi-label and --single-label ask for; None where neither is given."""
    if multi_label and single_label:
        raise UserError("--multi-label and --single-label contradict each other; give one of them, or neither")
    return True if multi_label else False if single_label else None
