"""Where images come from: registries with and without accounts, servers, files on disk."""

import functools
import hashlib
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtimes.conftest import CREDENTIAL
from tests.runtimes.machine import IMAGES, ROOT, Machine
from worker.demo_registry import DemoRegistry
from worker.image_maker import push_image, save_image
from worker.runtimes.base import Credential, ImageRequest
from worker.runtimes.docker_save import add_file, write_archive
from worker.runtimes.errors import ImageDenied, ImageNotFound, ImagePullFailed
from worker.runtimes.select import SINGULARITY, UDOCKER

BOTH = pytest.mark.parametrize("runtime", [SINGULARITY, UDOCKER])
PLAIN = IMAGES["test/plain:latest"]


class _Files(http.server.SimpleHTTPRequestHandler):
    """Serves a directory; every path first answers 503 once when it contains "flaky"."""

    failed: set[str] = set()

    def do_GET(self) -> None:
        if "flaky" in self.path and self.path not in self.failed:
            self.failed.add(self.path)
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def files(machine: Machine) -> Path:
    """A directory with the plain image as tarball and as Singularity image."""
    path = machine.room / "files"
    path.mkdir()
    save_image(PLAIN, path / "plain.tar", name="any/name:1")
    (path / "flaky.tar").write_bytes((path / "plain.tar").read_bytes())
    (path / "broken.tar").write_bytes((path / "plain.tar").read_bytes()[:100_000])
    (path / "plain.sif").write_bytes(machine.build_sif().read_bytes())
    return path


@pytest.fixture(scope="module")
def server(files: Path) -> Iterator[str]:
    handler = functools.partial(_Files, directory=str(files))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def host_of(registry: DemoRegistry) -> str:
    return registry.url.removeprefix("http://")


def private(registry: DemoRegistry, credential: Credential | None) -> ImageRequest:
    return ImageRequest(image=f"{host_of(registry)}/test/plain", credential=credential)


@BOTH
@pytest.mark.contract("S17")
def test_digest_is_the_registrys(machine: Machine, registry: DemoRegistry, runtime: str) -> None:
    digest = push_image(PLAIN, registry.url, name="test/plain:latest")
    with machine.cache().acquire(runtime, machine.image("test/plain")) as lease:
        assert lease.image.digest == digest


@BOTH
@pytest.mark.contract("S18")
def test_host_with_port_and_digest_is_pulled(
    machine: Machine, registry: DemoRegistry, runtime: str
) -> None:
    digest = push_image(PLAIN, registry.url, name="test/plain:latest")
    request = ImageRequest(image=f"{host_of(registry)}/test/plain@{digest}")
    with machine.cache().acquire(runtime, request) as lease:
        assert lease.image.digest == digest


@BOTH
@pytest.mark.contract("S39")
def test_right_credential_is_let_in(
    machine: Machine, private_registry: DemoRegistry, runtime: str
) -> None:
    with machine.cache().acquire(runtime, private(private_registry, CREDENTIAL)) as lease:
        assert lease.image.digest.startswith("sha256:")


@BOTH
@pytest.mark.parametrize("token", ["wrong-token", None])
def test_other_credential_is_refused_even_when_cached(
    machine: Machine, private_registry: DemoRegistry, runtime: str, token: str | None
) -> None:
    machine.cache().acquire(runtime, private(private_registry, CREDENTIAL)).release()
    credential = Credential(username="alice", token=token) if token else None
    with pytest.raises(ImageDenied) as failure:
        machine.cache().acquire(runtime, private(private_registry, credential))
    assert "wrong-token" not in str(failure.value)


def test_credential_hides_its_token() -> None:
    assert "s3cret" not in repr(ImageRequest(image="x", credential=CREDENTIAL))


@BOTH
def test_unreachable_registry_fails_the_pull(machine: Machine, runtime: str) -> None:
    request = ImageRequest(image="127.0.0.1:9/test/plain")
    with pytest.raises(ImagePullFailed, match="refused") as failure:
        machine.cache().acquire(runtime, request)
    assert failure.value.code == "imageRegistryAway"


