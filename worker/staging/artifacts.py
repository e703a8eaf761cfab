"""Artifacts into the scratch: downloaded, unpacked, made executable. In a child of the shim, as the job's own user."""

import codecs
import os
import shutil
from pathlib import Path

import msgspec

from worker.protocol import ArtifactSpec, EndReason
from worker.staging.download import Download, DownloadFailed, DownloadTooLarge
from worker.staging.tree import TooLarge
from worker.staging.unpack import UnpackFailed, form_of, limit_memory, unpack

for _name in ("idna", "latin-1", "ascii", "cp437", "utf-8"):
    # Loaded on first use, when this is the job's user, who may not be able to read Python's own files.
    codecs.lookup(_name)

EXECUTABLE = 0o775
"""Upstream's (U13)."""


class BroughtIn(msgspec.Struct, frozen=True, kw_only=True):
    """`reason` says why the job cannot run, if so."""

    reason: EndReason | None = None
    detail: str = ""


def bring_in(
    artifacts: tuple[ArtifactSpec, ...], *, work: Path, private: Path, limit_bytes: int
) -> BroughtIn:
    """All artifacts, in order; stops at the first that fails. Blocks. Limits this process's memory."""
    limit_memory()
    for artifact in artifacts:
        try:
            _bring(artifact, work, private / "download", limit_bytes)
        except DownloadFailed as error:
            return BroughtIn(reason=EndReason.STAGE_IN, detail=str(error))
        except UnpackFailed as error:
            return BroughtIn(reason=EndReason.UNPACK, detail=f"{artifact.filename}: {error}")
        except (DownloadTooLarge, TooLarge) as error:
            return BroughtIn(reason=EndReason.DISK, detail=f"{artifact.filename}: {error}")
        except OSError as error:
            detail = f"{artifact.filename}: {error.strerror or error}"
            return BroughtIn(reason=EndReason.NODE_ERROR, detail=detail)
    return BroughtIn()


def _bring(artifact: ArtifactSpec, work: Path, draft: Path, limit_bytes: int) -> None:
    Download(artifact.url, draft, limit_bytes=limit_bytes).fetch()
    draft.chmod(EXECUTABLE if artifact.executable else 0o644)
    if artifact.folder:
        (work / artifact.folder).mkdir(exist_ok=True)
    if form_of(artifact.filename) is not None:
        unpack(draft, artifact.filename, into=work, limit_bytes=limit_bytes)
        draft.unlink()
        return
    target = work / artifact.filename
    if os.path.lexists(target):
        raise UnpackFailed("a file of this name is there already")
    shutil.move(draft, target)
