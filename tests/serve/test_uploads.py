"""If these fail, an upload can fill the disk, hang the server, or stay on it."""

import asyncio
import errno
import io
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lookhear.serve.settings import ServeSettings
from lookhear.serve.uploads import Examples, ForgottenError, TooSlowError, plain_name, receive
from lookhear.serve.work import BusyError, Workshop
from synthetic import make_sound
from web_library import Made, Running, running


def left_over(web: Running) -> list[str]:
    return [path.name for path in web.workshop.folder.iterdir() if path.name not in ("previews", "writing.lock")]


def test_nothing_stays_of_a_good_one(made: Made, web: Running) -> None:
    web.upload(made.clip(0))
    assert left_over(web) == []


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.mp4", b"this is no video" * 50, "is not a media file"),
        ("a.wav", b"RIFF\x00\x00\x00\x00WAVEfmt ", "cannot be used"),
        ("a.jpg", b"\xff\xd8\xff\xe0 and then nothing", "cannot be used"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "cannot be used"),
        ("page.html", b"<html><script>alert(1)</script>", "is not a media file"),
        ("program.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is not a media file"),
        ("call.sdp", b"v=0\nc=IN IP4 192.0.2.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n", "is not a media file"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "is not a media file"),
        ("list.txt", b"ffconcat version 1.0\nfile /etc/passwd\n", "is not a media file"),
        ("empty.wav", b"", "empty"),
    ],
)
def test_broken_ones_say_why_and_are_gone(web: Running, name: str, content: bytes, sentence: str) -> None:
    answer = web.client.post("/api/uploads", params={"name": name}, content=content)
    assert answer.status_code == 422
    assert sentence in answer.json()["error"]
    assert name in answer.json()["error"]
    assert str(web.workshop.folder) not in answer.text
    assert left_over(web) == []


def test_truncated_media(made: Made, web: Running) -> None:
    whole = made.clip(0).read_bytes()
    for share in (0.3, 0.7, 0.95):
        answer = web.client.post("/api/uploads", content=whole[: int(len(whole) * share)])
        assert answer.status_code in (201, 422)
        assert left_over(web) == []


def test_a_picture_bomb(web: Running) -> None:
    from PIL import Image

    file = io.BytesIO()
    Image.new("1", (30000, 30000)).save(file, format="PNG")  # 112 kB, 900 million pixels
    answer = web.client.post("/api/uploads", params={"name": "bomb.png"}, content=file.getvalue())
    assert answer.status_code == 422
    assert left_over(web) == []


def test_too_large(made: Made) -> None:
    with running(made.index, max_upload_bytes=1000) as web:

        def chunks() -> Iterator[bytes]:
            for _ in range(20):
                yield b"x" * 100

        for content in (b"x" * 1001, chunks()):  # the second does not say how much it is
            answer = web.client.post("/api/uploads", content=content)
            assert answer.status_code == 413
            assert "MiB" in answer.json()["error"]
            assert left_over(web) == []
        assert web.client.post("/api/uploads", content=b"x" * 1000).status_code == 422


def test_a_form_is_no_file(made: Made, web: Running) -> None:
    answer = web.client.post("/api/uploads", files={"file": made.clip(0).read_bytes()})
    assert answer.status_code == 422
    assert "send the bytes of the file alone" in answer.json()["error"]


