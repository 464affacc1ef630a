"""cli.py: what a person types, what comes back on which stream, and with which exit code."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lookhear import cli


def _run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "lookhear", *words], capture_output=True, text=True, cwd=cwd)


def test_help_is_quick() -> None:
    _run("--help")  # compiles what is not compiled yet
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = _run("--help")
        seconds.append(time.perf_counter() - started)
    assert done.returncode == 0
    assert min(seconds) < 0.5
    for verb in cli.VERBS:
        assert verb in done.stdout


EVALUATIONS = ("retrieval", "sync", "localization", "segmentation", "classification", "probe")


@pytest.mark.parametrize("verb", [*cli.VERBS, *(f"evaluate {task}" for task in EVALUATIONS)])
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*verb.split(), "--help"])
    assert caught.value.code == 0
    assert "usage: lookhear " + verb in capsys.readouterr().out


def test_wrong_usage_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["search", "--tops", "3"])
    assert caught.value.code == 2
    assert "--top" in capsys.readouterr().err


def test_a_user_error_is_one_line_and_exit_1(tmp_path: Path) -> None:
    done = _run("prepare", "nowhere", "--store", "s", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("lookhear: ")
    assert "Traceback" in _run("prepare", "nowhere", "--debug", cwd=tmp_path).stderr


@pytest.mark.parametrize("shard", ["4/4", "1", "a/b", "-1/2", "1/0"])
def test_a_shard_that_does_not_exist(shard: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prepare", str(tmp_path), "--shard=" + shard]) == 1
    assert "--shard" in capsys.readouterr().err


def test_unknown_setting_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prepare", str(tmp_path), "--set", "short_sid=3"]) == 1
    assert "did you mean 'short_side'?" in capsys.readouterr().err


def test_unknown_recipe_names_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrain", "tinny", "--store", str(tmp_path)]) == 1
    assert "tiny" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __import__("lookhear").__version__


def test_scenes_rows_are_tab_separated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["scenes", str(tmp_path / "s"), "--count", "2", "--workers", "0"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2
    for path, _kind, seconds, events in rows:
        assert (tmp_path / "s" / path).is_file()
        assert 4 <= float(seconds) <= 6.5
        assert int(events) >= 1
    listed = (tmp_path / "s" / "labels.csv").read_text().splitlines()
    assert listed == ["path,label,split", *(f"{path},{kind},train" for path, kind, *_ in rows)]


def test_tabs_and_newlines_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    from lookhear.console import print_record, print_rows

    print_rows([("a\tb\nc\\d", 1)])
    assert capsys.readouterr().out == "a\\tb\\nc\\\\d\t1\n"
    print_record({"a": {"b": 1}, "c": (1, 2.5), "d": None, "e": True, "f": [{"x": None}]}, as_json=False)
    assert capsys.readouterr().out == 'a.b\t1\nc\t[1, 2.5]\ne\ttrue\nf\t[{"x": null}]\n'


def test_talk_does_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from lookhear.console import say

    say("lookhear: 'T\u00fcr\x1b[2J\x9b31m\r.mp4' is damaged\nand so on")
    assert capsys.readouterr().err == "lookhear: 'T\u00fcr\ufffd[2J\ufffd31m\ufffd.mp4' is damaged\nand so on\n"


def test_progress_without_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    from lookhear.console import show_progress

    with show_progress("files") as progress:
        for done in range(1001):
            progress(done, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3, "a line for every item would flood a log"
    assert lines[-1].startswith("  1000/1000 files")


def test_a_file_name_does_nothing_to_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lookhear.console import show_progress

    name = "tape [1080p]/take[/b]\n\x1b[2J.mp4"  # brackets are markup to rich, and [/b] would close what is not open
    with show_progress("files") as progress:
        progress(1, 1, name)
    assert capsys.readouterr().err.endswith("/s tape [1080p]/take[/b]\ufffd\ufffd[2J.mp4\n")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with show_progress("files") as progress:
        progress(1, 1, name)
    assert "tape [1080p]/take[/b]\ufffd\ufffd[2J.mp4" in capsys.readouterr().err


def test_doctor_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["doctor", "--json"])
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert code == int(any(finding["verdict"] == "problem" for finding in findings.values()))
    for name in ("python", "cores", "torch", "av", "bfloat16", "gpu", "codecs", "free space here"):
        assert name in findings
    for finding in findings.values():
        assert finding["verdict"] == "ok" or finding["advice"], f"{finding['name']}: a problem without advice"
