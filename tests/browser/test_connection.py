"""If these fail, the page does not follow its server: a library that grows, a token, an end."""

from pathlib import Path
from typing import Any

import pytest

from lookhear.search.crawl import index
from lookhear.serve.security import access_of
from lookhear.serve.server import serving
from page_steps import opened
from tiny_embedder import make_clip
from web_library import Made

pytestmark = [pytest.mark.ci, pytest.mark.browser]


def test_what_is_indexed_meanwhile_appears(chromium: Any, empty_library: Path) -> None:
    with serving(empty_library / "index", access_of("127.0.0.1", token=None), host="127.0.0.1", port=0) as port:
        page = chromium.new_page()
        opened(page, f"http://127.0.0.1:{port}/", "#/library")
        page.wait_for_selector("text=The library is empty")
        make_clip(empty_library / "media" / "first.mp4", 5)
        index([empty_library / "media"], index_path=empty_library / "index", workers=0)
        page.wait_for_selector("text=first.mp4", timeout=30_000)
        assert page.inner_text("#holdings").startswith("1 file")
        page.close()


def test_the_token_in_the_browser(chromium: Any, made: Made) -> None:
    token = "a-token-that-nobody-guesses"
    with serving(made.index, access_of("127.0.0.1", token=token), host="127.0.0.1", port=0) as port:
        context = chromium.new_context()
        page = context.new_page()
        opened(page, f"http://127.0.0.1:{port}/")
        page.wait_for_selector("#locked:not([hidden])")
        page.fill("#token", "wrong")
        page.click("#token-form button")
        page.wait_for_function("() => document.querySelector('#token-error').textContent.includes('not the token')")
        page.fill("#token", token)
        page.click("#token-form button")
        page.wait_for_selector(".card.start img")
        page.wait_for_function("() => document.querySelector('.card.start img').naturalWidth > 0")  # by the cookie
        context.close()
        context = chromium.new_context()
        page = context.new_page()
        opened(page, f"http://127.0.0.1:{port}/#token={token}")
        page.wait_for_selector(".card.start")
        assert token not in page.url
        context.close()
        # in a tab that is there already, beside cookies of other programs on this host
        context = chromium.new_context()
        page = context.new_page()
        opened(page, f"http://127.0.0.1:{port}/")
        page.evaluate("""document.cookie = 'prefs={"a":1}'""")
        page.wait_for_selector("#locked:not([hidden])")
        page.goto(f"http://127.0.0.1:{port}/#token=wrong")
        page.wait_for_function("() => document.querySelector('#token-error').textContent.includes('not the token')")
        page.goto(f"http://127.0.0.1:{port}/#token={token}")
        page.wait_for_selector(".card.start")
        assert token not in page.url
        page.goto(f"http://127.0.0.1:{port}/#token=another%")  # which ends nothing
        page.wait_for_function("() => location.hash === '#/'")
        page.wait_for_timeout(300)
        assert page.is_hidden("#locked")
        context.close()
        # a browser that keeps no cookie
        context = chromium.new_context()
        page = context.new_page()
        page.route("**/api/session", lambda route: route.fulfill(status=204))
        opened(page, f"http://127.0.0.1:{port}/")
        page.fill("#token", token)
        page.click("#token-form button")
        page.wait_for_function("() => document.querySelector('#token-error').textContent.includes('Allow cookies')")
        context.close()


def test_the_server_that_is_gone(chromium: Any, made: Made) -> None:
    page = chromium.new_page()
    with serving(made.index, access_of("127.0.0.1", token=None), host="127.0.0.1", port=0) as port:
        opened(page, f"http://127.0.0.1:{port}/")
    page.wait_for_function("() => document.querySelector('#holdings').classList.contains('bad')", timeout=60_000)
    assert "cannot be reached" in page.inner_text("#holdings")
    page.close()
