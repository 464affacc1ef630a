"""Which checkpoint of a run was best, by a number that was measured on a validation split."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lookhear.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best step so far."""

    step: int
    metric: str
    """evaluator and number, such as validation.mean_average_precision; higher is better"""
    value: float


def check_choice(metric: str | None, evaluators: Iterable[str]) -> None:
    """Raises ConfigError where `metric` comes from none of `evaluators`: said before the first epoch, not after it."""
    names = sorted(evaluators)
    if metric is not None and metric.partition(".")[0] not in names:
        known = ", ".join(f"{name}.NUMBER" for name in names) or "nothing; name data.validation_split"
        raise ConfigError(f"select is '{metric}', but what is measured as the run goes is: {known}")


def better_of(best: Best | None, metric: str, evaluation: Mapping[str, Any], *, step: int) -> Best | None:
    """`best`, or `step` if the number `metric` of its `evaluation` is higher; the earlier of two equal ones.

    `evaluation` is what the evaluators found: numbers by name, by evaluator. A number that is NaN is never best.
    Raises ConfigError, with what there is, where `metric` is not among them.
    """
    numbers = {f"{name}.{key}": value for name, found in evaluation.items() for key, value in found.items()}
    if metric not in numbers:
        raise ConfigError(f"select is '{metric}', which no evaluation gives; there is: {', '.join(numbers) or 'none'}")
    value = float(numbers[metric])
    if value > (float("-inf") if best is None else best.value):
        return Best(step=step, metric=metric, value=value)
    return best
