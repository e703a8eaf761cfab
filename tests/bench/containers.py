"""Show 6: container jobs with a cached image, beside the bare runtime with the same options, and bubblewrap's floor."""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.bench.calls import Caller
from tests.bench.options import Options
from tests.bench.rig import USER, Rig
from tests.runtimes.machine import Machine
from worker.demo_registry import DemoRegistry
from worker.runtimes.base import ContainerRequest
from worker.runtimes.identity import become

IMAGE = "busybox"
RUNTIMES = {"singularity": "Apptainer", "udocker": "udocker"}
PAIRS = 10
SCRIPT = 'i=0; while [ $i -lt "$0" ]; do "$@" >/dev/null || exit 1; i=$((i+1)); done'


def run(options: Options) -> None:
    with DemoRegistry(options.room / "registry") as registry:
        registry.push_demo_images()
        (options.room / "machine").mkdir(mode=0o755)
        machine = Machine(room=options.room / "machine", mirror=registry.url)
        with Rig(options.room / "rig", mirror=registry.url) as rig:
            for runtime, name in RUNTIMES.items():
                _measure(options, rig, machine, runtime, name)
    _measure_bubblewrap(options, machine)


def _measure(options: Options, rig: Rig, machine: Machine, runtime: str, name: str) -> None:
    callers = [Caller(rig.stack.port, rig.stack.token(USER)) for _ in range(2)]
    first_job = _document(runtime, "echo", "x")
    _ours(callers[0], first_job)  # pulls the image
    kind = "directory" if _image(machine, runtime).is_dir() else "file"
    ours, theirs = [], []
    for _ in range(options.count(PAIRS, 2)):
        theirs += _in_pairs([partial(_first_byte, machine, runtime, slot) for slot in range(2)])
        ours += _in_pairs([partial(_ours, caller, first_job) for caller in callers])
    for caller in callers:
        caller.close()
    record = options.record
    record.latencies(f"{name}: submit to first byte", ours, note=f"image kept as a {kind}")
    record.latencies(f"bare {name}: start to first byte", theirs)
    middle = sorted(ours)[len(ours) // 2] - sorted(theirs)[len(theirs) // 2]
    record.add(f"{name}: first byte later than bare", 1e3 * middle, "ms", goal="<40")
    _measure_rate(options, rig, machine, runtime, name)


def _measure_rate(options: Options, rig: Rig, machine: Machine, runtime: str, name: str) -> None:
    count = options.count(200 if runtime == "singularity" else 60, 6)
    document = _document(runtime, "true")
    loop = _shell_loops if runtime == "singularity" else _made_anew
    rig.warm_up(document, 10)
    before = loop(machine, runtime, count // 2)
    drain = rig.run_pending(document, count, 240)
    after = loop(machine, runtime, count // 2)
    floor, record = (before + after) / 2, options.record
    record.add(f"{count} {name} jobs on 2 slots", drain.rate, "jobs/s")
    record.add(f"bare {name}, two loops", floor, "jobs/s", low=before, high=after, samples=2)
    record.add(
        f"{name} jobs, share of two loops of the bare runtime",
        drain.rate / floor,
        "x",
        goal=">=0.9",
    )
    for part, cost in drain.cpu_ms().items():
        record.add(f"{name} jobs, CPU per job: {part}", cost, "ms")


def _document(runtime: str, command: str, *args: str) -> dict[str, object]:
    return {
        "name": "bench",
        "resources": {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1},
        "tasks": [{"image": IMAGE, "runtime": runtime, "cmd": command, "args": list(args)}],
    }


def _ours(caller: Caller, document: dict[str, object]) -> float:
    begun = time.time()
    job = caller.submit(document)
    seen = [at for at, event in caller.events(job) if event.event == "stdout"]
    assert seen, f"job {job} printed nothing"
    return seen[0] - begun


def _image(machine: Machine, runtime: str) -> Path:
    return machine.container(runtime, IMAGE, command=("true",)).image.path


def _first_byte(machine: Machine, runtime: str, slot: int) -> float:
    """From nothing but the cached image: udocker makes its container first."""
    begun = time.monotonic()
    request = machine.container(runtime, IMAGE, command=("echo", "x"), slot=slot)
    with machine.start(request) as process:
        assert process.stdout
        assert process.stdout.read(1), process.stderr.read() if process.stderr else ""
        took = time.monotonic() - begun
        process.communicate(timeout=30)
    return took


def _in_pairs(work: Sequence[Callable[[], float]]) -> list[float]:
    """All at once; their results."""
    found: list[float] = []
    threads = [threading.Thread(target=lambda w=each: found.append(w())) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len(found) == len(work), "one of them failed"
    return found


def _shell_loops(machine: Machine, runtime: str, count: int) -> float:
    """Containers a second of two shells, each starting `count` of them one after the other."""
    requests = [machine.container(runtime, IMAGE, command=("true",), slot=n) for n in range(2)]
    begun, loops = time.monotonic(), []
    for request in requests:
        launch = machine.runtimes[runtime].launch(request)
        loops.append(
            subprocess.Popen(
                ["/bin/sh", "-c", SCRIPT, str(count), *launch.argv],
                env=dict(launch.env),
                cwd=launch.cwd,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                preexec_fn=partial(become, request.identity),
            )
        )
    assert all(loop.wait(300) == 0 for loop in loops), "a bare container failed"
    return len(loops) * count / (time.monotonic() - begun)


def _made_anew(machine: Machine, runtime: str, count: int) -> float:
    """The same for a runtime that has to make each container before it runs."""

    def loop(slot: int) -> float:
        for _ in range(count):
            assert machine.run(runtime, "true", image=IMAGE, slot=slot).code == 0
        return 0.0

    begun = time.monotonic()
    _in_pairs([partial(loop, slot) for slot in range(2)])
    return 2 * count / (time.monotonic() - begun)


def _measure_bubblewrap(options: Options, machine: Machine) -> None:
    """The same image below the smallest container there is."""
    program = shutil.which("bwrap")
    request = machine.container("udocker", IMAGE, command=("echo", "x"))
    root = _root_of(request)
    if program is None or root is None:
        options.record.add("bubblewrap: start to first byte", None, "ms", note="not installed")
        return
    argv = [program, "--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev"]
    argv += ["--unshare-all", "--die-with-parent", "/bin/echo", "x"]
    times = []
    for _ in range(options.count(30, 5)):
        begun = time.monotonic()
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, preexec_fn=partial(become, request.identity)
        ) as process:
            assert process.stdout
            assert process.stdout.read(1)
            times.append(time.monotonic() - begun)
    options.record.latencies("bubblewrap: start to first byte", times)


def _root_of(request: ContainerRequest) -> Path | None:
    """The unpacked root directory of an image, wherever its runtime keeps it."""
    for room in (request.image.path, request.private):
        for found in [room, *room.rglob("ROOT"), *room.rglob("rootfs")]:
            if (found / "bin" / "busybox").exists() or (found / "bin" / "echo").exists():
                return found
    return None
