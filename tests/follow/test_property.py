"""Any life of a log, any number of breaks: a follower has every byte and every state once, in order."""

from typing import Any

from django.contrib.auth.models import User
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.states import Reason
from prominence.bus import server_redis
from tests.follow.scene import Scene
from tests.follow.viewer import Viewer, Watch
from tests.wait import wait_until

_data = st.one_of(
    st.binary(max_size=30), st.text(max_size=20).map(str.encode), st.just(b"x" * 99_000)
)
_step = st.one_of(
    st.tuples(st.sampled_from(["stdout", "stderr"]), _data),
    st.tuples(st.just("store"), st.integers(0, 100)),
    st.tuples(st.just("flush"), st.none()),
    st.tuples(st.just("retry"), st.none()),
    st.tuples(st.just("see"), st.none()),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(_step, max_size=20), breaks=st.lists(st.integers(0, 5), max_size=3))
def test_followers_see_everything_once(
    viewer: Viewer, owner: User, steps: list[tuple[str, Any]], breaks: list[int]
) -> None:
    scene = Scene(owner)
    watches = [Watch(viewer, scene.job.pk, break_every=often) for often in breaks]
    scene.run()
    lives = []
    for kind, value in steps:
        if kind == "retry":
            lives.append(_written(scene))
            scene.end(Reason.SHIM_LOST)
            scene.run()
        else:
            _move(scene, watches, kind, value)
    lives.append(_written(scene))
    scene.end()
    for watch in [*watches, Watch(viewer, scene.job.pk)]:
        told = watch.result()
        assert told.states == [
            "pending",
            *["running", "pending"] * (len(lives) - 1),
            "running",
            "completed",
        ]
        assert told.cuts == []
        for attempt, (stdout, stderr) in enumerate(lives, 1):
            assert told.text("stdout", attempt) == stdout
            assert told.text("stderr", attempt) == stderr


def _written(scene: Scene) -> tuple[bytes, bytes]:
    return bytes(scene.stdout.written), bytes(scene.stderr.written)


def _move(scene: Scene, watches: list[Watch], kind: str, value: Any) -> None:
    writer = scene.stdout
    if kind in {"stdout", "stderr"}:
        getattr(scene, kind).write(value)
    elif kind == "store":
        writer.store(writer.stored + (len(writer.written) - writer.stored) * value // 100)
    elif kind == "flush":
        server_redis().flushall()
        scene.stdout.republish()
        scene.stderr.republish()
    elif kind == "see":
        shortest = len(writer.written) - 3  # the beginning of a character is held back
        for watch in watches:
            wait_until(
                lambda: len(watch.transcript.text(attempt=scene.job.attempt)) >= shortest,  # noqa: B023
                dump=lambda: (watch.transcript, watch.error),  # noqa: B023
            )
