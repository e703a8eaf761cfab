"""The `policies` of a job document (S98-S106, U24-U32): how failures are met, how long to wait, and where to run.

Owns their fields, limits and defaults. Pure.

    maximumRetries, maximumTaskRetries   0..100, default 0 (S98, S108, U24)
    retryMemoryFactor                    above 1, at most 10: how much more memory a retry gets that ran out of it
    maximumTimeInQueue                   minutes, -1..525600, default 0 (S99-S101)
    priority                             -1000000..1000000, default 0, higher goes first among one's own jobs (U29)
    sites, regions                       0..100 names each, of 1 to 128 characters
"""

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from jobs import fields

MAXIMUM_MINUTES = 525_600
MAXIMUM_PRIORITY = 1_000_000
MAXIMUM_PLACES = 100
_PLACE = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


def _place_name(value: str) -> str:
    if not _PLACE.fullmatch(value):
        raise fields.reject(
            "place",
            "the name of a site or region has 1 to 128 characters, none of them a control character",
        )
    return value


def _few_places(value: object) -> object:
    if isinstance(value, list) and len(value) > MAXIMUM_PLACES:
        raise fields.reject("tooMany", f"at most {MAXIMUM_PLACES} names are allowed in a list")
    return value


PlaceName = Annotated[StrictStr, AfterValidator(_place_name)]
PlaceNames = Annotated[tuple[PlaceName, ...], BeforeValidator(_few_places)]
Retries = Annotated[StrictInt, Field(ge=0, le=100)]
MemoryFactor = Annotated[StrictFloat, Field(gt=1, le=10, allow_inf_nan=False)]
Minutes = Annotated[StrictInt, Field(ge=-1, le=MAXIMUM_MINUTES)]
Priority = Annotated[StrictInt, Field(ge=-MAXIMUM_PRIORITY, le=MAXIMUM_PRIORITY)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Places(_Model):
    """Sites and regions by name; an empty list says nothing."""

    sites: PlaceNames = ()
    regions: PlaceNames = ()


class PlacementPolicy(_Model):
    """Where a job must (S105) and would rather run (S106), the first names before the later ones."""

    requirements: Places = Places()
    preferences: Places = Places()

    @property
    def document(self) -> dict[str, Any]:
        """As JSON, without what says nothing; {} for a policy that asks for nothing."""
        return {
            part: {
                key: list(names) for key, names in getattr(self, part).model_dump().items() if names
            }
            for part in ("requirements", "preferences")
            if any(getattr(self, part).model_dump().values())
        }


class Policies(_Model):
    """How a job is managed. `autoScalingType` and the two after it are taken and mean nothing yet (U30, U31)."""

    maximum_retries: Retries = Field(default=0, alias="maximumRetries")
    retry_memory_factor: MemoryFactor | None = Field(default=None, alias="retryMemoryFactor")
    maximum_task_retries: Retries = Field(default=0, alias="maximumTaskRetries")
    maximum_time_in_queue: Minutes = Field(default=0, alias="maximumTimeInQueue")
    leave_in_queue: StrictBool = Field(default=False, alias="leaveInQueue")
    priority: Priority = 0
    ignore_task_failures: StrictBool = Field(
        default=False,
        validation_alias=AliasChoices("ignoreTaskFailures", "ignoreTaskTailures"),  # C55
        serialization_alias="ignoreTaskFailures",
    )
    report_job_success_on_task_failure: StrictBool = Field(
        default=False, alias="reportJobSuccessOnTaskFailure"
    )
    run_serial_tasks_on_all_nodes: StrictBool = Field(
        default=False, alias="runSerialTasksOnAllNodes"
    )
    auto_scaling_type: Literal["none", "dedicated", "shared"] | None = Field(
        default=None, alias="autoScalingType"
    )
    maximum_idle_time_per_resource: Annotated[StrictInt, Field(ge=0, le=MAXIMUM_MINUTES)] = Field(
        default=0, alias="maximumIdleTimePerResource"
    )
    preemptible: StrictBool = False
    placement: PlacementPolicy | None = None

    @model_validator(mode="after")
    def _growing_needs_retries(self) -> "Policies":
        if self.retry_memory_factor is not None and not self.maximum_retries:
            raise fields.reject(
                "retries", '"retryMemoryFactor" needs "maximumRetries" of at least 1'
            )
        return self


def policy_key(document: dict[str, Any]) -> str:
    """16 hex digits that stand for a placement policy in shapes; "" for one that asks for nothing."""
    if not document:
        return ""
    text = json.dumps(document, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