def test_other_questions_are_short(web: Running) -> None:
    answer = web.client.post("/api/search", content=b" " * (1 << 21), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_too_slow_to_arrive(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(10)

    settings = ServeSettings(receive_seconds=0.05)
    with pytest.raises(TooSlowError, match=r"within 0\.05 s"):
        asyncio.run(receive(chunks(), None, tmp_path, settings))
    assert not list(tmp_path.iterdir())


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    async def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/secret/place")

    monkeypatch.setattr(asyncio, "to_thread", full)
    with pytest.raises(BusyError, match="cannot keep the file while it is read: No space left on device; try"):
        asyncio.run(receive(chunks(), None, tmp_path, ServeSettings()))
    assert not list(tmp_path.iterdir())


def test_one_that_breaks_off(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        asyncio.run(receive(chunks(), None, tmp_path, ServeSettings()))
    assert not list(tmp_path.iterdir())


def test_a_tab_that_is_closed_is_no_defect(web: Running, caplog: pytest.LogCaptureFixture) -> None:
    messages: list[dict[str, object]] = [
        {"type": "http.request", "body": b"RIFF", "more_body": True},
        {"type": "http.disconnect"},
    ]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/uploads",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    sent: list[dict[str, object]] = []

    async def ask() -> None:
        async def take() -> dict[str, object]:
            return messages.pop(0)

        async def keep(message: dict[str, object]) -> None:
            sent.append(message)

        await web.client.app(scope, take, keep)  # type: ignore[arg-type]

    asyncio.run(ask())
    assert sent[0]["status"] == 400
    assert left_over(web) == []
    assert not caplog.records


def test_decoding_has_a_limit(made: Made, tmp_path: Path) -> None:
    make_sound(tmp_path / "long.wav", seconds=110)
    with running(made.index, workers=1, decode_seconds=0.01) as web:
        answer = web.client.post(
            "/api/uploads", params={"name": "long.wav"}, content=(tmp_path / "long.wav").read_bytes()
        )
        assert answer.status_code == 422
        assert "took longer than 0.01 s" in answer.json()["error"]
        assert left_over(web) == []
        assert web.client.get("/api/status").status_code == 200


def test_long_ones_are_cut_with_a_note(web: Running, tmp_path: Path) -> None:
    make_sound(tmp_path / "long.wav", seconds=130, beep_times=[t / 2 for t in range(260)])
    upload = web.upload(tmp_path / "long.wav")
    assert upload["seconds"] == pytest.approx(120.0)
    assert upload["note"].startswith("'long.wav' lasts 130 s")
    found = web.client.post("/api/search", json={"examples": [{"kind": "upload", "id": upload["id"]}]}).json()
    assert found["notes"] == [upload["note"]]


def test_only_so_many_at_one_time(made: Made) -> None:
    with running(made.index, max_receiving=0) as web:
        answer = web.client.post("/api/uploads", content=b"x")
        assert answer.status_code == 503


def test_forgotten_when_asked_when_old_and_when_there_are_many(made: Made, web: Running) -> None:
    upload = web.upload(made.clip(0))
    assert web.client.delete(f"/api/uploads/{upload['id']}").status_code == 204
    asked = {"examples": [{"kind": "upload", "id": upload["id"]}]}
    assert web.client.post("/api/search", json=asked).status_code == 404
    example = web.archive.examples.named(web.upload(made.clip(0))["id"])
    few = Examples(ServeSettings(max_examples=2))
    kept = [few.keep(example) for _ in range(3)]
    assert len({each.id for each in kept}) == 3
    with pytest.raises(ForgottenError):
        few.named(kept[0].id)
    assert few.named(kept[2].id).name == example.name
    old = Examples(ServeSettings(example_seconds=0.0))
    with pytest.raises(ForgottenError):
        old.named(old.keep(example).id)


def test_names_are_only_shown() -> None:
    assert plain_name("../../etc/passwd") == "passwd"
    assert plain_name("C:\\Users\\me\\slam.wav") == "slam.wav"
    assert plain_name("a\nb\x1b[31m.wav") == "ab[31m.wav"
    assert plain_name("") == plain_name("///") == "example"
    assert len(plain_name("x" * 5000)) == 100


def test_the_folder_goes_with_the_server(made: Made) -> None:
    with running(made.index) as web:
        folder = web.workshop.folder
        assert folder.is_dir()
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


def test_what_killed_servers_left_is_removed_but_nothing_behind_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, elsewhere = tmp_path / "lookhear-serve-old", tmp_path / "elsewhere"
    for folder in (left, elsewhere):
        folder.mkdir()
        (folder / "file").write_text("x")
    link = tmp_path / "lookhear-serve-link"
    link.symlink_to(elsewhere)
    for folder in (left, elsewhere):
        os.utime(folder, (1, 1))
    with Workshop(ServeSettings(workers=0)):
        assert not left.exists()
    assert [path.name for path in elsewhere.iterdir()] == ["file"], "not even a lock"
    assert link.is_symlink()
