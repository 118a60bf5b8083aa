"""The page that asks the questions, in Chromium, with every request to another host refused."""

import difflib
import gzip
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import ROOT, commit, features_only, headless_chromium, make_check, run
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Route,
    expect,
)
from playwright.sync_api import Error as BrowserError
from test_update import upstream
from test_web_api import unzip

# A fixture, by name.
__all__ = ["upstream"]

PAGE = ROOT / "web/projects/page"
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with headless_chromium() as browser:
        yield browser


@pytest.fixture
def visit(chromium: Browser, start_page: str) -> Iterator[Open]:
    """Return `visit(fragment, **options)`, which opens the page; fail if it asks another host, or logs an error.

    `failures=True` allows the errors that Chromium logs for failed requests.
    """
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def outside(route: Route) -> None:
        wrong.append(route.request.url)
        route.abort()

    def open_page(fragment: str = "", failures: bool = False, **options: Any) -> Page:
        context = chromium.new_context(**options)
        contexts.append(context)
        context.route(lambda url: not url.startswith((f"{start_page}/", "blob:", "data:")), outside)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        changed: list[str] = []

        def heard(message: ConsoleMessage) -> None:
            # Chromium drops requests, to this machine too, when the containers of other tests come and go.
            if "ERR_NETWORK_CHANGED" in message.text:
                changed.append(message.text)
            elif message.type in ("error", "warning") and not (failures and "Failed to load" in message.text):
                wrong.append(message.text)

        page.on("console", heard)
        for _ in range(5):
            changed.clear()
            try:
                page.goto(f"{start_page}/{fragment}")
            except BrowserError as error:
                if "ERR_NETWORK_CHANGED" not in error.message:
                    raise
            else:
                if not changed:
                    break
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def settled(page: Page) -> str:
    """Wait until the preview is there; return what the status says."""
    for part in ("#preview", "#code", "#comparison"):
        expect(page.locator(f"{part}[aria-busy=true]")).to_have_count(0)
    expect(page.locator("#status")).not_to_be_empty()
    return page.locator("#status").inner_text()


def open_file(page: Page, path: str) -> Locator:
    """Click through the tree to a file; return its lines."""
    parts = path.split("/")
    for end in range(1, len(parts)):
        folder = page.locator(f'[id="/{"/".join(parts[:end])}/"]')
        # src and the package are one entry.
        if folder.count() and folder.locator("..").get_attribute("open") is None:
            folder.click()
    page.locator(f'[id="/{path}"]').click()
    expect(page.locator("#path")).to_have_text(path)
    settled(page)
    return page.locator("#code code > *")


def choose(page: Page, **answers: str) -> str:
    for name, value in answers.items():
        page.locator(f"input[name={name}][value={value}]").check()
    return settled(page)


def test_what_counts_requests_to_other_hosts_can_count(chromium: Browser, start_page: str) -> None:
    """In a page without the policy of ours, which lets nothing out that the fixture could see."""
    refused: list[str] = []
    context = chromium.new_context()
    context.route(
        lambda url: not url.startswith(f"{start_page}/"),
        lambda route: (refused.append(route.request.url), route.abort()),
    )
    context.new_page().set_content('<img src="https://cdn.example.com/x.png">')
    context.close()
    assert refused == ["https://cdn.example.com/x.png"]


