"""Arguments that several verbs have."""

from typing import Annotated

import tyro

Set = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE"), tyro.conf.UseAppendAction]
