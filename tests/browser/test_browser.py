"""The page in a real browser. If these fail, somebody who sits before it cannot do what it is for."""

import csv
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lookhear.media.decode import read_clip
from lookhear.serve.security import access_of
from lookhear.serve.server import serving
from page_steps import CARD, give, names, opened, playing, settled, time_of
from web_library import Made, labelled_index, stretch

pytestmark = [pytest.mark.ci, pytest.mark.browser]


def test_upload_search_and_play_from_the_moment(page: Any, address: str, cut: Path) -> None:
    opened(page, address)
    assert page.inner_text(".hero h1") == "What are you looking for?"
    give(page, cut)
    assert names(page)[0] == "clip2.mp4"
    card = page.locator(CARD).first
    start, end = (float(part.partition(":")[2]) for part in card.locator(".times").inner_text().split(" – "))
    assert abs(start - 2.0) < 0.6
    assert abs(end - 3.2) < 0.6
    mark = card.locator(".strip .mark").bounding_box()
    strip = card.locator(".strip").bounding_box()
    assert 0.3 < (mark["x"] - strip["x"]) / strip["width"] < 0.7  # 2 s of about 4
    parts: list[tuple[int, str]] = []
    page.on(
        "response",
        lambda got: (
            parts.append((got.status, got.request.headers.get("range", ""))) if got.url.endswith("/media") else None
        ),
    )
    card.hover()
    card.locator(".play").click()
    playing(page)
    assert parts, "the player asked for nothing"
    assert all(status == 206 and asked.startswith("bytes=") for status, asked in parts)
    assert start - 0.1 <= time_of(page) <= end + 0.2
    assert page.eval_on_selector("video.player", "video => video.src").endswith("/media")
    page.wait_for_function("() => document.querySelector('video.player').paused")  # where the moment ends
    assert abs(time_of(page) - end) < 0.4
    strip_element = card.locator(".strip")
    strip_element.click(position={"x": strip["width"] * 0.1, "y": 10})
    playing(page)
    assert time_of(page) < start


def test_a_picture_finds_its_file(page: Any, address: str, made: Made, tmp_path: Path) -> None:
    frame = read_clip(made.clip(4), start_seconds=1.0, end_seconds=1.2, frame_seconds=[1.1]).frames
    assert frame is not None
    Image.fromarray(frame[0].transpose(1, 2, 0)).resize((320, 240)).save(tmp_path / "still.png")
    opened(page, address)
    give(page, tmp_path / "still.png")
    assert names(page)[0] == "clip4.mp4"
    thumbnail = page.locator(".example img")
    page.wait_for_function("() => document.querySelector('.example img').naturalWidth > 0")
    assert thumbnail.get_attribute("src").startswith("/api/uploads/")


def test_what_the_browser_cannot_play_comes_as_a_preview(page: Any, address: str, made: Made) -> None:
    opened(page, address, "#/library")
    page.fill("#find", "camera")
    page.click("text=camera.mkv")
    page.wait_for_selector(".file-grid")
    assert "short previews" in page.inner_text(".about")
    page.fill(".whole input", "3")
    page.click(".stage.large .play")
    playing(page)
    assert "/preview?start=" in page.eval_on_selector("video.player", "video => video.src")
    assert page.eval_on_selector("video.player", "video => video.videoWidth") == 208
    page.wait_for_function("() => parseFloat(document.querySelector('.time').textContent.split(':')[1]) > 3.3")


