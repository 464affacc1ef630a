"""doctor.py: findings, also when something is broken."""

import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from lookhear import doctor


def test_a_broken_package_becomes_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.importlib.import_module

    def broken(name: str) -> object:
        if name == "av":
            raise OSError("libavcodec.so.61: cannot open shared object file")
        return real(name)

    # only what the doctor sees: packages that are first imported meanwhile would keep the broken one
    monkeypatch.setattr(doctor, "importlib", SimpleNamespace(import_module=broken, metadata=doctor.importlib.metadata))
    finding = next(finding for finding in doctor.examine() if finding.name == "av")
    assert finding.verdict == "problem"
    assert "libavcodec" in finding.value
    assert "pip install" in finding.advice


def test_every_package_that_is_needed_is_looked_at() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    needed = {wanted.partition(">")[0] for wanted in tomllib.loads(text)["project"]["dependencies"]}
    assert needed <= {finding.name for finding in doctor.examine()}


def test_a_check_that_fails_does_not_end_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> list[doctor.Finding]:
        raise RuntimeError("odd machine")

    monkeypatch.setattr(doctor, "_compute", fails)
    findings = doctor.examine()
    assert any("odd machine" in finding.value for finding in findings)
    assert any(finding.name == "codecs" for finding in findings)


def test_a_full_disk_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1e6))
    disks = [finding for finding in doctor.examine(tmp_path / "not" / "there") if "free space" in finding.name]
    assert [finding.verdict for finding in disks] == ["problem", "problem"]
