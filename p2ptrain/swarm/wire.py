"""How many bytes p2pd's connections have carried, as the kernel counts them. This includes what this process can't see:
gossip that p2pd passes on, encryption, acknowledgements and retransmissions.

Linux only. `sock_diag(7)` says for every TCP socket how many bytes and segments it has sent and received, and
/proc/<pid>/fd says which sockets belong to p2pd. For QUIC there are no such counters.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

HEADER_BYTES = 52
"""Bytes of a segment's headers: IPv4, TCP and its timestamps."""
_SOCK_DIAG, _DIAG_BY_FAMILY, _INFO = 4, 20, 2
_DUMP = 0x301
"""NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH"""
_ERROR, _DONE = 2, 3
_LOOPBACK, _MAPPED_LOOPBACK = bytes(15) + b"\x01", bytes(10) + b"\xff\xff\x7f"
_MESSAGE = 72
"""sizeof(struct inet_diag_msg)"""


class Carried(NamedTuple):
    """Bytes of packets that were sent (`up`) and received (`down`)."""

    up: int
    down: int

    def __add__(self, other: tuple[object, ...]) -> Carried:
        assert isinstance(other, Carried)
        return Carried(self.up + other.up, self.down + other.down)


@dataclass(frozen=True, slots=True)
class Socket:
    """One TCP connection, as the kernel describes it."""

    inode: int
    cookie: bytes
    """Names the socket for as long as it lives; no other socket has the same."""
    inside: bool
    """Whether the other end is on this machine."""
    carried: Carried


class Wire:
    """Counts the bytes of all connections of one process; raises OSError if this system has no such counters.

    Args:
        inside: whether connections within this machine count. The ends of tunnels must not: their bytes are counted at
            the connection to the relay.
    """

    def __init__(self, pid: int, inside: bool) -> None:
        self._folder, self._inside = Path(f"/proc/{pid}/fd"), inside
        self._ended, self._open = Carried(0, 0), dict[bytes, Carried]()
        if sys.platform != "linux":
            raise OSError(f"{sys.platform} does not say what the connections of a process carry")
        self.carried()

    def carried(self) -> Carried:
        """The bytes since the connections were opened. A closed connection counts as it was last seen, so call this
        often."""
        own = set(self._inodes())
        counted = (found for found in tcp_sockets() if found.inode in own and (self._inside or not found.inside))
        seen = {found.cookie: found.carried for found in counted}
        for cookie in self._open.keys() - seen.keys():
            self._ended += self._open[cookie]
        self._open = seen
        return sum(seen.values(), self._ended)

    def _inodes(self) -> Iterator[int]:
        for name in os.listdir(self._folder):  # noqa: PTH208  # a list, as the folder changes meanwhile
            try:
                target = os.readlink(self._folder / name)  # noqa: PTH115  # "socket:[…]" is no path
            except FileNotFoundError:
                continue  # closed meanwhile
            if found := re.fullmatch(r"socket:\[(\d+)\]", target):
                yield int(found[1])


def tcp_sockets() -> Iterator[Socket]:
    """All TCP sockets of this network namespace, of every process."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        for family in (socket.AF_INET, socket.AF_INET6):
            request = struct.pack("=BBBBI48x", family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, 0xFFFFFFFF)
            kernel.send(struct.pack("=LHHLL", 16 + len(request), _DIAG_BY_FAMILY, _DUMP, 1, 0) + request)
            yield from _answers(kernel)


def _answers(kernel: socket.socket) -> Iterator[Socket]:
    while True:
        data = kernel.recv(1 << 20)
        at = 0
        while at < len(data):
            length, kind = struct.unpack_from("=LH", data, at)
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise OSError(-struct.unpack_from("=i", data, at + 16)[0], "the kernel does not list TCP sockets")
            if found := _read(data[at + 16 : at + length]):
                yield found
            at += (length + 3) & ~3


def _read(message: bytes) -> Socket | None:
    """Reads one inet_diag_msg; None if it has no counters, e.g. because the socket is closed already."""
    cookie, inode = message[44:52], struct.unpack_from("=I", message, 68)[0]
    there = message[24:28] if message[0] == socket.AF_INET else message[24:40]
    inside = there[:1] == b"\x7f" if len(there) == 4 else there == _LOOPBACK or there[:13] == _MAPPED_LOOPBACK
    at = _MESSAGE
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == _INFO and length >= 4 + 208:
            info = message[at + 4 : at + length]
            (received,) = struct.unpack_from("=Q", info, 128)
            segments_out, segments_in = struct.unpack_from("=II", info, 136)
            (sent,) = struct.unpack_from("=Q", info, 200)  # includes retransmissions
            up, down = sent + segments_out * HEADER_BYTES, received + segments_in * HEADER_BYTES
            return Socket(inode, cookie, inside, Carried(up, down))
        at += (max(length, 4) + 3) & ~3
    return None
