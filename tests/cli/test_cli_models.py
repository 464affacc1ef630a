"""The verb `models`: what it prints, where, and with which exit code."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lookhear import cli
from lookhear.models import fetch as download
from lookhear.models.weights import WEIGHTS, file_of
from tiny_embedder import save_tiny

PUBLISHED = Path(__file__).parent.parent / "golden" / "tiny" / "sync_released_flags.pth"
HEADS = ("--set", "heads=2", "--set", "decoder_heads=2")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        code = cli.main(["models", *map(str, words)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_list_names_every_file_with_its_licence(run: Run) -> None:
    code, text, _ = run("list")
    rows = [line.split("\t") for line in text.splitlines()]
    assert code == 0
    assert rows[0][:2] == ["name", "kind"]
    assert [row[0] for row in rows[1:]] == list(WEIGHTS)
    assert all("not stated" in row[4] for row in rows[1:])
    assert {row[3] for row in rows[1:]} == {"not known"}
    _, text, _ = run("list", "--json")
    first = json.loads(text)[0]
    assert first["url"].startswith("https://www.dropbox.com/s/")
    assert first["sha256"] is None


def test_fetch_needs_consent_and_says_what_came(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, text, talk = run("fetch", "cavmae-base", "--folder", tmp_path)
    assert (code, text) == (1, "")
    assert "--accept-unverified" in talk
    weights = WEIGHTS["cavmae-base"]
    body = PUBLISHED.read_bytes()

    def bring(wanted: download._Wanted, progress: object) -> int:
        return wanted.part.write_bytes(body)

    monkeypatch.setattr(download, "_download", bring)
    code, text, talk = run("fetch", "cavmae-base", "--folder", tmp_path, "--accept-unverified", "--json")
    found = json.loads(text)
    assert code == 0
    assert "not verified" in talk
    assert found["path"] == str(file_of(weights, tmp_path))
    assert not found["verified"]
    assert len(found["sha256"]) == 64
    code, text, talk = run("fetch", "cavmae-base", "--folder", tmp_path, "--json")
    assert (code, json.loads(text)["verified"], json.loads(text)["downloaded"]) == (0, False, False)
    assert "not verified" in talk
    monkeypatch.setitem(WEIGHTS, "cavmae-base", replace(weights, sha256=found["sha256"]))
    code, _, talk = run("fetch", "cavmae-base", "--folder", tmp_path)
    assert (code, talk) == (0, "")


def test_show_and_export(run: Run, tmp_path: Path) -> None:
    code, text, _ = run("show", PUBLISHED, *HEADS, "--json")
    shown = json.loads(text)
    assert code == 0
    assert shown["model"] == "cavmae_sync"
    assert shown["config"]["num_registers"] == 8
    assert len(shown["fingerprint"]) == 64
    assert "shapes" not in shown
    code, text, _ = run("export", PUBLISHED, tmp_path / "out.pth", *HEADS)
    assert (code, text) == (0, f"{tmp_path / 'out.pth'}\n")
    original, exported = (torch.load(path, weights_only=True) for path in (PUBLISHED, tmp_path / "out.pth"))
    assert list(exported) == list(original)
    assert all(torch.equal(exported[name], original[name]) for name in original)
    _, text, _ = run("show", tmp_path / "out.pth", *HEADS, "--tensors", "--json")
    again = json.loads(text)
    assert again["fingerprint"] == shown["fingerprint"]
    assert len(again["shapes"]) == again["tensors"]


def test_export_of_a_run_and_refusals(run: Run, tmp_path: Path) -> None:
    save_tiny(tmp_path / "run/checkpoints/step-2/model.safetensors")
    assert run("export", tmp_path / "run", tmp_path / "out.pth")[0] == 0
    assert (tmp_path / "out.pth").stat().st_size > 1000
    code, text, talk = run("show", "cavmae-bas")
    assert (code, text) == (1, "")
    assert talk.startswith("lookhear: there is no checkpoint at cavmae-bas")
    code, _, talk = run("push", PUBLISHED, "user/model")
    assert code == 1
    assert "is a PyTorch pickle" in talk
