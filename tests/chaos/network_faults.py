"""What can go wrong between a node and its server: cables pulled in namespaces, connections spoiled by proxies."""

from tests.chaos.proxy import Mode
from tests.chaos.scene import Effect, Fault, Scene
from tests.chaos.system import LEASE_S


def pull(*choices_s: float) -> Fault:
    """The cable of a node is pulled and put back. Connections live on, or not, as the kernel sees it."""

    def fault(scene: Scene) -> Effect | None:
        lasts_s = scene.lasting_s(*choices_s)
        node = scene.node(lasting_s=lasts_s)
        if node is None or node.cable is None:
            return None
        node.cable.pull()
        return Effect(f"{node.name} for {lasts_s:.1f} s", lasts_s, node.cable.plug)

    return fault


def block(*choices_s: float) -> Fault:
    """What the node sends arrives, but it hears nothing."""

    def fault(scene: Scene) -> Effect | None:
        lasts_s = scene.lasting_s(*choices_s)
        node = scene.node(lasting_s=lasts_s)
        if node is None or node.cable is None:
            return None
        node.cable.block_answers()
        return Effect(f"{node.name} for {lasts_s:.1f} s", lasts_s, node.cable.allow_answers)

    return fault


def spoil(mode: Mode) -> Fault:
    """Connections to the API, to Redis, or to both are refused, stand still, or are slow."""

    def fault(scene: Scene) -> Effect | None:
        lasts_s = scene.lasting_s(2.0, 0.9 * LEASE_S, 1.4 * LEASE_S, 2.6 * LEASE_S)
        node = scene.node(lasting_s=lasts_s)
        if node is None:
            return None
        ways = scene.random.choice([(node.api, node.redis)] * 2 + [(node.api,), (node.redis,)])
        delay_s = scene.random.uniform(0.2, 1.5) if mode is Mode.DELAYED else 0.0
        for way in ways:
            scene.system.network.become(way, mode, delay_s)

        def heal() -> None:
            for way in ways:
                scene.system.network.become(way, Mode.OPEN)

        names = "+".join("api" if way is node.api else "redis" for way in ways)
        return Effect(f"{node.name} {names} for {lasts_s:.1f} s", lasts_s, heal)

    return fault
