"""Two network namespaces with a link that delays and loses packets, as `tc netem` would, which not every kernel has.

Each namespace has a TUN device; what one sends, this process hands to the other: later, or not at all. Needs root.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from dataclasses import dataclass, field

SERVER, DEVICE = "10.77.0.1", "10.77.0.2"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_MTU = 1500


def why_not() -> str:
    """Return why there can be no such link here; empty if there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with LossyLink(0.0, 0.0):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespaces or TUN devices here: {getattr(error, 'stderr', b'') or error}"


@dataclass
class LossyLink:
    """A link between two namespaces, until the end of the block.

    Parameters
    ----------
    delay : float
        Seconds that a packet takes, in each direction.
    loss : float
        Share of packets that get lost.
    seed : int
        Of the choice of these.
    """

    delay: float
    loss: float
    seed: int = 0
    packets: list[int] = field(default_factory=lambda: [0, 0])  # from the server, from the device
    bytes: list[int] = field(default_factory=lambda: [0, 0])
    lost: int = 0

    def __enter__(self) -> LossyLink:
        self.namespaces = [f"kd-{os.getpid()}-{end}" for end in ("server", "device")]
        self._ends: list[int] = []
        try:
            for number, (namespace, address) in enumerate(zip(self.namespaces, (SERVER, DEVICE), strict=True)):
                _ip("netns", "add", namespace)
                device = f"kd{os.getpid() % 100000}-{number}"
                end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
                self._ends.append(end)
                fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH14x", device.encode(), _IFF_TUN | _IFF_NO_PI))
                _ip("link", "set", device, "netns", namespace)
                _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", device)
                _ip("-n", namespace, "link", "set", device, "up", "mtu", str(_MTU))
                _ip("-n", namespace, "link", "set", "lo", "up")
        except BaseException:
            self._remove()
            raise
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._stopped)
        self._thread.join()
        os.close(self._stop)
        self._remove()

    def within(self, end: int) -> list[str]:
        """Return what comes before a command that runs at the server's end (0) or the device's (1)."""
        return ["ip", "netns", "exec", self.namespaces[end]]

    def _remove(self) -> None:
        for end in self._ends:
            os.close(end)
        for namespace in self.namespaces:
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)

    def _carry(self) -> None:
        chance = random.Random(self.seed)
        under_way: list[tuple[float, int, int, bytes]] = []
        number = 0
        while True:
            wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
            ready, _, _ = select.select([*self._ends, self._stop], [], [], wait)
            if self._stop in ready:
                return
            for end in set(ready):
                direction = self._ends.index(end)
                packet = os.read(end, 1 << 16)
                if packet[0] >> 4 != 4:  # of the kernel's own, such as a search for IPv6 routers
                    continue
                self.packets[direction] += 1
                self.bytes[direction] += len(packet)
                if chance.random() < self.loss:
                    self.lost += 1
                    continue
                number += 1
                heapq.heappush(under_way, (time.monotonic() + self.delay, number, self._ends[1 - direction], packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(under_way)
                os.write(end, packet)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