@BOTH
def test_damaged_layer_is_noticed(machine: Machine, runtime: str) -> None:
    with DemoRegistry(machine.room / f"damaged-{runtime}") as damaged:
        push_image(PLAIN, damaged.url, name="test/plain:latest")
        blobs = (machine.room / f"damaged-{runtime}").rglob("data")
        layer = max(blobs, key=lambda path: path.stat().st_size)
        content = bytearray(layer.read_bytes())
        content[1000] ^= 1
        layer.write_bytes(content)
        with pytest.raises(ImagePullFailed, match="arrived damaged"):
            machine.cache(f"undamaged-{runtime}").acquire(runtime, private(damaged, None))


@BOTH
@pytest.mark.parametrize("place", ["url", "path"])
@pytest.mark.contract("S20")
def test_tarball_runs(machine: Machine, files: Path, server: str, runtime: str, place: str) -> None:
    name = f"{server if place == 'url' else files}/plain.tar"
    assert machine.run(runtime, "echo", "ran", image=name).out == "ran\n"


@pytest.mark.parametrize("place", ["url", "path"])
@pytest.mark.contract("S21")
def test_singularity_image_runs(machine: Machine, files: Path, server: str, place: str) -> None:
    name = f"{server if place == 'url' else files}/plain.sif"
    ended = machine.run(SINGULARITY, "sh", "-c", "echo $FROM_IMAGE", image=name)
    assert ended.out == "image\n"


def test_server_that_fails_once_is_asked_again(machine: Machine, files: Path, server: str) -> None:
    machine.cache().acquire(UDOCKER, ImageRequest(image=f"{server}/flaky.tar")).release()


@BOTH
def test_url_of_nothing_is_not_found(machine: Machine, server: str, runtime: str) -> None:
    with pytest.raises(ImageNotFound):
        machine.cache().acquire(runtime, ImageRequest(image=f"{server}/none.tar?token=hush"))


@BOTH
def test_path_of_nothing_is_not_found(machine: Machine, runtime: str) -> None:
    with pytest.raises(ImageNotFound):
        machine.cache().acquire(runtime, ImageRequest(image="/none/such.tar"))


@BOTH
@pytest.mark.skipif(not ROOT, reason="only root has files that the puller cannot read")
def test_path_is_read_with_the_pullers_rights(machine: Machine, files: Path, runtime: str) -> None:
    closed = machine.room / f"closed-{runtime}.tar"
    closed.write_bytes((files / "plain.tar").read_bytes())
    closed.chmod(0o600)
    with pytest.raises(ImageNotFound):
        machine.cache().acquire(runtime, ImageRequest(image=str(closed)))


@BOTH
def test_broken_tarball_fails_and_leaves_nothing(
    machine: Machine, files: Path, runtime: str
) -> None:
    cache = machine.cache(f"broken-{runtime}")
    with pytest.raises(ImagePullFailed):
        cache.acquire(runtime, ImageRequest(image=str(files / "broken.tar")))
    room = machine.room / f"broken-{runtime}"
    assert not list((room / "entries").iterdir()) + list((room / "work").iterdir())


@BOTH
def test_upper_layer_removes_and_replaces(machine: Machine, files: Path, runtime: str) -> None:
    lower, upper = files / "lower.layer", files / "upper.layer"
    lower.write_bytes(PLAIN.layer)
    with tarfile.open(fileobj=(content := io.BytesIO()), mode="w") as layer:
        add_file(layer, "etc/.wh.group", b"")
        add_file(layer, "etc/new", b"upper\n")
    upper.write_bytes(content.getvalue())
    path = files / f"layers-{runtime}.tar"
    config = json.loads(PLAIN.config)
    digest = hashlib.sha256(upper.read_bytes()).hexdigest()
    config["rootfs"]["diff_ids"].append(f"sha256:{digest}")
    write_archive(path, json.dumps(config).encode(), [lower, upper])
    script = "cat /etc/new; test -e /etc/group || echo gone; test -e /etc/passwd && echo kept"
    ended = machine.run(runtime, "sh", "-c", script, image=str(path))
    assert ended.out == "upper\ngone\nkept\n"
