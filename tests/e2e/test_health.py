"""Health and metrics of a real system whose parts are stopped, one after another."""

import signal
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from prominence.health import LOOPS
from tests.conftest import StackMaker
from tests.stack import Stack
from tests.wait import wait_until

STUCK_S = 2
OPERATORS = "for-prometheus"
SETTINGS = {"PROMINENCE_STUCK_S": str(STUCK_S), "PROMINENCE_METRICS_TOKEN": OPERATORS}


@pytest.fixture(scope="module")
def split(make_stack: StackMaker) -> Iterator[Stack]:
    """Each loop in a process of its own."""
    with make_stack(settings=SETTINGS, loops=LOOPS) as stack:
        yield stack


def failing(stack: Stack) -> dict[str, str]:
    """What /health names, and why."""
    answer = httpx.get(f"{stack.url}/health", trust_env=False, timeout=30)
    if answer.status_code == 204:
        return {}
    assert answer.status_code == 409
    return dict(part.split(": ", 1) for part in answer.json()["errors"].split("; "))


def scrape(stack: Stack, token: str = OPERATORS) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{stack.site}/metrics", headers=headers, trust_env=False, timeout=30)


def numbers(stack: Stack) -> dict[str, float]:
    """Metrics by name and label: `prominence_part_works{scheduler}`."""
    return {
        f"{sample.name}{{{','.join(sample.labels.values())}}}": sample.value
        for family in text_string_to_metric_families(scrape(stack).text)
        for sample in family.samples
    }


@pytest.mark.parametrize("part", LOOPS)
def test_stopped_loop_is_named_until_it_goes_on(split: Stack, part: str) -> None:
    wait_until(lambda: not failing(split), 60, dump=lambda: failing(split))
    split.kill(part, signal.SIGSTOP)
    try:
        wait_until(lambda: part in failing(split), 10 * STUCK_S, dump=lambda: failing(split))
        assert numbers(split)[f"prominence_part_works{{{part}}}"] == 0
    finally:
        split.kill(part, signal.SIGCONT)
    wait_until(lambda: not failing(split), 60, dump=lambda: failing(split))


def test_metrics_count_what_happened(split: Stack) -> None:
    wait_until(lambda: not failing(split), 60, dump=lambda: failing(split))
    job = split.submit({"tasks": [{"image": "busybox", "cmd": "true"}]})
    split.wait_job(job)

    def counted() -> dict[str, float]:
        found = numbers(split)
        return found if found.get("prominence_attempts_ended_total{finished}", 0) >= 1 else {}

    found = wait_until(counted, 20, dump=lambda: numbers(split))
    assert found["prominence_matches_total{}"] >= 1
    assert found["prominence_nodes{ready}"] == 1
    assert found["prominence_queue_age_seconds{}"] == 0
    assert found["prominence_lag_seconds{ingest}"] < STUCK_S
    assert all(found[f"prominence_part_works{{{part}}}"] == 1 for part in LOOPS)


def test_metrics_are_for_operators(split: Stack) -> None:
    assert scrape(split, "wrong").status_code == 403
    assert scrape(split, split.token("mallory")).status_code == 403
    assert httpx.get(f"{split.site}/metrics", trust_env=False).status_code == 403
