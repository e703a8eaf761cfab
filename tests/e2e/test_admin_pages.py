"""The admin in a real browser, against the API server: pages load whole, and a job can be deleted."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from tests.conftest import StackMaker
from tests.stack import Stack
from tests.wait import wait_until

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=1400,1000"
)
JOB = {
    "name": "to-be-deleted",
    "tasks": [{"image": "busybox", "cmd": "echo hello", "runtime": "singularity"}],
}
WAIT_S = 20


@pytest.fixture(scope="module")
def idle_stack(make_stack: StackMaker) -> Iterator[Stack]:
    """A system without nodes: its jobs wait."""
    with make_stack(nodes=0) as stack:
        yield stack


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for word in [*OPTIONS.split(), f"--user-data-dir={tmp_path}"]:
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def admin(browser: WebDriver, idle_stack: Stack) -> WebDriver:
    """A browser that is logged in."""
    password = idle_stack.manage("admin", "root")
    browser.get(f"{idle_stack.site}/admin/")
    browser.find_element(By.NAME, "username").send_keys("root")
    browser.find_element(By.NAME, "password").send_keys(password)
    browser.find_element(By.CSS_SELECTOR, "form [type=submit]").click()
    wait_until(lambda: browser.find_elements(By.ID, "dashboard"), WAIT_S)
    return browser


def text_of(browser: WebDriver) -> str:
    """What the page says; nothing while it is being replaced by the next one."""
    try:
        return browser.find_element(By.TAG_NAME, "body").text
    except (NoSuchElementException, StaleElementReferenceException):
        return ""


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", ["Running", "Pending", "Oldest waiting job", "Ended in the last 24 hours"]),
        ("jobs/job/", ["Image and command", "to-be-deleted", "alice", "pending"]),
        ("jobs/job/{job}/change/", ["Timeline", "Attempts", "submitted", '"image": "busybox"']),
        ("clouds/node/", ["0 nodes"]),
        ("jobs/outbox/", ["0 outbox"]),
    ],
)
def test_pages_load_whole(path: str, words: list[str], admin: WebDriver, idle_stack: Stack) -> None:
    job = idle_stack.submit(JOB)

    admin.get(f"{idle_stack.site}/admin/{path.format(job=job)}")

    assert [word for word in words if word not in text_of(admin)] == []
    assert admin.get_log("browser") == []  # type: ignore[no-untyped-call]
    style = "return getComputedStyle(document.querySelector('#nav-sidebar-apps')).overflow"
    assert admin.execute_script(style) == "auto", "the theme's style sheet is missing"  # type: ignore[no-untyped-call]


def test_a_pending_job_is_deleted_by_the_action(admin: WebDriver, idle_stack: Stack) -> None:
    job = idle_stack.submit(JOB)
    admin.get(f"{idle_stack.site}/admin/jobs/job/")

    admin.find_element(By.CSS_SELECTOR, f"input.action-select[value='{job}']").click()
    admin.find_element(
        By.CSS_SELECTOR, "select[name=action] option[value=delete_selected_jobs]"
    ).click()
    wait_until(lambda: admin.find_element(By.NAME, "index").is_displayed(), WAIT_S)
    admin.find_element(By.NAME, "index").click()
    wait_until(lambda: "Delete these jobs?" in text_of(admin), WAIT_S)
    admin.find_element(By.ID, "confirm").click()

    wait_until(lambda: "being stopped by their nodes: 1" in text_of(admin), WAIT_S)
    assert idle_stack.describe(job)["status"] == "deleted"


def test_a_wrong_password_does_not_let_in(browser: WebDriver, idle_stack: Stack) -> None:
    browser.get(f"{idle_stack.site}/admin/jobs/job/")
    browser.find_element(By.NAME, "username").send_keys("root")
    browser.find_element(By.NAME, "password").send_keys("wrong")
    browser.find_element(By.CSS_SELECTOR, "form [type=submit]").click()

    wait_until(lambda: "Please enter the correct username" in text_of(browser), WAIT_S)
