"""The page in a real browser against a real server."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from service import keys
from tests.service.conftest import Serve

_QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
          "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=_QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, live_server: str) -> Iterator[Page]:
    """An English page; at the end it must have logged no error and asked nobody else for anything."""
    context = browser.new_context(locale="en-GB", base_url=live_server)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console", lambda line: errors.append(line.text) if line.type == "error" and "422" not in line.text else None
    )
    page.on(
        "request", lambda r: errors.append(r.url) if not r.url.startswith((live_server, "blob:", "data:")) else None
    )
    page.goto("/")
    yield page
    context.close()
    assert errors == []


def picture() -> dict[str, Any]:
    image = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(image).ellipse((50, 50, 150, 150), fill="red")
    out = io.BytesIO()
    image.save(out, "PNG")
    return {"name": "red.png", "mimeType": "image/png", "buffer": out.getvalue()}


def search(page: Page, text: str) -> None:
    page.get_by_label("Describe the picture").fill(text)
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("results")


def test_words_and_history(page: Page) -> None:
    expect(page.locator("#about")).to_contain_text("60 pictures, 360 captions, model tiny")
    expect(page.get_by_role("button", name="a small red star")).to_be_visible()
    search(page, "a red circle")
    expect(page.locator("#results li.picture")).to_have_count(24)
    assert "text=a red circle" in unquote_plus(page.url)
    first = page.locator("#results .caption").first.inner_text()
    expect(page.locator("#results img").first).to_have_js_property("complete", True)
    assert page.locator("#results img").first.evaluate("i => i.naturalWidth") > 0
    search(page, "a blue star")
    page.go_back()
    expect(page.get_by_label("Describe the picture")).to_have_value("a red circle")
    expect(page.locator("#results .caption").first).to_have_text(first)
    page.reload()
    expect(page.locator("#results .caption").first).to_have_text(first)


def test_more_like_this(page: Page) -> None:
    search(page, "a heart")
    page.get_by_role("button", name="More like this").first.click()
    expect(page.locator("#query")).to_be_visible()
    expect(page.locator("#results li.picture")).to_have_count(23)  # all but itself
    expect(page.get_by_role("status")).to_contain_text("23 results")
    assert "id=" in page.url


def test_a_picture_of_ones_own(page: Page) -> None:
    page.locator("#file").set_input_files(picture())  # type: ignore[arg-type]
    expect(page.locator("#results li.picture")).to_have_count(24)
    expect(page.locator("#query img")).to_be_visible()
    page.get_by_label("Captions").check()
    expect(page.locator("#results li.text")).to_have_count(24)
    page.locator("#results .thumbs button").first.click()
    expect(page.locator("#results li.picture")).to_have_count(23)


def test_a_picture_is_kept_for_the_visit_only(page: Page) -> None:
    page.locator("#file").set_input_files(picture())  # type: ignore[arg-type]
    expect(page.locator("#results li.picture")).to_have_count(24)
    page.reload()
    expect(page.get_by_role("status")).to_contain_text("choose it again")
    page.locator("#file").set_input_files(picture())  # type: ignore[arg-type]
    expect(page.locator("#results li.picture")).to_have_count(24)
    page.go_back()  # to the picture of before the reload, never to the newer one
    expect(page.get_by_role("status")).to_contain_text("choose it again")


def test_a_draft_survives_the_language(page: Page) -> None:
    search(page, "a heart")
    page.get_by_label("Describe the picture").fill("a half-typed")
    page.get_by_role("button", name="中文").click()
    expect(page.get_by_label("描述您要找的图片")).to_have_value("a half-typed")


def test_a_proxy_error(page: Page) -> None:
    page.route("**/v1/search/**", lambda route: route.fulfill(status=200, body="<html>"))
    page.goto("/?text=a heart")
    expect(page.get_by_role("status")).to_have_text("The service cannot be reached.")


def test_the_examples_are_those_of_the_bundled_model(page: Page) -> None:
    def another(route: Route) -> None:
        said = route.fetch().json()
        route.fulfill(json=said | {"model": said["model"] | {"reference": "models/b32"}})

    page.route("**/v1/index", another)
    page.reload()
    expect(page.locator("#about")).to_contain_text("model models/b32")
    expect(page.locator("#examples")).to_be_hidden()


def test_too_many_requests(browser: Browser, live_server: str) -> None:
    page = browser.new_page()
    page.route("**/v1/search/**", lambda route: route.fulfill(status=429, headers={"Retry-After": "7"}, body="{}"))
    page.goto(f"{live_server}/?text=a heart&lang=zh")
    expect(page.get_by_role("status")).to_have_text("目前请求过多，请在7秒钟后重试。")
    page.close()


def test_drop_and_paste(page: Page) -> None:
    make = """async (kind) => {
        const canvas = new OffscreenCanvas(64, 64); canvas.getContext("2d").fillRect(9, 9, 40, 40);
        const data = new DataTransfer();
        data.items.add(new File([await canvas.convertToBlob()], "a.png", {type: "image/png"}));
        const event = kind === "drop" ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
                                      : new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true});
        document.body.dispatchEvent(event);
    }"""
    shown = page.locator("#query img")
    for kind in ("drop", "paste"):
        before = shown.get_attribute("src") or "none"
        page.evaluate(make, kind)
        expect(shown).to_have_attribute("src", re.compile("^blob:"))
        expect(shown).not_to_have_attribute("src", before)
        expect(page.locator("#results li.picture")).to_have_count(24)


def test_chinese(page: Page) -> None:
    page.get_by_role("button", name="中文").click()
    expect(page.get_by_label("描述您要找的图片")).to_be_visible()
    expect(page.locator("#file")).to_have_accessible_name("选择图片…")
    page.get_by_role("link", name="Crossmodal").click()
    expect(page).to_have_url(re.compile(r"/\?lang=zh$"))
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    page.get_by_label("描述您要找的图片").fill("红色圆形")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("条结果")
    expect(page.locator("#results .caption").first).to_contain_text("色")


def test_keyboard_alone(page: Page) -> None:
    page.keyboard.type("a green ring")
    page.keyboard.press("Enter")
    expect(page.locator("#results li.picture")).to_have_count(24)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "more":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("23 results")
    expect(page.get_by_role("list", name="Results")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#results a").first).to_be_focused()


def test_what_is_wrong_is_said(page: Page) -> None:
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"hello"})
    expect(page.get_by_role("status")).to_contain_text("not an image")
    expect(page.locator("#results li")).to_have_count(0)
    search(page, "a red star")


def test_a_key_opens_the_page_for_the_tab_alone(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    text, _ = keys.create(file, "search")
    with serve(tmp_path / "log", CROSSMODAL_KEYS_FILE=str(file)) as url:
        context = browser.new_context(locale="en-GB", base_url=url)
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" and "401" not in m.text else None)
        page.on("request", lambda request: errors.append(request.url) if text in request.url else None)
        page.goto("/?text=a red star")
        expect(page.get_by_role("status")).to_contain_text("needs a key")
        page.get_by_label("This service needs a key").fill("cmk_wrong")
        page.get_by_role("button", name="Use").click()
        expect(page.get_by_role("status")).to_contain_text("not good here")
        page.get_by_label("This service needs a key").fill(text)
        page.keyboard.press("Enter")
        expect(page.locator("#results li.picture")).to_have_count(24)
        expect(page.locator("#unlock")).to_be_hidden()
        expect(page.locator("#about")).to_contain_text("60 pictures")
        first = page.locator("#results img").first
        expect(first).to_have_attribute("src", re.compile("^blob:"))
        expect(first).not_to_have_js_property("naturalWidth", 0)
        for button in ("middle", "left"):  # first what the cache does not have
            with context.expect_page() as opened:
                page.locator("#results a").first.click(button=button)  # type: ignore[arg-type]
            expect(opened.value.locator("img")).to_have_count(1)
            opened.value.close()
        page.evaluate("window.open = () => null")
        page.locator("#results a").first.click()
        expect(page.get_by_role("status")).to_contain_text("allow pop-ups")
        page.get_by_role("button", name="More like this").first.click()
        expect(page.locator("#query img")).to_have_attribute("src", re.compile("^blob:"))
        page.reload()
        expect(page.locator("#results li.picture")).to_have_count(23)
        late: list[Route] = []
        page.route("**/thumbnail", lambda route: late.append(route), times=1)
        page.get_by_role("button", name="More like this").first.click()
        page.locator("#file").set_input_files(picture())  # type: ignore[arg-type]
        expect(page.locator("#results li.picture")).to_have_count(24)
        shown = page.locator("#query img").get_attribute("src")
        with page.expect_request_finished(lambda request: request == late[0].request):
            late[0].continue_()
        page.wait_for_timeout(100)
        expect(page.locator("#query img")).to_have_attribute("src", shown or "")
        other = context.new_page()
        other.goto("/?text=a red star")
        expect(other.get_by_role("status")).to_contain_text("needs a key")
        context.close()
        assert errors == []


def test_the_documentation_needs_nobody_else(browser: Browser, live_server: str) -> None:
    page = browser.new_page()
    errors: list[str] = []
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on(
        "request", lambda r: errors.append(r.url) if not r.url.startswith((live_server, "blob:", "data:")) else None
    )
    page.goto(f"{live_server}/docs")
    expect(page.get_by_text("/v1/embeddings")).to_be_visible()
    expect(page.get_by_role("button", name="Authorize")).to_be_visible()
    page.close()
    assert errors == []


def test_a_phone(browser: Browser, live_server: str) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto(f"{live_server}/?text=a red star&lang=zh")
    expect(page.locator("#results li.picture")).to_have_count(24)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()
