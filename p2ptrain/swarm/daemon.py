"""How we start hivemind's daemon process, p2pd, and who may use its calls."""

from __future__ import annotations

import logging
import sys
from typing import Any, Protocol

from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PHandlerError
from hivemind.utils.logging import use_hivemind_log_handler

from p2ptrain.run import PeerId
from p2ptrain.run.access import STRANGER
from p2ptrain.swarm.sockets import SocketFolder

use_hivemind_log_handler("nowhere")  # our own logging decides what people see
logging.getLogger("hivemind").addHandler(logging.NullHandler())


class Gate(Protocol):
    """What a node and its calls ask before they speak with a peer. It is a `Door`, which says what the answers mean."""

    is_private: bool

    def refusal(self, peer: PeerId) -> str: ...
    async def meet(self, peer: PeerId, again: bool = False) -> None: ...


class Daemon(P2P):  # type: ignore[misc]  # hivemind is not typed
    """hivemind's P2P with three changes: gossip is on, the process has its own session (so that Ctrl-C in a terminal
    reaches only us), and the gate is asked before each call of the DHT."""

    _more_flags: tuple[tuple[str, str], ...] = ()
    _gate: Gate

    @classmethod
    def _make_process_args(cls, *args: Any, **kwargs: Any) -> list[str]:
        # Python makes the session and then becomes p2pd, so the child keeps its process id.
        own_session = "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])"
        flags: list[str] = P2P._make_process_args(*args, **{**kwargs, "pubsub": 1, **dict(cls._more_flags)})
        return [sys.executable, "-S", "-E", "-c", own_session, *flags]

    async def add_protobuf_handler(self, name: str, handler: Any, *args: Any, **kwargs: Any) -> None:
        async def answer(request: Any, context: Any) -> Any:
            if refusal := self._gate.refusal(PeerId(context.remote_id.to_base58())):
                raise PermissionError(refusal)
            return await handler(request, context)

        await super().add_protobuf_handler(name, answer, *args, **kwargs)

    async def call_protobuf_handler(self, peer_id: PeerID, *args: Any, **kwargs: Any) -> Any:
        peer = PeerId(peer_id.to_base58())
        await self._gate.meet(peer)
        try:
            return await super().call_protobuf_handler(peer_id, *args, **kwargs)
        except P2PHandlerError as error:
            if STRANGER not in str(error):
                raise
            await self._gate.meet(peer, again=True)
            return await super().call_protobuf_handler(peer_id, *args, **kwargs)


def daemon_type(sockets: SocketFolder, gate: Gate, flags: tuple[tuple[str, str], ...]) -> Any:
    """A new class for each node, because hivemind reads these settings from the class."""
    own = {"_UNIX_SOCKET_PREFIX": f"/unix{sockets.path}/", "_more_flags": flags, "_gate": gate}
    return type("OwnDaemon", (Daemon,), own)
