"""If these fail, weights do not come back from the Hugging Face hub as they went there.

The hub is a small server on this machine that speaks as much of its language as huggingface_hub needs; nothing here
was tried on the real one.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lookhear.errors import CheckpointError
from lookhear.hub import find_weights, model_card, push
from lookhear.models.checkpoint import load_checkpoint
from lookhear.models.weights import is_hub_name
from tiny_embedder import save_tiny

SHA = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """Models and their files; `stated` says another sha256 of a file than it has."""

    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    stated: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)  # how often a model is spoken of before the network is gone
    url: str = ""


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def reply(self, values: Any, status: int = 200, **headers: str) -> None:
            self.answer(json.dumps(values).encode(), status, Content_Type="application/json", **headers)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.*)?", path):
                name, files = found[1], hub.models.get(found[1])
                if hub.answers.setdefault(name, 99) == 0:
                    self.close_connection = True
                    return
                hub.answers[name] -= 1
                if files is None:
                    self.reply({"error": "not found"}, 404, X_Error_Code="RepoNotFound")
                    return
                siblings = []
                for file, body in files.items():
                    digest = hub.stated.get(file, hashlib.sha256(body).hexdigest())
                    lfs = {"sha256": digest, "size": len(body), "pointerSize": 130}
                    siblings.append({"rfilename": file, "size": len(body), "lfs": lfs})
                self.reply({"id": name, "modelId": name, "sha": SHA, "siblings": siblings, "tags": []})
                return
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
            body = hub.models.get(found[1], {}).get(found[2]) if found else None
            if found is None or body is None:
                self.reply({"error": "not found"}, 404, X_Error_Code="EntryNotFound")
                return
            tag = f'"{hub.stated.get(found[2], hashlib.sha256(body).hexdigest())}"'
            self.answer(body, ETag=tag, X_Repo_Commit=SHA, X_Linked_Size=str(len(body)), X_Linked_Etag=tag)

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            hub.asked.append(f"POST {self.path}")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Authorization") != "Bearer hf_good" or b"stranger" in body:
                self.reply({"error": "who are you?"}, 401)
            elif self.path == "/api/repos/create":
                name = "/".join(json.loads(body).get(part) for part in ("organization", "name"))
                hub.models.setdefault(name, {})
                self.reply({"url": f"{hub.url}/{name}", "name": name})
            elif self.path == "/api/validate-yaml":
                self.reply({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
                self.reply({"files": modes})
            else:
                name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        value = line["value"]
                        hub.models[name][value["path"]] = base64.b64decode(value["content"])
                address = f"{hub.url}/{name}/commit/{SHA}"
                self.reply({"commitUrl": address, "commitOid": SHA, "success": True})

    return Handler


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    state = FakeHub()
    served = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{served.server_port}"
    yield state
    served.shutdown()
    served.server_close()
    thread.join()


# Runs each line of stdin; prints a JSON line for each: what it gave, or what was refused.
_RUN = """
import contextlib, json, sys
import lookhear, lookhear.cli, lookhear.hub
for line in sys.stdin:
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = eval(line)
        print(json.dumps(found))
    except lookhear.UserError as error:
        print(json.dumps("refused: " + str(error)))
