"""If this fails, the project no longer gives the numbers that the published models gave."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from check import CHECKS, check

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def compared() -> list:
    return check(HERE)


@pytest.mark.parametrize("pattern", CHECKS)
def test_every_golden_tensor_is_met(compared: list, pattern: str) -> None:
    files = {path.name for path in HERE.rglob(pattern)}
    own = [one for one in compared if one.file in files]
    assert files
    assert {one.file for one in own} == files
    assert [one for one in own if not one.inside] == []


def test_the_script_says_what_it_found_and_fails_on_nothing(tmp_path: Path) -> None:
    script = [sys.executable, str(HERE / "check.py")]
    nothing = subprocess.run([*script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert nothing.returncode == 1
    assert "nothing to compare" in nothing.stdout
    (tmp_path / "fullsize_keys.json").write_text((HERE / "fullsize_keys.json").read_text(), encoding="utf-8")
    (tmp_path / "broken.io.safetensors").write_bytes(b"1234")
    found = subprocess.run([*script, str(tmp_path), "--json"], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    report = json.loads(found.stdout)
    assert [row["inside"] for row in report["compared"]] == [False, True, True, True, True]
