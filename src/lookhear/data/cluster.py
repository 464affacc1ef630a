"""`prepare` on a Ray cluster: the same map as `media.workers.LimitedPool`, over the machines of the cluster.

Ray is the extra `cluster`. Every machine must see the source and the store under the same paths.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lookhear.errors import UserError
from lookhear.media.workers import Done, LimitedPool


class RayPool:
    """`num_workers` Ray actors, each with one limited child process on its machine. A context manager.

    Uses the cluster that RAY_ADDRESS names, or one on this machine. Raises UserError if Ray is not installed.
    """

    def __init__(self, num_workers: int, *, time_limit_seconds: float = 120.0, memory_limit_bytes: int = 2 << 30):
        self._ray = ray = _import_ray()
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False)
        actor = ray.remote(num_cpus=1)(_LimitedActor)
        self._actors = [actor.remote(time_limit_seconds, memory_limit_bytes) for _ in range(max(1, num_workers))]

    def __enter__(self) -> "RayPool":
        return self

    def __exit__(self, *exception: object) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Done]:
        """`Done` for every item, in order, with a few items under way per actor. See `LimitedPool.map`."""
        pending: deque[tuple[Any, Any]] = deque()
        for number, item in enumerate(items):
            actor = self._actors[number % len(self._actors)]
            pending.append((item, actor.run.remote(function, item)))
            if len(pending) >= 3 * len(self._actors):
                yield self._wait(*pending.popleft())
        while pending:
            yield self._wait(*pending.popleft())

    def _wait(self, item: Any, reference: Any) -> Done:
        done: Done = self._ray.get(reference)  # an actor that dies is no item's fault: the error ends the run
        return Done(item=item, value=done.value, failure=done.failure, details=done.details, seconds=done.seconds)


def check_ray() -> None:
    """Raises UserError if Ray is not installed."""
    _import_ray()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError(
            "executor 'ray' needs Ray, which is not installed; run `pip install 'lookhear[cluster]'`"
        ) from None
    return ray


class _LimitedActor:
    """Lives on some machine of the cluster and owns one limited child there."""

    def __init__(self, time_limit_seconds: float, memory_limit_bytes: int):
        self._pool = LimitedPool(1, time_limit_seconds=time_limit_seconds, memory_limit_bytes=memory_limit_bytes)

    def run(self, function: Callable[[Any], Any], item: Any) -> Done:
        return next(iter(self._pool.map(function, [item])))
