"""The values inside a job document: what each may be, and the sentence for what it may not be.

Owns limits and texts of single values; `jobs.spec` puts them together. Pure.
"""

import base64
import binascii
import json
import re
import shlex
from typing import Annotated

from django.conf import settings
from pydantic import AfterValidator, BeforeValidator, Field, StrictFloat, StrictInt, StrictStr
from pydantic_core import PydanticCustomError

from jobs import secret_fields

SINGULARITY, UDOCKER, PROCESS = "singularity", "udocker", "process"
BASIC, SIDECAR = "basic", "sidecar"
LATER_TYPES = frozenset({"openmpi", "mpich", "intelmpi", SIDECAR})
MAXIMUM_TASKS = 100
MAXIMUM_INPUTS = 100
MAXIMUM_LABELS = 100
MAXIMUM_VARIABLES = 1000
MAXIMUM_ARGUMENTS = 1000
MAXIMUM_INPUT_BYTES = 1_000_000
MAXIMUM_TEXT = 65_536
MAXIMUM_COMMANDS = 4 * MAXIMUM_TEXT

_NAME = re.compile(r"[A-Za-z0-9\-_ ./]{0,512}")
_LABEL_KEY = re.compile(r"[A-Za-z0-9]{1,63}")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9\-_./]{1,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_OR_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")


def reject(code: str, message: str) -> PydanticCustomError:
    """An error whose text is shown as it is."""
    return PydanticCustomError(code, "{text}", {"text": message})


def job_name(value: str) -> str:
    parts = value.split("/") if value else []
    if not _NAME.fullmatch(value) or any(part.strip() in {"", ".", ".."} for part in parts):
        raise reject(
            "name",
            "invalid job name: at most 512 letters, digits, blanks and - _ . / are allowed,"
            ' and no empty, "." or ".." part between slashes',
        )
    return value


def few_labels(value: object) -> object:
    if isinstance(value, dict) and len(value) > MAXIMUM_LABELS:
        raise reject("tooMany", f"at most {MAXIMUM_LABELS} labels are allowed")
    return value


def label_key(value: str) -> str:
    if not _LABEL_KEY.fullmatch(value):
        raise reject(
            "label",
            f"label name {json.dumps(value[:80])} is invalid: 1 to 63 letters and digits are allowed",
        )
    return value


def label_value(value: str) -> str:
    if not _LABEL_VALUE.fullmatch(value):
        raise reject(
            "label",
            f"label value {json.dumps(value[:80])} is invalid:"
            " 1 to 63 letters, digits and - _ . / are allowed",
        )
    return value


def image_name(value: str) -> str:
    if not value:
        raise reject("image", "each task must specify a container image")
    if len(value) > 512 or value.startswith("-") or _CONTROL_OR_BLANK.search(value):
        raise reject(
            "image",
            "a container image is at most 512 characters without blanks or control characters,"
            ' and does not begin with "-"',
        )
    return value


def runtime_name(value: str) -> str:
    if value not in {SINGULARITY, UDOCKER} and not (
        value == PROCESS and settings.CONFIG.allow_process_runtime
    ):
        raise reject("runtime", "the container runtime must be either udocker or singularity")
    return value


def plain_text(value: str) -> str:
    if "\0" in value or len(value) > MAXIMUM_TEXT:
        raise reject("text", f"a text has no NUL and at most {MAXIMUM_TEXT} characters")
    return value


def split_words(value: str) -> list[str]:
    """POSIX words (S65): never given to a shell."""
    try:
        return shlex.split(value)
    except ValueError as error:
        raise reject(
            "quotes", f"unbalanced quotes or backslash in {json.dumps(value[:80])}"
        ) from error


def command_text(value: str) -> str:
    split_words(plain_text(value))
    return value


def argument_words(value: object) -> object:
    """`args` as words: a string is split, a list is taken as it is."""
    if isinstance(value, str):
        return tuple(split_words(plain_text(value)))
    if isinstance(value, list) and len(value) > MAXIMUM_ARGUMENTS:
        raise reject("tooMany", f"at most {MAXIMUM_ARGUMENTS} arguments are allowed in a list")
    return value


def few_variables(value: object) -> object:
    if isinstance(value, dict) and len(value) > MAXIMUM_VARIABLES:
        raise reject("tooMany", f"at most {MAXIMUM_VARIABLES} variables are allowed in env")
    return value


def variable_name(value: str) -> str:
    if not _VARIABLE.fullmatch(value):
        raise reject(
            "variable",
            f"environment variable name {json.dumps(value[:80])} is invalid:"
            " letters, digits and _ are allowed, not beginning with a digit",
        )
    return value


def workdir_path(value: str) -> str:
    if not value or len(value) > 4096 or _CONTROL.search(value):
        raise reject(
            "workdir", "workdir must be a path of 1 to 4096 characters without control characters"
        )
    return value


def input_name(value: str) -> str:
    """The last part of the path (C48)."""
    name = value.rsplit("/", 1)[-1]
    too_long = len(name.encode("utf-8", "replace")) > 255
    if name in {"", ".", ".."} or too_long or _CONTROL.search(value):
        raise reject(
            "filename",
            f"input file name {json.dumps(value[:80])} is invalid: the last part of the path must be"
            " 1 to 255 bytes without control characters",
        )
    return name


def decoded_content(value: object) -> object:
    """Base64, possibly wrapped into lines, as bytes."""
    if not isinstance(value, str):
        return value
    compact = "".join(value.split())
    try:
        content = base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError) as error:
        raise reject("base64", "the content of an input file must be base64") from error
    if len(content) > MAXIMUM_INPUT_BYTES:
        raise reject("tooLarge", f"an input file has at most {MAXIMUM_INPUT_BYTES} bytes (1 MB)")
    return content