def test_with_the_keyboard_alone_a_refusal_is_read_and_corrected(visit: Open, template: Path, tmp_path: Path) -> None:
    page = visit()
    settled(page)

    def focused() -> str:
        return page.evaluate(
            "document.activeElement.id || document.activeElement.value || document.activeElement.innerText"
        )

    def press(*keys: str) -> None:
        for key in keys:
            page.keyboard.press(key)

    def tab_to(wanted: str) -> None:
        stops = []
        while focused() != wanted:
            press("Tab")
            stops.append(focused())
            assert len(stops) < 200, f"no stop {wanted} in {stops}"

    press("Tab", "Tab", "Tab")
    assert focused() == "project_name"
    press("Control+A")
    page.keyboard.type("Order Desk")
    settled(page)
    expect(page.locator("#package_name")).to_have_value("order_desk")
    press("Tab", "Control+A")
    page.keyboard.type("json")
    settled(page)
    message = page.locator("#package_name-message").inner_text()
    refused = run(
        *(
            sys.executable,
            "-m",
            "copier",
            "copy",
            "--defaults",
            "--data",
            "package_name=json",
            template,
            tmp_path / "x",
        ),
        check=False,
    )
    assert f"Validation error for question 'package_name': {message}\n" in refused.stderr + "\n"
    assert page.locator("#package_name").get_attribute("aria-invalid") == "true"
    assert "package_name-message" in str(page.locator("#package_name").get_attribute("aria-describedby"))
    assert settled(page) == "1 answer can't work, so there is no new preview."
    press("Backspace", "Backspace", "Backspace", "Backspace")
    page.keyboard.type("desk")
    assert "files added" in settled(page)
    expect(page.locator("#package_name-message")).to_be_empty()
    # To the database, whose choices are one stop and its comparisons the next ones.
    page.locator("#python_version input:checked").focus()
    tab_to("none")
    press("ArrowDown")
    assert page.locator("#database input:checked").get_attribute("value") == "sqlite"
    settled(page)
    # Around to the link that skips the questions, then into the tree.
    page.locator("#skip").focus()
    press("Enter")
    assert focused() == "preview"
    tab_to("/src/desk/")
    press("Enter")
    tab_to("/src/desk/app.py")
    press("Enter")
    settled(page)
    expect(page.locator("#path")).to_have_text("src/desk/app.py")
    press("Shift+Tab")
    press("Tab")
    assert focused() == "/src/desk/app.py"


def test_a_preview_follows_the_last_keystroke(visit: Open, start_page: str) -> None:
    page = visit()
    settled(page)

    def asked(name: str) -> float:
        """Return the seconds that the service alone takes for what the page needs."""
        started = time.perf_counter()
        answers = {"project_name": name}
        for path, body in (
            ("previews", {"answers": answers}),
            ("comparisons", {"before": {}, "after": answers}),
            ("highlights", {"answers": answers, "path": "README.md"}),
        ):
            assert page.request.post(f"{start_page}/v1/{path}", data=body).ok
        return time.perf_counter() - started

    def seen(name: str) -> float:
        page.locator("#project_name").fill("")
        page.locator("#project_name").press_sequentially(name, delay=20)
        typed = time.perf_counter()
        expect(page.locator("#code ins").first).to_contain_text(f"# {name}")
        return time.perf_counter() - typed

    served = min(map(asked, ("Ape", "Bat", "Cat")))
    seconds = min(map(seen, ("Ant", "Bee", "Cow", "Dog", "Eel")))
    print(f"from the last keystroke to the preview: {seconds:.2f} s, of which the service takes {served:.2f} s")
    # It aims at 0.3 s on a machine of its own; tests share theirs.
    assert seconds < 0.5 + 2 * served


def test_a_file_is_shown_with_its_syntax(visit: Open, render: Any) -> None:
    page = visit()
    settled(page)
    lines = open_file(page, "src/my_service/app.py")
    assert lines.all_inner_texts() == [
        f"{line}\n" for line in (render() / "src/my_service/app.py").read_text().splitlines()
    ]
    colours = {
        kind: page.locator(f"#code .{kind}").first.evaluate("it => getComputedStyle(it).color")
        for kind in ("kn", "nn", "sd", "nf")
    }
    assert len(set(colours.values())) == 4


def test_what_the_last_change_did_is_marked(visit: Open, render: Any) -> None:
    page = visit()
    settled(page)
    assert re.search(r"The last change: \d+ files added, \d+ files changed\.", choose(page, database="sqlite"))
    open_file(page, "src/my_service/app.py")
    before, after = (
        (render(**answers) / "src/my_service/app.py").read_text().splitlines(True)
        for answers in ({}, {"database": "sqlite"})
    )
    changes = [*difflib.ndiff(before, after)]
    assert page.locator("#code ins").all_inner_texts() == [line[2:] for line in changes if line[0] == "+"]
    assert page.locator("#code del").all_inner_texts() == [line[2:] for line in changes if line[0] == "-"]
    assert page.locator('[id="/src/my_service/app.py"]').text_content() == "app.pychanged +6 −1"
    assert page.locator('[id="/src/my_service/seed.py"]').text_content() == "seed.pyadded +23"
    # The next change marks what it does, not what an earlier one did; what it removes stays in the tree.
    assert "61 files removed" in choose(page, database="none")
    assert page.locator("#code del").count() == 6
    open_file(page, "src/my_service/seed.py")
    assert page.locator("#code code > :not(del)").count() == 0
    assert page.locator("#code del").count() == 23


