"""A bootstrap node: it gives newcomers a first address and relays to peers behind NAT; it trains nothing."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from p2ptrain.peer.stopping import Stopping
from p2ptrain.state.run import MAX_INVITED, open_identity
from p2ptrain.swarm import Invite, NodeConfig, RelayLimits, Swarm, monotonic

LOOK_SECONDS = 0.5
REPORT_SECONDS = 10.0


def run_bootstrap(home: Path, identity: Path | None, config: NodeConfig, json_lines: bool) -> None:
    """Run until somebody asks to stop.

    Raises:
        NetworkError: this machine can't listen there, or the swarm to help can't be reached.
    """
    stopping = Stopping()
    config = replace(config, relay=RelayLimits())
    with Swarm.start(open_identity(home, identity, config), config) as swarm:
        invite = Invite(None, tuple(swarm.addresses()[:MAX_INVITED]))
        if json_lines:
            print(json.dumps({"event": "bootstrap", "peer": swarm.peer_id, "invite": str(invite)}), flush=True)
        else:
            print(f"bootstrap node {swarm.peer_id}\nstart a run in this swarm with:", flush=True)
            print(f"  p2ptrain peer RUN --bootstrap {invite}", flush=True)
        reported = monotonic()
        while not stopping.requested():
            swarm.check()
            if json_lines and monotonic() - reported > REPORT_SECONDS:  # also notices when nobody reads any more
                reported = monotonic()
                connected = len(swarm.run(swarm.node.connected()))
                print(json.dumps({"event": "connected", "peers": connected}), flush=True)
            time.sleep(LOOK_SECONDS)
