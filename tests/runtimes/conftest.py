"""Registries on free loopback ports, filled with small images, and a machine to run them on."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtimes.machine import IMAGES, Machine
from worker.demo_registry import DemoRegistry
from worker.image_maker import push_image
from worker.runtimes.base import Credential

CREDENTIAL = Credential(username="alice", token="s3cret word")


@pytest.fixture(scope="session")
def room() -> Iterator[Path]:
    """A directory other users may traverse (pytest's own is closed to them)."""
    path = Path(tempfile.mkdtemp(prefix="prominence-runtimes-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def registry(room: Path) -> Iterator[DemoRegistry]:
    """An open registry with the images of these tests and the demonstration images."""
    with DemoRegistry(room / "registry") as running:
        running.push_demo_images()
        for name, image in IMAGES.items():
            push_image(image, running.url, name=name)
        yield running


@pytest.fixture(scope="session")
def private_registry(room: Path) -> Iterator[DemoRegistry]:
    """A registry for CREDENTIAL alone, with test/plain in it."""
    with DemoRegistry(room / "private-registry", credential=CREDENTIAL) as running:
        name = "test/plain:latest"
        push_image(IMAGES[name], running.url, name=name, credential=CREDENTIAL)
        yield running


@pytest.fixture(scope="session")
def machine(room: Path, registry: DemoRegistry) -> Machine:
    """The machine all tests share; containers get directories of their own."""
    return Machine(room=room, mirror=registry.url)
