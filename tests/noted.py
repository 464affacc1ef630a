"""Trials that train nothing. They import little, as every process that runs one does so anew."""

import dataclasses
from pathlib import Path
from typing import Any

from lookhear.errors import UserError
from lookhear.study.trials import Outcome


def outcome(row: str, seed: int, *, window: float | None = None, **figures: float) -> Outcome:
    return Outcome(
        row=row,
        data="scenes",
        seed=seed,
        steps=7,
        encoder_parameters=1000,
        gigaflops=1.5,
        train_seconds=2.0,
        judge_seconds=1.0,
        figures=figures,
        context={"chance of R@1": 0.25},
        window_megaflops=window,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noted:
    """A trial that trains nothing: it sees that those it needs are done, and notes that it was."""

    row: str
    needs: tuple[str, ...] = ()
    fails: bool = False
    data: str = "notes"
    seed: int = 0

    def about(self) -> dict[str, Any]:
        return {"needs": list(self.needs)}

    def run_in(self, out: Path) -> Outcome:
        missing = [need for need in self.needs if not (out / "results" / f"{need}.json").exists()]
        assert not missing, missing
        if self.fails:
            raise UserError("it broke")
        with (out / "order.txt").open("a") as file:
            file.write(f"{self.row}\n")
        return dataclasses.replace(outcome(self.row, self.seed), data=self.data)