def test_filters_balance_and_threshold(page: Any, address: str, cut: Path, made: Made) -> None:
    opened(page, address)
    give(page, cut)
    assert len(names(page)) >= 6
    page.click("#filters summary")
    page.check("input[name=kind][value=sound_only]")
    settled(page)
    assert set(names(page)) == {"sound only.m4a"}
    assert "1 filter" in page.inner_text("#filter-count")
    page.uncheck("input[name=kind][value=sound_only]")
    page.fill("#folder", str(made.media / "day2"))
    settled(page)
    assert set(names(page)) == {"clip3.mp4", "clip4.mp4", "clip5.mp4"}
    page.fill("#folder", "/etc")
    page.keyboard.press("Enter")
    page.wait_for_selector("#blank .empty")
    assert "no folder /etc" in page.inner_text("#blank")
    page.click("#clear-filters")
    settled(page)
    assert len(set(names(page))) >= 6
    page.check("input[name=within][value=picture]", force=True)
    settled(page)
    assert page.is_disabled("#balance")
    assert set(page.locator(f"{CARD} .tag.matched").all_inner_texts()) == {"picture"}
    page.eval_on_selector(
        "#at-least", "e => { e.value = e.max; e.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    page.wait_for_selector("#blank .empty")
    assert "No moment reaches" in page.inner_text("#blank")
    page.click("text=Show the best all the same")
    page.wait_for_selector(CARD)


def test_labels(page: Any, address: str, made: Made, cut: Path, tmp_path: Path) -> None:
    opened(page, address)
    give(page, cut)
    page.click("#filters summary")
    assert page.is_hidden("#label-row")  # this index has none
    assert page.locator(f"{CARD} .labels").count() == 0
    labels = {f"clip{number}.mp4": (stretch("bell", 0.0, 4.0, 0.9 - number / 10),) for number in (2, 4)}
    place = labelled_index(made.index, tmp_path / "labelled", labels)
    with serving(place, access_of("127.0.0.1", token=None), host="127.0.0.1", port=0) as port:
        opened(page.context.new_page(), f"http://127.0.0.1:{port}/")
        other = page.context.pages[-1]
        other.focus("#filters summary")
        other.keyboard.press("Enter")
        other.wait_for_selector("#label-row:not([hidden])")
        assert other.locator("#label option").all_inner_texts() == ["any or none", "bell (2)"]
        other.focus("#name")
        other.keyboard.press("Tab")
        other.keyboard.press("ArrowDown")
        other.wait_for_selector(CARD)  # by the label alone
        settled(other)
        assert names(other) == ["clip2.mp4", "clip4.mp4"]
        assert other.locator(f"{CARD} .score b").all_inner_texts() == ["70 %", "50 %"]
        assert other.locator(f"{CARD} .labels").all_inner_texts() == ["bell"] * 2
        assert other.is_disabled("#at-least")
        give(other, cut)
        assert set(names(other)) == {"clip2.mp4", "clip4.mp4"}
        assert not other.is_disabled("#at-least")
        other.click("#clear-filters")
        settled(other)
        assert len(set(names(other))) >= 6
        other.close()


def test_more_like_this_and_not_like_this(page: Any, address: str, cut: Path) -> None:
    opened(page, address)
    give(page, cut)
    second = page.locator(CARD).nth(1)
    name = second.locator("a.name").inner_text()
    second.locator("text=More like this").click()
    page.wait_for_function("() => document.querySelectorAll('.example').length === 1")
    assert page.inner_text(".example .name") == name
    settled(page)
    assert "like=" in page.url  # which can be kept as a bookmark
    third = page.locator(CARD).nth(2)
    unlike = third.locator("a.name").inner_text()
    third.locator('[aria-label="Not like this"]').click()
    page.wait_for_selector(".example.unlike")
    settled(page)
    assert page.locator(".example.unlike .name").inner_text() == unlike
    before = names(page)
    bookmark = page.url
    page.goto("about:blank")
    page.goto(bookmark)
    page.wait_for_selector(CARD)
    settled(page)
    assert names(page) == before
    page.click("nav >> text=Library")
    page.go_back()
    page.wait_for_selector(CARD)
    page.click('.example.unlike [title="Remove"]')
    page.wait_for_function("() => !location.hash.includes('unlike')")
    assert page.locator(".example").count() == 1


def test_a_moment_of_the_library_as_the_question(page: Any, address: str, made: Made) -> None:
    opened(page, address, "#/library")
    page.click("text=clip3.mp4")
    page.wait_for_selector(".file-grid")
    page.fill(".whole input", "1")
    page.keyboard.press("Escape")
    page.locator(".file-grid h1").click()
    page.keyboard.press("i")
    page.fill(".whole input", "2.5")
    page.locator(".file-grid h1").click()
    page.keyboard.press("o")
    assert "0:01.0 – 0:02.5" in page.inner_text(".deck")
    page.click("text=More like this span")
    page.wait_for_selector(CARD)
    assert page.inner_text(".example .name") == "clip3.mp4"
    assert "0:01.0 – 0:02.5" in page.inner_text(".example .meta")


@pytest.mark.parametrize("kind", ["csv", "json", "m3u", "edl", "otio", "tsv", "sheet", "clips"])
def test_export(page: Any, address: str, cut: Path, kind: str) -> None:
    opened(page, address)
    give(page, cut)
    for number in (0, 2):
        page.locator(f"{CARD} .acts input").nth(number).check()
    chosen = [names(page)[number] for number in (0, 2)]
    assert page.inner_text("#select-says") == "2 selected"
    page.click("#export")
    assert "2 selected moments" in page.inner_text("#export-menu")
    with page.expect_download() as download:
        page.click(f"#export-menu [data-kind={kind}]")
    content = Path(download.value.path()).read_bytes()
    suffix = {"sheet": "png", "clips": "zip"}.get(kind, kind)
    assert download.value.suggested_filename in (f"lookhear.{suffix}", "lookhear.zip")
    if kind == "csv":
        rows = list(csv.DictReader(io.StringIO(content.decode())))
        assert [Path(row["path"]).name for row in rows] == chosen
    elif kind == "json":
        assert [Path(hit["path"]).name for hit in json.loads(content)] == chosen
    elif kind == "sheet":
        assert content.startswith(b"\x89PNG")
    elif kind == "clips":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert len(archive.namelist()) == 3
    else:
        assert chosen[0].replace(" ", "%20" if kind in ("m3u", "otio") else " ") in content.decode()


def test_many_files_at_once_are_all_taken(page: Any, address: str, cut: Path, tmp_path: Path) -> None:
    """The server reads four at one time and sends others away."""
    copies = [tmp_path / f"copy{number}.wav" for number in range(8)]
    for copy in copies:
        copy.write_bytes(cut.read_bytes())
    opened(page, address)
    page.set_input_files("#file", [str(path) for path in copies])
    page.wait_for_function("() => !document.querySelector('.example.reading')")
    assert page.locator(".example.ready").count() == len(copies)
    assert page.locator(".example .name").all_inner_texts() == [copy.name for copy in copies]


def test_a_broken_upload_says_why(page: Any, address: str, cut: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 100)
    opened(page, address)
    page.set_input_files("#file", str(broken))
    page.wait_for_selector(".example.bad")
    assert "'broken.mp4' cannot be used: it is not a media file" in page.inner_text(".example.bad")
    assert "broken.mp4" in page.inner_text("#said")
    give(page, cut)  # and the next one works beside it
    assert names(page)[0] == "clip2.mp4"
    page.click('[aria-label="Remove broken.mp4"]')
    assert page.locator(".example").count() == 1
    page.click('[aria-label="Remove cut.wav"]')
    page.wait_for_selector(".hero")


def test_too_large_is_not_even_sent(page: Any, address: str, cut: Path) -> None:
    opened(page, address)
    page.evaluate("import('./examples.js').then((examples) => examples.setLimits({max_upload_bytes: 10}))")
    page.set_input_files("#file", str(cut))
    page.wait_for_selector(".example.bad")
    assert "cut out the part that matters" in page.inner_text(".example.bad")


def test_drop_and_record(page: Any, address: str, cut: Path) -> None:
    opened(page, address)
    data = list(cut.read_bytes())
    page.evaluate(
        """(data) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(data)], "dropped.wav", {type: "audio/wav"}));
            for (const kind of ["dragenter", "dragover", "drop"])
                document.body.dispatchEvent(
                    new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: transfer}));
        }""",
        data,
    )
    page.wait_for_selector(".example.ready")
    page.wait_for_selector(CARD)
    assert page.inner_text(".example .name") == "dropped.wav"
    page.click("#record")
    page.wait_for_selector("#record.on")
    page.wait_for_timeout(1500)
    page.click("#record")
    page.wait_for_function("() => document.querySelectorAll('.example.ready').length === 2")
    assert page.locator(".example .name").nth(1).inner_text().startswith("recording ")
    assert page.inner_text("#record-label") == "Record"


def test_keyboard_alone(page: Any, address: str, cut: Path) -> None:
    page.on("filechooser", lambda _: None)  # from here on the driver catches them; asked for later, it may be too late
    opened(page, address)
    page.keyboard.press("?")
    assert page.is_visible("#keys")
    page.keyboard.press("Escape")
    assert not page.is_visible("#keys")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("/")
    chooser.value.set_files(str(cut))
    page.wait_for_selector(CARD)
    settled(page)
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.matches('.card')")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    playing(page)
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('video.player').paused")
    page.keyboard.press("Escape")
    assert page.locator("video.player").count() == 0
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    assert page.inner_text("#select-says") == "1 selected"
    page.keyboard.press("e")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.kind") == "tsv"
    page.keyboard.press("Escape")
    assert page.is_hidden("#export-menu")
    page.keyboard.press("j")
    page.keyboard.press("j")
    name = page.evaluate("document.activeElement.querySelector('a.name').textContent")
    page.keyboard.press("m")
    page.wait_for_function(f"() => document.querySelector('.example .name')?.textContent === {json.dumps(name)}")
    page.keyboard.press("2")
    page.wait_for_selector("#library-view:not([hidden])")
    page.keyboard.press("1")
    page.wait_for_selector("#search-view:not([hidden])")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.keyboard.press("t")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 21)"


