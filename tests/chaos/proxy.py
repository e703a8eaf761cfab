"""A node's network: TCP proxies that can be closed, made a black hole, or slowed down.

One thread with an event loop serves all of them. What a black hole swallowed arrives when it is open again, as after
retransmission.
"""

import asyncio
import threading
from contextlib import suppress
from enum import StrEnum

from prominence.embedded.data_dir import free_port

HOST = "127.0.0.1"
CHUNK = 1 << 16


class Mode(StrEnum):
    OPEN = "open"
    CLOSED = "closed"
    DROPPED = "dropped"
    DELAYED = "delayed"


class Proxy:
    """Forwards one port, seen at another one here, or at the same one of another address of ours.

    `rewrite`: bytes replaced on the way back, by as many.
    """

    def __init__(
        self, target: int, rewrite: tuple[bytes, bytes] | None = None, host: str = HOST
    ) -> None:
        assert rewrite is None or len(rewrite[0]) == len(rewrite[1])
        self.host = host
        self.port = free_port(HOST) if host == HOST else target
        self.delay_s = 0.0
        self._target = target
        self._rewrite = rewrite
        self._mode = Mode.OPEN
        self._passing = asyncio.Event()
        self._passing.set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, self.host, self.port)

    def become(self, mode: Mode, delay_s: float = 0.0) -> None:
        """In the loop's thread."""
        self._mode, self.delay_s = mode, delay_s
        if mode is Mode.DROPPED:
            self._passing.clear()
        else:
            self._passing.set()
        if mode is Mode.CLOSED:
            self.abort()

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._forward(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passing.wait()
        if self._mode is Mode.CLOSED:
            return
        try:
            back_reader, back_writer = await asyncio.open_connection(HOST, self._target)
        except OSError:
            return
        self._writers.add(back_writer)
        pumps = [
            asyncio.ensure_future(self._pump(reader, back_writer, None)),
            asyncio.ensure_future(self._pump(back_reader, writer, self._rewrite)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            self._writers.discard(back_writer)
            back_writer.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        rewrite: tuple[bytes, bytes] | None,
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._passing.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data.replace(*rewrite) if rewrite else data)
                await writer.drain()


class Network:
    """The loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._proxies: list[Proxy] = []
        self._servers: list[asyncio.Server] = []
        self._thread.start()

    def open(
        self, target: int, rewrite: tuple[bytes, bytes] | None = None, host: str = HOST
    ) -> Proxy:
        proxy = Proxy(target, rewrite, host)
        serving = asyncio.run_coroutine_threadsafe(proxy.serve(), self._loop)
        self._servers.append(serving.result(5))
        self._proxies.append(proxy)
        return proxy

    def become(self, proxy: Proxy, mode: Mode, delay_s: float = 0.0) -> None:
        self._loop.call_soon_threadsafe(proxy.become, mode, delay_s)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for proxy in self._proxies:
            proxy.become(Mode.CLOSED)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.1)  # transports close in the loop's next turns
