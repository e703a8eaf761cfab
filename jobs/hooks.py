"""Where higher rooms join in on what happens to a job, in the same transaction, without being imported from here.

`clouds` releases capacity when placements end; a higher room registers in its AppConfig.ready().
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.models import Placement

InputUse = Callable[[int], "datetime | None"]
_input_uses: list[InputUse] = []
PlacementsEnded = Callable[[Sequence["Placement"]], None]
_placements_ended: list[PlacementsEnded] = []


def on_placements_ended(hook: PlacementsEnded) -> None:
    """Call `hook` with placements just marked not live, inside the transaction that ends them, their jobs locked."""
    _placements_ended.append(hook)


def placements_ended(placements: Sequence["Placement"]) -> None:
    for hook in _placements_ended:
        hook(placements)


def on_input_use(oldest: InputUse) -> None:
    """Register when a user's (by id) oldest thing that may need input files was submitted; retention asks."""
    _input_uses.append(oldest)


def input_uses(owner: int) -> list[datetime | None]:
    return [oldest(owner) for oldest in _input_uses]
