"""Why a job finds no room, and what would help: pure functions over a need and the known machines.

Owns the reason codes and their numbers. Every change that is offered has been tried on the machines. No ORM, no clock.

    site, region          not among those that the job requires
    runtime               the node does not offer the container runtime
    cpus, memory, disk    asked for more than the node has at all
    busy                  the node has enough, but less than that is free now
    silent, shunned, draining, gone    the node takes nothing now
    turn                  nothing: it fits, and its turn comes
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clouds.machines import Condition, Machine
from clouds.placement import Need, Places

MB_PER_GB = 1024
UNITS = {"cpus": ("cpus", 1), "memory_mb": ("memory", MB_PER_GB), "disk_mb": ("disk", MB_PER_GB)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """One thing that keeps a job from a machine. `numbers`: as JSON, in the units of job documents."""

    code: str
    numbers: dict[str, Any]

    @property
    def document(self) -> dict[str, Any]:
        return {"code": self.code, **self.numbers}


def obstacles(need: Need, machine: Machine) -> list[Obstacle]:
    """All that keeps the job from this machine now; [] if it could start there."""
    found = [*_of_place(need, machine), *_of_size(need, machine)]
    if machine.condition is not Condition.READY:
        found.append(Obstacle(code=machine.condition.value, numbers={}))
    elif not found:
        found += _of_load(need, machine)
    return found


def _of_place(need: Need, machine: Machine) -> Iterator[Obstacle]:
    if need.required.sites and machine.site not in need.required.sites:
        yield Obstacle(code="site", numbers={"required": list(need.required.sites)})
    if need.required.regions and machine.region not in need.required.regions:
        yield Obstacle(code="region", numbers={"required": list(need.required.regions)})
    if need.runtime not in machine.runtimes:
        numbers = {"asked": need.runtime, "has": sorted(machine.runtimes)}
        yield Obstacle(code="runtime", numbers=numbers)


def _of_size(need: Need, machine: Machine) -> Iterator[Obstacle]:
    for name, (public, unit) in UNITS.items():
        asked, has = getattr(need.amount, name), getattr(machine.total, name)
        if asked > has:
            yield Obstacle(
                code=public, numbers={"asked": _shown(asked, unit), "has": _shown(has, unit)}
            )


def _of_load(need: Need, machine: Machine) -> Iterator[Obstacle]:
    short = {
        public: {
            "asked": _shown(getattr(need.amount, name), unit),
            "free": _shown(getattr(machine.free, name), unit),
        }
        for name, (public, unit) in UNITS.items()
        if getattr(need.amount, name) > getattr(machine.free, name)
    }
    if short:
        yield Obstacle(code="busy", numbers=short)


def by_site(need: Need, machines: Sequence[Machine]) -> list[dict[str, Any]]:
    """For each site: how many nodes it has, how many the job could start on now, and what keeps it from the others."""
    sites: dict[tuple[str, str], Counter[str]] = {}
    for machine in machines:
        counts = sites.setdefault((machine.site, machine.region), Counter())
        found = obstacles(need, machine)
        counts["nodes"] += 1
        counts["fits"] += not found
        counts.update({f"not {obstacle.code}": 1 for obstacle in found})
    return [
        {
            "site": site,
            "region": region,
            "nodes": counts["nodes"],
            "fits": counts["fits"],
            "reasons": {
                code.removeprefix("not "): count
                for code, count in counts.items()
                if code.startswith("not ")
            },
        }
        for (site, region), counts in sorted(sites.items())
    ]


def shortage(need: Need, machines: Sequence[Machine]) -> str:
    """One sentence for a job that no machine could ever run: the largest that there is of what it asks."""
    allowed = [machine for machine in machines if machine.admits(need)]
    if not allowed:
        return "no node is at a site or region that the job requires"
    able = [machine for machine in allowed if need.runtime in machine.runtimes]
    if not able:
        return f"no node that it may use offers {need.runtime}"
    for name, (public, unit) in UNITS.items():
        asked, most = getattr(need.amount, name), max(getattr(m.total, name) for m in able)
        if asked > most:
            return f"{public}: {_shown(asked, unit)} asked, at most {_shown(most, unit)} on a node"
    return "no node has as much of everything together as the job asks"


def changes(
    need: Need, machines: Sequence[Machine], *, runtime_is_free: bool
) -> list[dict[str, Any]]:
    """What would let the job start now: each change alone where that suffices, else the least of several together.

    `runtime_is_free`: the image would run with singularity as well.
    """
    ready = [machine for machine in machines if machine.condition is Condition.READY]
    found = [
        *_lower_one(need, ready),
        *_elsewhere(need, ready),
        *(_other_runtime(need, ready) if runtime_is_free else ()),
    ]
    return found or _lower_several(need, ready)


def _lower_one(need: Need, ready: Sequence[Machine]) -> Iterator[dict[str, Any]]:
    """The most of one resource with which a node has room, the others as asked."""
    for name, (public, unit) in UNITS.items():
        asked = getattr(need.amount, name)
        least = replace(need, amount=replace(need.amount, **{name: 1}))
        free = [getattr(m.free, name) for m in ready if m.can_run(least)]
        most = _usable(max(free, default=0), public, unit)
        if 0 < most < asked:
            nodes = sum(_usable(amount, public, unit) >= most for amount in free)
            yield {"change": public, "from": _shown(asked, unit), "to": _shown(most, unit)} | {
                "nodes": nodes
            }


def _elsewhere(need: Need, ready: Sequence[Machine]) -> Iterator[dict[str, Any]]:
    if need.required == Places():
        return
    anywhere = replace(need, required=Places())
    able = [machine for machine in ready if machine.can_run(anywhere)]
    if able:
        sites = sorted({machine.site for machine in able})
        yield {"change": "placement", "sites": sites, "nodes": len(able)}


def _other_runtime(need: Need, ready: Sequence[Machine]) -> Iterator[dict[str, Any]]:
    other = replace(need, runtime="singularity")
    nodes = sum(machine.can_run(other) for machine in ready)
    if need.runtime == "udocker" and nodes:
        yield {"change": "runtime", "from": "udocker", "to": "singularity", "nodes": nodes}


def _lower_several(need: Need, ready: Sequence[Machine]) -> list[dict[str, Any]]:
    """Room on the machine that has most of what is asked."""
    open_to_it = [m for m in ready if m.admits(need) and need.runtime in m.runtimes]
    best: dict[str, Any] = {}
    share = 0.0
    for machine in open_to_it:
        room = {
            public: _usable(
                min(getattr(need.amount, name), getattr(machine.free, name)), public, unit
            )
            for name, (public, unit) in UNITS.items()
        }
        asked = {public: getattr(need.amount, name) for name, (public, _) in UNITS.items()}
        least = min(room[public] / asked[public] for public in room)
        if least > share:
            share = least
            best = {
                public: _shown(room[public], unit)
                for public, unit in UNITS.values()
                if room[public] < asked[public]
            }
    return [{"change": "resources", "to": best, "nodes": 1}] if best else []


def _usable(amount: int, public: str, unit: int) -> int:
    """What a document can ask for, in the node's unit: disk comes in whole GB."""
    return amount // unit * unit if public == "disk" else amount


def _shown(amount: int, unit: int) -> int | float:
    """In the units of job documents; memory to three decimals, rounded down so that it still fits."""
    value = int(amount * 1000 / unit) / 1000
    return int(value) if value == int(value) else value