def test_one_click_compares_a_choice(visit: Open, render: Any) -> None:
    page = visit("#auth=jwt")
    settled(page)
    page.get_by_role("button", name="Compare with Redis").click()
    settled(page)
    dialog = page.get_by_role("dialog", name="What does cache=redis change?")
    before, after = (
        {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
        for folder in (render(auth="jwt"), render(auth="jwt", cache="redis"))
    )
    differs = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    added = len(after.keys() - before.keys())
    expect(dialog.locator("#comparison-status")).to_contain_text(
        f"{added} files added, {len(differs) - added} files changed:"
    )
    names = [text.split("\n")[0] for text in dialog.locator("summary").all_inner_texts()]
    assert names == differs
    diff = dialog.locator("details", has=page.get_by_text("src/my_service/settings.py"))
    expect(diff.locator("ins").first).not_to_be_visible()
    diff.locator("summary").click()
    expect(diff.locator("ins").first).to_have_text("from .chassis import cache")
    # Escape changes nothing and returns to the button.
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == "Compare with Redis"
    assert page.url.endswith("#auth=jwt")
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Choose it").click()
    settled(page)
    assert page.url.endswith("#cache=redis&auth=jwt")
    assert page.evaluate("document.activeElement.value") == "redis"


def test_a_late_preview_leaves_a_comparison_alone(visit: Open) -> None:
    page = visit()
    settled(page)
    held: list[Route] = []

    def hold(route: Route) -> None:
        if "Order Desk" in str(route.request.post_data):
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/previews", hold)
    page.locator("#project_name").fill("Order Desk")
    while not held:
        page.wait_for_timeout(10)
    page.get_by_role("button", name="Compare with Redis").click()
    expect(page.locator("#comparison-status")).to_contain_text("17 files added")
    held[0].continue_()
    expect(page.locator("#status")).to_contain_text("The last change")
    expect(page.locator("#comparison-status")).to_contain_text("17 files added")


def test_a_question_that_an_answer_hides_goes_and_keeps_the_focus(visit: Open) -> None:
    page = visit("#database=postgresql&jobs=postgresql")
    settled(page)
    page.locator("#jobs input:checked").focus()
    # Its answer would be refused without the database, so it goes too.
    page.evaluate("location.hash = '#database=none&jobs=postgresql'")
    expect(page.locator("#jobs")).to_be_hidden()
    settled(page)
    assert page.evaluate("document.activeElement.name") == "database"
    assert page.url.endswith("/#")
    # The same in a comparison.
    choose(page, database="postgresql")
    choose(page, jobs="postgresql")
    page.locator("#database").get_by_role("button", name="Compare no").click()
    expect(page.locator("#comparison-status")).to_contain_text("files removed")


def test_an_address_shares_the_answers(visit: Open) -> None:
    page = visit()
    settled(page)
    name = 'Ünï & "Desk" #1 = 50% +'
    page.locator("#project_name").fill(name)
    choose(page, database="postgresql")
    choose(page, jobs="postgresql")
    address = page.url
    assert "jobs=postgresql" in address
    assert "cache" not in address
    other = visit(address[address.index("#") :])
    status = settled(other)
    assert "The last change" not in status
    assert other.locator("#project_name").input_value() == name
    assert other.locator("#jobs input:checked").get_attribute("value") == "postgresql"
    assert other.locator("#copier").inner_text() == page.locator("#copier").inner_text()
    # Another address in the same page, as the link to start over is.
    other.get_by_role("link", name="Start over").click()
    assert "The last change" in settled(other)
    assert other.locator("#project_name").input_value() == "My Service"


@pytest.mark.parametrize(
    "fragment",
    [
        *("#database=oracle", "#preview", "#colour=<img src=x>", "#%E0%A4%A&&=&__proto__=1", "#project_name-hint=1"),
        "#project_name=" + 1001 * "x",
    ],
    ids=lambda fragment: fragment[:30],
)
def test_a_wrong_address_gives_a_sentence(visit: Open, fragment: str) -> None:
    page = visit(fragment + "&license=MIT")
    assert settled(page).startswith("The address has an unknown question or choice, which is ignored: ")
    assert page.locator("#license input:checked").get_attribute("value") == "MIT"
    assert page.url.endswith("/#license=MIT")
    assert page.locator("#tree button").count() > 50


def test_the_commands_are_copied(visit: Open, start_page: str) -> None:
    page = visit("#database=sqlite")
    settled(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=start_page)
    for label, command in (("with uv", "uvx copier copy "), ("from a clone", "make new ")):
        page.get_by_role("button", name=f"Copy the command {label}").click()
        expect(page.get_by_role("status").filter(has_text=f"Copied: {command}")).to_be_visible()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith(command)
        assert "database=sqlite" in copied
    # Over plain HTTP from another machine, browsers have no such clipboard.
    page.evaluate("navigator.clipboard.writeText('')")
    page.evaluate("navigator.clipboard.writeText = undefined")
    page.get_by_role("button", name="Copy the command with uv").click()
    expect(page.locator("#status")).to_contain_text("Copied: uvx")
    assert page.evaluate("navigator.clipboard.readText()").startswith("uvx copier copy ")


@pytest.mark.usefixtures("one_environment")
def test_the_project_in_the_zip_passes_its_checks(visit: Open, tmp_path: Path) -> None:
    page = visit("#project_name=Order+Desk")
    settled(page)
    with page.expect_download() as started:
        page.get_by_role("button", name="Download the zip").click()
    assert started.value.suggested_filename == "order-desk.zip"
    project = unzip(started.value.path(), tmp_path / "unpacked")
    commit(project, "Unzipped")
    make_check(project, features_only(project))


def test_a_zip_has_the_answers_of_which_the_preview_is_not_there_yet(visit: Open) -> None:
    page = visit()
    settled(page)
    page.route("**/v1/previews", lambda route: None)
    page.locator("#project_name").fill("Order Desk")
    with page.expect_download() as started:
        page.get_by_role("button", name="Download the zip").click()
    assert started.value.suggested_filename == "order-desk.zip"


def test_a_zip_of_answers_that_are_refused_leads_to_the_question(visit: Open) -> None:
    page = visit("#package_name=Foo")
    settled(page)
    page.get_by_role("button", name="Download the zip").click()
    assert page.evaluate("document.activeElement.id") == "package_name"
    # There is no command yet.
    expect(page.get_by_role("button", name="Copy the command")).to_have_count(0)


def test_without_javascript_a_sentence_says_so_and_no_button_does_nothing(visit: Open) -> None:
    page = visit(java_script_enabled=False)
    expect(page.locator("noscript")).to_be_visible()
    assert page.locator("noscript").inner_text().startswith("This page needs JavaScript. ")
    expect(page.get_by_role("button")).to_have_count(0)


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1400, "dark")])
def test_no_rule_of_accessibility_is_violated(visit: Open, width: int, scheme: str) -> None:
    page = visit("#unknown=1", viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")

    def violations(**options: Any) -> list[str]:
        found = Axe().run(page, options=options).response["violations"]
        return [f"{it['id']}: {node['html']} {node['failureSummary']}" for it in found for node in it["nodes"]]

    settled(page)
    choose(page, database="sqlite")
    open_file(page, "src/my_service/app.py")
    page.locator("#author_email").fill("nobody")
    settled(page)
    assert page.locator("#author_email-message").inner_text()
    assert violations() == []
    page.get_by_role("button", name="Compare MIT").click()
    settled(page)
    page.locator("#differences summary").nth(1).click()
    assert violations() == []
    # What counts them can count.
    page.locator("#choose").evaluate("it => { it.style.color = '#888'; it.style.background = '#777' }")
    assert [line.partition(":")[0] for line in violations(runOnly=["color-contrast"])] == ["color-contrast"]


@pytest.mark.parametrize("width", [320, 400, 1400])
def test_the_page_itself_never_scrolls_sideways(visit: Open, width: int) -> None:
    long = "x" * 80
    page = visit(f"#project_name={long}&database=postgresql", viewport={"width": width, "height": 800})
    settled(page)
    page.get_by_role("button", name="Compare with Redis").click()
    settled(page)
    page.locator("#differences summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("#comparison").bounding_box()["width"] <= width  # type: ignore[index]


def test_the_page_is_light_and_soon_there(visit: Open) -> None:
    asked: list[str] = []
    page = visit()
    settled(page)
    page.on("request", lambda request: asked.append(request.url))

    def reload() -> tuple[float, list[str]]:
        """Return the milliseconds until the first paint, and the paths that were asked for."""
        asked.clear()
        page.reload()
        settled(page)
        painted = "performance.getEntriesByType('paint').find(it => it.name == 'first-contentful-paint').startTime"
        return page.evaluate(painted), [re.sub(r"https?://[^/]+", "", url) for url in asked]

    sent = sum(len(gzip.compress(path.read_bytes())) for path in PAGE.iterdir())
    # The other tests' share of the cores, and of the network, differs.
    reloads = [reload() for _ in range(3)]
    paint = min(milliseconds for milliseconds, _ in reloads)
    print(f"the page: {sent} bytes compressed, first paint after {paint:.0f} ms")
    assert sent <= 150_000
    # It aims at 500 ms.
    assert paint < 2_500
    # Nothing is sent before it is needed.
    paths = min((paths for _, paths in reloads), key=len)
    assert paths == ["/", "/page/style.css", "/page/page.js", "/v1/questions", "/v1/previews", "/v1/highlights"]


def test_a_busy_service_is_asked_once_more(visit: Open) -> None:
    page = visit(failures=True)
    settled(page)
    refusals = 1

    def refuse(route: Route) -> None:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"detail": "Too many requests at once"})
        else:
            route.continue_()

    page.route("**/v1/previews", refuse)
    # Each text of the status, and when it was set.
    page.evaluate(
        "() => { const told = (window.told = []), status = document.getElementById('status'), now = () => performance.now();"
        "new MutationObserver(() => told.push([status.textContent, now()])).observe(status, { childList: true }) }"
    )
    page.locator("input[name=license][value=MIT]").check()
    # The bar of progress is there.
    assert page.locator("#preview").evaluate("it => getComputedStyle(it, '::before').height") == "3px"
    assert "1 file added" in settled(page)
    (text, busy), (_, later), *_ = page.evaluate("window.told")
    assert text == "The service is busy. This page tries again in 1 second."
    # Nothing replaces it before that.
    assert later - busy > 990
    refusals = 2
    page.locator("input[name=cache][value=redis]").check()
    expect(page.locator("#status")).to_have_text("The service is still busy. Try again in a minute.")
    page.get_by_role("button", name="Try again").click()
    assert "17 files added" in settled(page)
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()


def test_without_a_network_the_last_preview_stays(visit: Open) -> None:
    page = visit(failures=True)
    settled(page)
    page.context.set_offline(True)
    assert choose(page, cache="redis") == "The service can't be reached, so this page shows nothing new."
    assert page.locator("#tree button").count() > 50
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    assert "17 files added" in settled(page)


def test_a_late_response_is_dropped(visit: Open) -> None:
    page = visit()
    settled(page)
    held: list[Route] = []
    failed: list[Request] = []
    page.on("requestfailed", lambda it: None if "NETWORK_CHANGED" in str(it.failure) else failed.append(it))
    page.route("**/v1/previews", lambda route: held.append(route) if not held else route.continue_())
    page.locator("input[name=database][value=sqlite]").check()
    while not held:
        page.wait_for_timeout(10)
    choose(page, database="postgresql")
    assert [request.url for request in failed] == [held[0].request.url]
    assert "database=postgresql" in page.locator("#copier").inner_text()
    assert page.locator('[id="/src/my_service/chassis/database/"]').count() == 1
    open_file(page, "src/my_service/chassis/database/postgresql.py")