def test_heat(page: Any, address: str, cut: Path) -> None:
    opened(page, address)
    give(page, cut)
    stage = page.locator(CARD).first.locator(".stage")
    stage.hover()
    page.wait_for_selector(f"{CARD} .heat.on")
    assert page.locator(f"{CARD} .heat.on").first.get_attribute("src").startswith("/api/files/")
    page.mouse.move(5, 5)
    page.wait_for_selector(f"{CARD} .heat.on", state="detached")


def test_the_library_says_what_was_skipped(page: Any, address: str) -> None:
    opened(page, address, "#/library")
    page.wait_for_selector(".file-row:not(.pending)")
    assert page.inner_text("#stats dd >> nth=0") == "10"
    page.click(".chip.refused")
    page.wait_for_function("() => document.querySelectorAll('.file-row').length === 1")
    row = page.locator(".file-row")
    assert "broken.mp4" in row.inner_text()
    assert "it is not a media file" in row.inner_text()
    assert row.locator("a").count() == 0
    page.fill("#find", "nothing like it")
    page.wait_for_selector("#library-blank .empty")
    page.click("text=Show all files")
    page.wait_for_function("() => document.querySelectorAll('.file-row').length === 10")
    page.click("#columns .seconds button")
    page.wait_for_selector('[aria-sort="descending"].seconds')
    assert "camera.mkv" in page.locator(".file-row").first.inner_text()