def node_count(value: int) -> int:
    if value > 1:
        raise reject("notAvailable", '"nodes" above 1 is not available yet')
    return value


def task_type(value: str) -> str:
    if value in LATER_TYPES:
        raise reject("notAvailable", f'"type": "{value}" is not available yet')
    if value not in {BASIC, SIDECAR}:
        raise reject("type", 'the type of a task must be "basic" or "sidecar"')
    return value


def few_tasks(value: object) -> object:
    if isinstance(value, list) and not value:
        raise reject("missing", "a job must contain tasks")
    if isinstance(value, list) and SIDECAR not in LATER_TYPES and all(map(_is_sidecar, value)):
        raise reject("missing", "a job must contain at least one task that is not a sidecar")
    if isinstance(value, list) and len(value) > MAXIMUM_TASKS:
        raise reject("tooMany", f"at most {MAXIMUM_TASKS} tasks are allowed")
    if isinstance(value, list) and sum(map(_command_length, value)) > MAXIMUM_COMMANDS:
        raise reject(
            "tooLarge", f"at most {MAXIMUM_COMMANDS} characters are allowed in all cmd and args"
        )
    return value


def _is_sidecar(task: object) -> bool:
    return isinstance(task, dict) and task.get("type") == SIDECAR


def _command_length(task: object) -> int:
    """Characters that would have to be split into words, which is slow."""
    texts = (task.get("cmd"), task.get("args")) if isinstance(task, dict) else ()
    return sum(len(text) for text in texts if isinstance(text, str))


def few_inputs(value: object) -> object:
    if isinstance(value, list) and len(value) > MAXIMUM_INPUTS:
        raise reject("tooMany", f"at most {MAXIMUM_INPUTS} inputs are allowed")
    return value


JobName = Annotated[StrictStr, AfterValidator(job_name)]
LabelKey = Annotated[StrictStr, AfterValidator(label_key)]
LabelValue = Annotated[StrictStr, AfterValidator(label_value)]
Labels = Annotated[dict[LabelKey, LabelValue], BeforeValidator(few_labels)]
Image = Annotated[StrictStr, AfterValidator(image_name)]
Runtime = Annotated[StrictStr, AfterValidator(runtime_name)]
Command = Annotated[StrictStr, AfterValidator(command_text)]
Text = Annotated[StrictStr, AfterValidator(plain_text)]
Arguments = Annotated[tuple[Text, ...], BeforeValidator(argument_words)]
VariableName = Annotated[StrictStr, AfterValidator(variable_name)]
Environment = Annotated[
    dict[VariableName, secret_fields.VariableValue], BeforeValidator(few_variables)
]
Workdir = Annotated[StrictStr, AfterValidator(workdir_path)]
TaskType = Annotated[StrictStr, AfterValidator(task_type)]
Filename = Annotated[StrictStr, AfterValidator(input_name)]
Content = Annotated[bytes, Field(strict=True), BeforeValidator(decoded_content)]
Nodes = Annotated[StrictInt, Field(ge=1), AfterValidator(node_count)]
Cpus = Annotated[StrictInt, Field(ge=1, le=1024)]
MemoryGb = Annotated[StrictFloat, Field(ge=0.001, le=32_768, allow_inf_nan=False)]
DiskGb = Annotated[StrictInt, Field(ge=1, le=1_000_000)]
WalltimeMin = Annotated[StrictFloat, Field(gt=0, le=10_080, allow_inf_nan=False)]
