"""The page in a real browser against a real server."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlsplit

import httpx
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from dual_encoder import DualEncoder
from indexer import build_index
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


def test_a_filter_is_part_of_the_address(page: Page, live_server: str) -> None:
    expect(page.locator("#about")).to_contain_text("60 pictures")
    expect(page.locator("#filters")).to_be_hidden()  # nothing is searched for yet
    search(page, "a red star")
    expect(page.locator("summary")).to_be_visible()
    page.locator("summary").press("Enter")
    background = page.get_by_role("group", name="background")
    background.get_by_label("white").press("Space")
    background.get_by_label("grey").press("Space")
    page.get_by_role("group", name="count").get_by_label("from").fill("2")
    page.get_by_role("group", name="count").get_by_label("from").press("Enter")
    wanted = {"background": {"$in": ["grey", "white"]}, "count": {"$gte": 2}}
    expect(page.locator("summary")).to_have_text("Filters background: grey, white · count: ≥ 2")
    assert json.loads(parse_qs(urlsplit(page.url).query)["filter"][0]) == wanted
    asked = {"text": "a red star", "k": 24, "filter": json.dumps(wanted)}
    hits = httpx.get(f"{live_server}/v1/search/images", params=asked).json()["hits"]
    pictures = page.locator("#results a")
    expect(pictures).to_have_count(len(hits))
    assert 0 < len(hits) < 24
    shown = [str(pictures.nth(n).get_attribute("href")) for n in range(len(hits))]
    assert shown == [f"/v1/images/{hit['id']}/content" for hit in hits]

    page.reload()  # as it would be for whomever the address is sent to
    expect(pictures).to_have_count(len(hits))
    page.locator("summary").click()
    expect(background.get_by_label("white")).to_be_checked()
    expect(page.get_by_role("group", name="count").get_by_label("from")).to_have_value("2")
    page.locator("#file").set_input_files(picture())  # type: ignore[arg-type]
    expect(page.locator("#query img")).to_be_visible()
    expect(pictures).to_have_count(len(hits))  # of another query, through the same filter
    page.get_by_label("Captions").check()
    expect(page.locator("#results li.text")).to_have_count(24)
    expect(page.locator("#filters")).to_be_hidden()  # captions have no metadata
    page.go_back()
    background.get_by_label("white").uncheck()
    expect(page.locator("summary")).to_have_text("Filters background: grey · count: ≥ 2")
    page.get_by_role("button", name="Clear filters").click()
    expect(page.locator("summary")).to_be_focused()
    expect(pictures).to_have_count(24)
    assert "filter" not in page.url


def test_what_can_be_filtered_by(
    browser: Browser, serve: Serve, scenes: Path, encoder: DualEncoder, tmp_path: Path
) -> None:
    """Dates by their range, true and false and lists by their values, what has too many values or one not at all."""
    rows = [{"image": json.loads(line)["image"]} for line in scenes.read_text("utf-8").splitlines()[:22]]
    for day, row in enumerate(rows, 1):
        more = {"taken_on": f"2024-01-{day:02}T09:30:00", "published": day > 20, "tags": ["sea"] if day < 4 else []}
        row.update(more, name=f"picture {day}", museum="ours")
    table = scenes.parent / "dated.jsonl"
    table.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    build_index(table, tmp_path / "dated", encoder)
    with serve(tmp_path / "log", other=tmp_path / "dated") as url:
        page = browser.new_page(locale="en-GB")
        page.goto(f"{url}/?text=a star")
        page.locator("summary").click()
        expect(page.locator("#columns legend")).to_have_text(["published", "tags", "taken on"])
        taken = page.get_by_role("group", name="taken on")
        taken.get_by_label("from").fill("2024-01-03")
        taken.get_by_label("to").fill("2024-01-21")
        expect(page.get_by_role("status")).to_contain_text("19 results")  # all of the last day too
        page.get_by_role("group", name="published").get_by_label("yes").check()
        expect(page.get_by_role("status")).to_contain_text("1 result in")
        page.get_by_label("sea").check()
        expect(page.get_by_role("status")).to_have_text("No picture passes these filters.")
        page.get_by_role("button", name="中文").click()
        words = "筛选 published: 是 · tags: sea · taken on: 2024-01-03 – 2024-01-21"
        expect(page.locator("summary")).to_have_text(words)
        page.route("**/v1/index", lambda route: route.fulfill(json=route.fetch().json() | {"metadata": {}}))
        page.goto(f"{url}/?text=a star")
        expect(page.locator("#results li")).to_have_count(22)
        expect(page.locator("#filters")).to_be_hidden()
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


def test_what_is_wrong_is_said_in_chinese(browser: Browser, live_server: str) -> None:
    page = browser.new_page(locale="zh-CN", base_url=live_server)
    status, detail = page.get_by_role("status"), page.locator("#status [lang=en]")
    page.goto("/")
    page.get_by_role("button", name="搜索").click()
    expect(status).to_have_text("请描述您要找的图片，或选择一张图片。")
    for sent, sentence, words in (
        (b"hello", "无法使用该图片。", "not an image"),
        (bytes(5 * 2**20), "图片过大。", "4,194,304 bytes"),
    ):
        page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": sent})
        expect(status).to_contain_text(sentence)
        expect(detail).to_contain_text(words)
    for asked, sentence, words in (
        ("id=gone", "找不到该图片。", "no picture with id 'gone'"),
        ('text=x&filter={"size":1}', "筛选条件不适用于此索引。", "there is no column 'size'"),
    ):
        page.goto(f"/?{asked}")
        expect(status).to_contain_text(sentence)
        expect(detail).to_contain_text(words)
    for code, headers, sentence in (
        (408, {}, "图片上传超时。"), (429, {"Retry-After": "7200"}, "目前请求过多，请在2小时后重试。"),
        (503, {"Retry-After": "5"}, "服务繁忙，请在5秒钟后重试。"), (503, {}, "服务繁忙，请稍后重试。"), (502, {}, "服务出错，未能回答。"),
    ):  # fmt: skip
        answer = partial(Route.fulfill, status=code, headers=headers, body="<html>")  # as a proxy's
        page.route("**/v1/search/images?**", answer, times=1)
        page.goto("/?text=x")
        expect(status).to_have_text(sentence)
    page.close()


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
