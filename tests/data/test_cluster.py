"""The cluster's map. If these fail, a store made on a cluster is not the one that a single machine makes."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from lookhear.data.cluster import RayPool
from lookhear.data.prepare import PrepareConfig, prepare
from lookhear.errors import UserError


def fake_ray() -> types.ModuleType:
    """Ray's calls that the pool makes, answered in this process."""
    ray: Any = types.ModuleType("ray")
    ray.started = []
    ray.is_initialized = lambda: bool(ray.started)
    ray.init = lambda **options: ray.started.append(options)
    ray.get = lambda reference: reference
    ray.kill = lambda actor: None

    class Actor:
        def __init__(self, instance: Any) -> None:
            self.run = types.SimpleNamespace(remote=instance.run)

    def remote(**resources: Any) -> Any:
        return lambda kind: types.SimpleNamespace(remote=lambda *arguments: Actor(kind(*arguments)))

    ray.remote = remote
    return ray


def test_without_ray_the_user_is_told_and_nothing_is_begun(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"lookhear\[cluster\]"):
        prepare(media, tmp_path / "store", executor="ray")
    assert not (tmp_path / "store").exists()


def test_results_come_in_order_and_failures_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", fake_ray())
    with RayPool(2) as pool:
        done = list(pool.map(int, ["3", "x", *"1234567"]))
    assert [one.value for one in done] == [3, None, *range(1, 8)]
    assert "invalid literal" in str(done[1].failure)
    assert done[1].item == "x"


def test_a_store_made_through_ray_is_the_same(
    media: Path, config: PrepareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", fake_ray())
    for executor in ("processes", "ray"):
        prepare(media, tmp_path / executor, config=config, executor=executor)  # type: ignore[arg-type]
    for path in (tmp_path / "processes").iterdir():
        assert path.read_bytes() == (tmp_path / "ray" / path.name).read_bytes()
