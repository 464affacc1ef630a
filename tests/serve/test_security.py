"""If these fail, another web page, another machine or another user can ask what only its owner may."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from lookhear.errors import UserError
from lookhear.serve.app import create_app
from lookhear.serve.security import COOKIE, Access, access_of, host_name, is_local
from web_library import ORIGIN, Made, Running, running

TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture(scope="module")
def locked(made: Made) -> Iterator[Running]:
    with running(made.index, access=access_of("127.0.0.1", token=TOKEN)) as web:
        yield web


# ---- the host


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8710", "127.0.0.1:1", "[::1]:8710", "LOCALHOST", "localhost."]
)
def test_hosts_that_are_ours(web: Running, host: str) -> None:
    assert web.client.get("/api/status", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8710",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.1.5:8710",
        "localhost:8710@evil.example",
        "localhost:x",
        "[::1",
        "",
    ],
)
def test_rebound_names_are_refused(web: Running, host: str) -> None:
    for path in ("/", "/api/status", "/api/nothing"):
        answer = web.client.get(path, headers={"host": host})
        assert answer.status_code == 421
        assert "--allow-host" in answer.json()["error"]


def test_names_of_hosts() -> None:
    assert host_name("Example.COM:80") == "example.com"
    assert host_name("[FE80::1]:80") == "fe80::1"
    assert host_name("a:b") is None
    assert host_name("[::1]x") is None
    assert is_local("127.9.9.9")
    assert is_local("::1")
    assert not is_local("0.0.0.0")
    assert not is_local("example.com")


def test_who_may_be_asked_how() -> None:
    assert access_of("127.0.0.1", token=None).token is None
    with pytest.raises(UserError, match="needs a token"):
        access_of("0.0.0.0", token=None)
    with pytest.raises(UserError, match="can be guessed"):
        access_of("127.0.0.1", token="short")
    everywhere = access_of("0.0.0.0", token=TOKEN, names=["Archive.Example"])
    assert everywhere.knows("192.168.1.5:8710")
    assert everywhere.knows("archive.example")
    assert not everywhere.knows("evil.example")
    for token in (f"{TOKEN} ", f"{TOKEN}\n", f"{TOKEN} and more", f"{TOKEN}é"):
        with pytest.raises(UserError, match="cannot be sent"):
            access_of("127.0.0.1", token=token)
    proxied = access_of("127.0.0.1", token=None, names=["Archive.Example:8443", "[fe80::1]:80", "fe80::2"])
    for name in ("archive.example", "archive.example:8443", "[fe80::1]", "[fe80::2]:8710"):
        assert proxied.knows(name)
    with pytest.raises(UserError, match="no name of a host"):
        access_of("127.0.0.1", token=None, names=["https://archive.example"])
    one = access_of("192.168.1.5", token=TOKEN)
    assert one.knows("192.168.1.5")
    assert not one.knows("192.168.1.6")
    assert TOKEN not in repr(one)


# ---- other sites


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    ],
)
def test_nothing_is_done_for_other_sites(made: Made, web: Running, headers: dict[str, str]) -> None:
    assert web.client.post("/api/uploads", content=b"x", headers=headers).status_code == 403
    assert web.client.post("/api/search", json={}, headers=headers).status_code == 403
    assert web.client.delete("/api/uploads/" + "A" * 24, headers=headers).status_code == 403
    media = f"/api/files/{web.file_id(made.clip(0))}/media"
    assert web.client.get(media, headers={"sec-fetch-site": "cross-site"} | headers).status_code == 403


def test_links_to_the_page_work(web: Running) -> None:
    visit = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert web.client.get("/", headers=visit).status_code == 200
    frame = visit | {"sec-fetch-dest": "iframe"}
    assert web.client.get("/", headers=frame).status_code == 403


def test_our_own_page_and_programs_may(web: Running) -> None:
    own = {"origin": ORIGIN, "sec-fetch-site": "same-origin"}
    assert web.client.get("/api/status", headers=own).status_code == 200
    assert web.client.post("/api/uploads", content=b"x", headers=own).status_code == 422
    assert web.client.post("/api/uploads", content=b"x").status_code == 422
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = web.client.options("/api/search", headers=preflight)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_form_of_another_kind_is_no_question(web: Running) -> None:
    """What a browser sends across sites without asking first is never taken for JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        body = b'{"examples": []}'
        assert web.client.post("/api/search", content=body, headers={"content-type": kind}).status_code == 422


