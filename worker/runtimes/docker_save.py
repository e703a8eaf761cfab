"""Write an image in the layout of `docker save`, which every runtime can load."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

ARCHIVE_NAME = "prominence/image:latest"
"""The name images have inside archives written here; what they are is said by their digest."""


def write_archive(
    path: Path, config: bytes, layers: Sequence[Path], *, name: str = ARCHIVE_NAME
) -> None:
    """Write the archive of one image; `layers` are (possibly compressed) tar files, lowest first.

    Reproducible: the same input gives the same bytes. Layers are directories with a file of their
    own, for udocker cannot follow the links that podman and skopeo write instead.
    """
    repository, _, tag = name.rpartition(":")
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        parent, members = "", []
        for place, layer in enumerate(layers):
            top = place == len(layers) - 1
            parent = _add_layer(archive, layer, parent, config if top else b"{}")
            members.append(f"{parent}/layer.tar")
        add_file(archive, config_name, config)
        manifest = [{"Config": config_name, "RepoTags": [name], "Layers": members}]
        add_file(archive, "manifest.json", json.dumps(manifest).encode())
        add_file(archive, "repositories", json.dumps({repository: {tag: parent}}).encode())


def add_file(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    """Add a regular file owned by root, dated 1970."""
    member = tarfile.TarInfo(name)
    member.mode, member.size = mode, len(data)
    archive.addfile(member, io.BytesIO(data))


def _add_layer(archive: tarfile.TarFile, layer: Path, parent: str, config: bytes) -> str:
    """Add one layer in the format of version 1, which names it after all below; return its id."""
    sha256 = hashlib.sha256(parent.encode() + config)
    with layer.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
        layer_id = sha256.hexdigest()
        metadata = {**json.loads(config), "id": layer_id, **({"parent": parent} if parent else {})}
        directory = tarfile.TarInfo(layer_id)
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(directory)
        add_file(archive, f"{layer_id}/VERSION", b"1.0")
        add_file(archive, f"{layer_id}/json", json.dumps(metadata, sort_keys=True).encode())
        member = tarfile.TarInfo(f"{layer_id}/layer.tar")
        member.mode, member.size = 0o644, layer.stat().st_size
        file.seek(0)
        archive.addfile(member, file)
    return layer_id
