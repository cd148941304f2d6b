"""The peer process: wires swarm, method and task together; the training loop, signals, and the other things that a
process can be (a bootstrap node, an observer, the demo).
"""

from p2ptrain.peer.session import PeerOptions, run_peer

__all__ = ["PeerOptions", "run_peer"]