# ---- the token


def test_nothing_of_the_library_without_the_token(made: Made, locked: Running) -> None:
    client = locked.client
    media = f"/api/files/{locked.file_id(made.clip(0))}/media"
    for path in ("/api/status", "/api/files", "/api/openapi.json", media, "/api/nothing"):
        answer = client.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", TOKEN, "Bearer é"):
            assert client.get(path, headers={"authorization": wrong.encode()}).status_code == 401
        assert client.get(path, params={"token": TOKEN}).status_code == 401
        assert client.get(path, headers={"cookie": f"{COOKIE}={TOKEN}"}).status_code == 401
    assert client.post("/api/uploads", content=b"x").status_code == 401
    assert client.get("/").status_code == 200  # which asks for the token
    for page in ("/", "/app.js"):
        assert str(made.media) not in client.get(page).text


def test_the_token_opens(made: Made, locked: Running) -> None:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert locked.client.get("/api/status", headers=bearer).status_code == 200
    browser = TestClient(locked.client.app, base_url=ORIGIN)
    assert browser.post("/api/session", headers={"authorization": "Bearer wrong"}).status_code == 401
    begun = browser.post("/api/session", headers=bearer)
    assert begun.status_code == 204
    cookie = begun.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert browser.get("/api/status").status_code == 200
    assert browser.get(f"/api/files/{locked.file_id(made.clip(0))}/media").status_code == 200
    session = browser.cookies[COOKIE]
    assert browser.delete("/api/session").status_code == 204
    assert browser.get("/api/status", headers={"cookie": f"{COOKIE}={session}"}).status_code == 401


@pytest.mark.parametrize("other", ['prefs={"a":1}', "x=a b", "flag", "a[b]=1", "path=/x", "", '"; "', "=x", "é=é"])
def test_cookies_of_other_programs_do_not_matter(locked: Running, other: str) -> None:
    begun = locked.client.post("/api/session", headers={"authorization": f"Bearer {TOKEN}"})
    own = f"{COOKIE}={begun.cookies[COOKIE]}"
    client = TestClient(locked.client.app, base_url=ORIGIN)
    for cookie in (f"{other}; {own}", f"{own}; {other}", f"{other};{own};{other}"):
        assert client.get("/api/status", headers={"cookie": cookie.encode()}).status_code == 200, cookie
    for cookie in (other, f"x{own}", f"{own}x", f"{other}, {own}"):
        assert client.get("/api/status", headers={"cookie": cookie.encode()}).status_code == 401, cookie


def test_no_token_no_cookie(web: Running) -> None:
    begun = web.client.post("/api/session")
    assert begun.status_code == 204
    assert "set-cookie" not in begun.headers


# ---- what browsers are told


def test_headers_of_every_answer(made: Made, web: Running) -> None:
    answers = [
        web.client.get("/"),
        web.client.get("/api/status"),
        web.client.get("/api/nothing"),
        web.client.get(f"/api/files/{web.file_id(made.clip(0))}/media"),
        web.client.get("/", headers={"host": "evil.example"}),
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "cache-control" in answer.headers
    assert answers[1].headers["cache-control"] == "no-store"


def test_what_goes_wrong_inside_says_little(made: Made, web: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError(f"something about {made.folder}")

    monkeypatch.setattr(web.archive, "status", fail)
    client = TestClient(create_app(web.archive, web.workshop, Access()), base_url=ORIGIN, raise_server_exceptions=False)
    answer = client.get("/api/status")
    assert answer.status_code == 500
    assert str(made.folder) not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