"""


@pytest.fixture
def ask(hub: FakeHub, tmp_path: Path) -> Callable[..., tuple[list[Any], str]]:
    """Runs expressions in a process of their own, which reads HF_ENDPOINT as it starts; results and stderr."""

    def run(*lines: str, **environment: str) -> tuple[list[Any], str]:
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        settings |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, "-c", _RUN],
            input="\n".join(lines),
            capture_output=True,
            text=True,
            env=os.environ | settings | environment,
            cwd=tmp_path,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    return run


def test_there_and_back(hub: FakeHub, ask: Callable[..., tuple[list[Any], str]], tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "run/checkpoints/step-3/model.safetensors")
    own = load_checkpoint(path)
    golden = Path(__file__).parent / "golden" / "tiny" / "cavmae.pth"
    hub.models["user/odd"] = {"a.pth": b"", "b.pth": b""}
    hub.models["them/weights"] = {"README.md": b"words", "cavmae.pth": golden.read_bytes()}
    hub.models["bad/weights"] = {"bad.safetensors": b"not what was pushed"}
    hub.stated["bad.safetensors"] = "f" * 64
    hub.answers = {"user/model": 3, "user/down": 0}
    choices = "lookhear.models.published.PublishedChoices(heads=2, decoder_heads=2)"
    asked = {
        'lookhear.hub.push("run", "user/model", licence="apache-2.0")': hub.url + "/user/model",
        'lookhear.hub.push("run", "stranger/model")': r"cannot upload to 'stranger/model'.* wants a login \(HTTP 401",
        'lookhear.hub.push("run", "user/../m")': r"'user/../m' is no name on the Hugging Face hub",
        'lookhear.load("user/model", device="cpu").fingerprint': own.fingerprint,
        'lookhear.load("user/model" , device="cpu").fingerprint': own.fingerprint,
        'lookhear.load("user/gone")': r"'user/gone', which is no path on this machine.* no such model \(HTTP 404",
        'lookhear.load("user/odd")': r"2 files of weights and none is called model.safetensors \(a.pth, b.pth\)",
        'lookhear.load("user/model/other.pth")': r"has no other.pth; it has .*model.safetensors",
        f'lookhear.load("them/weights", choices={choices}, device="cpu").config.width': "24",
        f'lookhear.load("them/weights/cavmae.pth", choices={choices}, device="cpu").config.width': "24",
        'lookhear.load("bad/weights")': "bad.safetensors of bad/weights came with sha256 .* not f{64}: it was removed",
        'lookhear.load( "user/model", device="cpu").fingerprint': own.fingerprint,  # the network is gone
        'lookhear.load("user/down")': "is there a network here?",
        'lookhear.cli.main(["models", "show", "user/model"])': "0",
        'lookhear.cli.main(["models", "export", "user/model", "out.pth"])': "0",
    }
    results, talk = ask(*asked, HF_TOKEN="hf_good")
    for result, words in zip(results, asked.values(), strict=True):
        assert re.search(words, str(result)), result
        assert "\n" not in str(result)
    kept = [file.read_bytes() for file in (tmp_path / "hf").rglob("*") if file.is_file()]
    assert hub.models["bad/weights"]["bad.safetensors"] not in kept  # nor what the name was a link to
    assert hub.models["user/model"]["model.safetensors"] == path.read_bytes()
    card = hub.models["user/model"]["README.md"].decode()
    assert card == model_card(own, title="user/model", licence="apache-2.0")
    assert talk.count("downloading model.safetensors of user/model") == 1
    assert "cannot be asked for user/model: using what was downloaded before" in talk
    assert sum(line.startswith("GET /user/model/resolve") for line in hub.asked) == 1


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("user/model", True),
        ("user-1/a.b_c", True),
        ("user/model/sub/weights.pth", True),
        ("user/model/README.md", False),
        ("runs/model.safetensors", False),
        ("runs/tiny/checkpoints", False),
        ("/user/model", False),
        ("./user", False),
        ("../model", False),
        ("model", False),
        ("a/b/", False),
        ("a:b/c", False),
    ],
)
def test_what_reads_as_a_name(name: str, is_one: bool) -> None:
    assert is_hub_name(name) == is_one


@pytest.mark.parametrize("name", ["./user/model", "../user/model", "~/model", "C:/model", "/user/model", "user\\model"])
def test_a_mistyped_path_is_not_looked_up(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lookhear.hub.download", lambda name: pytest.fail(f"{name} was looked for on the hub"))
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        find_weights(name)
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"at runs/tinny, and since the folder 'runs' is here, it was not looked"):
        find_weights("runs/tinny")


def test_the_card_says_what_the_checkpoint_says(tmp_path: Path) -> None:
    loaded = load_checkpoint(save_tiny(tmp_path / "m.safetensors"))
    loaded = replace(loaded, labels=tuple(f"label {n}" for n in range(23)), extra={"started_from": "base.pth"})
    card = model_card(loaded, title="user/model")
    assert card.startswith('---\nlicense: "unknown"\n')
    for words in (
        "- licence: not stated",
        loaded.fingerprint,
        '"num_registers": 8',
        '"audio_frames": 48',
        "23: label 0, ",
        "label 19, and 3 more",
        '- started_from: `"base.pth"`',
    ):
        assert words in card
    assert "## Labels" not in model_card(replace(loaded, labels=()), title="user/model")


def test_only_checkpoints_of_ours_are_pushed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        push(tmp_path / "gone", "user/model")
    golden = Path(__file__).parent / "golden" / "tiny" / "cavmae.pth"
    with pytest.raises(CheckpointError, match="is a PyTorch pickle"):
        push(golden, "user/model")