def test_a_long_list_holds_few_rows(page: Any, address: str) -> None:
    """10,000 files: the server's answers are made up here, for what is tested is the list."""

    def answer(route: Any) -> None:
        asked = dict(re.findall(r"(offset|limit)=(\d+)", route.request.url))
        offset, limit = int(asked["offset"]), int(asked["limit"])
        rows = [
            {
                "file_id": None,
                "library": "/films",
                "path": f"tape {number:05d}.mp4",
                "status": "ok",
                "reason": "",
                "seconds": 1.0,
                "moments": 1,
                "size_bytes": 1,
                "modified": 0,
            }
            for number in range(offset, min(offset + limit, 10_000))
        ]
        route.fulfill(json={"rows": rows, "total": 10_000, "offset": offset, "generation": "x"})

    page.route(re.compile(r"/api/files\?"), answer)
    opened(page, address, "#/library")
    page.wait_for_selector("text=tape 00000.mp4")
    assert page.locator(".file-row").count() < 60
    assert page.get_attribute("#table", "aria-rowcount") == "10001"
    page.eval_on_selector("#scroll", "box => { box.scrollTop = box.scrollHeight; }")
    page.wait_for_selector("text=tape 09999.mp4")
    page.eval_on_selector("#scroll", "box => { box.scrollTop = 5000 * 46; }")
    page.wait_for_selector("text=tape 05003.mp4")
    assert page.locator(".file-row").count() < 60
