"""The values of a job document that say what comes into a job's scratch directory and what is kept of it.

Owns limits and texts for artifacts, output files and directories, and files for a task's stdout. Pure.
"""

import json
import re
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr

from jobs.fields import reject

MAXIMUM_ARTIFACTS = 100
MAXIMUM_OUTPUTS = 100
MAXIMUM_URL = 8192
MAXIMUM_PATH = 1024
HOME = "/home/user"
# Where a container's own directories are: a mount there would break it, or be none.
_RESERVED = ("/proc", "/sys", "/dev", "/tmp", HOME)  # noqa: S108

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_OR_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")
_MOUNTABLE = re.compile(r"[A-Za-z0-9._+@-]{1,255}")
_MOUNTPOINT = re.compile(r"(/[A-Za-z0-9._+@-]{1,255}){1,32}")


def artifact_url(value: str) -> str:
    """An address of http or https (S89); anything else is a name in object storage (U14)."""
    if len(value) > MAXIMUM_URL or _CONTROL_OR_BLANK.search(value):
        raise reject("url", f"an artifact's url has at most {MAXIMUM_URL} characters and no blanks")
    try:
        parts = urlsplit(value)
        host = parts.hostname
    except ValueError as error:
        raise reject("url", "an artifact's url must be a valid http or https address") from error
    if "://" not in value:
        raise reject("notAvailable", "artifacts from object storage are not available yet")
    if parts.scheme.lower() not in {"http", "https"} or not host:
        raise reject("url", "an artifact's url must be a valid http or https address")
    if not is_file_name(artifact_name(value)):
        raise reject("url", "the path of an artifact's url must end in a file name")
    return value


def artifact_name(url: str) -> str:
    """The file's name in the scratch: the last part of the URL's path, unquoted (W29)."""
    return unquote(urlsplit(url).path.rsplit("/", 1)[-1])


def is_file_name(name: str) -> bool:
    size = len(name.encode("utf-8", "replace"))
    return (
        name not in {".", ".."} and 0 < size < 256 and "/" not in name and not _CONTROL.search(name)
    )


def mountpoint(value: str) -> str:
    """ "dir:/abs": the directory `dir` of the scratch is seen at `/abs` (U12)."""
    directory, colon, inner = value.partition(":")
    names_well = _MOUNTABLE.fullmatch(directory) and _MOUNTPOINT.fullmatch(inner)
    if not (colon and names_well) or {".", ".."} & {directory, *inner.split("/")}:
        raise reject(
            "mountpoint",
            'a mountpoint is "directory:/path": a name without slashes, then an absolute path;'
            " letters, digits and . _ + @ - are allowed",
        )
    if any(inner == path or inner.startswith(f"{path}/") for path in _RESERVED):
        raise reject("mountpoint", f"nothing can be mounted at or below {', '.join(_RESERVED)}")
    return value


def few_artifacts(value: object) -> object:
    if isinstance(value, list) and len(value) > MAXIMUM_ARTIFACTS:
        raise reject("tooMany", f"at most {MAXIMUM_ARTIFACTS} artifacts are allowed")
    return value


def output_names(value: object) -> object:
    """Texts, or objects with a `name`, as describe shows them (C31)."""
    if not isinstance(value, list):
        return value
    if len(value) > MAXIMUM_OUTPUTS:
        raise reject("tooMany", f"at most {MAXIMUM_OUTPUTS} names are allowed")
    return [item.get("name") if isinstance(item, dict) else item for item in value]


def scratch_path(value: str) -> str:
    """A path below the scratch directory, without its name: relative, or below /home/user."""
    inner = value.removeprefix(f"{HOME}/")
    too_long = len(inner.encode("utf-8", "replace")) > MAXIMUM_PATH
    parts = [part for part in inner.split("/") if part not in {"", "."}]
    if too_long or not parts or inner.startswith("/") or ".." in parts or _CONTROL.search(inner):
        raise reject(
            "path",
            f"{json.dumps(value[:80])} must be a path inside the job's directory: relative or below"
            f" {HOME}, 1 to {MAXIMUM_PATH} bytes, without .. and control characters",
        )
    return "/".join(parts)


ArtifactUrl = Annotated[StrictStr, AfterValidator(artifact_url)]
Mountpoint = Annotated[StrictStr, AfterValidator(mountpoint)]
ScratchPath = Annotated[StrictStr, AfterValidator(scratch_path)]
OutputNames = Annotated[tuple[ScratchPath, ...], BeforeValidator(output_names)]
AppName = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
