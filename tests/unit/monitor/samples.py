"""One event of each kind, and what peers say of themselves."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2ptrain.monitor import events
from p2ptrain.run import SigningKey, digest_of
from p2ptrain.swarm import Presence


def peer_ids(count: int) -> list[str]:
    keys = [SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in range(count)]
    return sorted(key.peer_id for key in keys)


PEERS = peer_ids(3)
STATE = digest_of(b"a state").hex()
COMMIT = digest_of(b"a commit").hex()

PREPARING = events.Preparing(text="joining the others")
LOADING = events.Loading(
    run_name="quickstart",
    run="ab" * 32,
    founder=PEERS[0],
    description="A model learns.",
    model=events.Part("somebody/model@v1", "hub", 269_000_000, licence="apache-2.0"),
    tokenizer=None,
    data=events.Part("somebody/texts (train)", "hub", 5_000_000_000, streamed=True),
    parameters=134_500_000,
    parameters_at_least=False,
    trained=1_000_000,
    method="diloco",
    state_bytes=8_000_000,
    sends="sends each peer about 126.0 kB every 25 steps",
    sent_bytes=126_000,
    sent_every=25,
)
READ = events.DataRead(
    rows=300,
    used=150,
    whole=True,
    left_out={"column 'label' is empty": 150},
    replaced=0,
    told=("150 of 300 rows left out: column 'label' is empty (first: rows.csv, row 2)",),
)
FETCHING = events.Fetching(bytes_here=1_500_000, bytes_total=4_000_000, seconds=2.0, rate=500_000.0)
STARTED = events.Started(
    run_name="quickstart",
    run="ab" * 32,
    peer=PEERS[0],
    invite="p2ptrain://1.invite",
    invite_with="",
    folder="/home/runs/x",
    device="cpu",
    parameters=1_234_567,
    held_out="cd" * 32,
    founded=True,
)
TRAINING = events.Training(height=7, commit=COMMIT, state=STATE, peers=2)
PROGRESS = events.Progress(
    steps=120,
    seconds=30.5,
    height=8,
    loss=2.71828,
    learning_rate=0.001,
    tokens_per_second=45678.9,
    peers=2,
    bytes_sent=1_500_000,
)
COMMITTED = events.Committed(
    height=9,
    commit=COMMIT,
    state=STATE,
    leader=PEERS[1],
    attempt=0,
    contributors=tuple(PEERS[:2]),
    steps=(10, 9),
    tokens=2048,
    rolled_back=0,
)
ROLLED_BACK = events.RolledBack(commits=3, old="1" * 64, new="2" * 64, tokens=6_000, own_tokens=2_000)
EVALUATED = events.Evaluated(height=9, loss=1.98765)
REPLAYING = events.Replaying(records_done=250, records_total=1000, seconds=2.0)
MARKED = events.Marked(number=3, records=6150, position=STATE[::-1], state=STATE)
PAUSED = events.Paused(reason="outside its hours", until="2026-11-21T22:00")
WENT_ON = events.WentOn(seconds=3725.0)
WARNED = events.Warned(text="the held-out text [here] is another one")
LEFT = events.Left("/home/runs/x", "p2ptrain peer /home/runs/x")
STOPPED = events.Stopped(
    reason="stopped",
    height=9,
    commit=COMMIT,
    state=STATE,
    steps=130,
    seconds=33.3,
    folder="/home/runs/x",
    resume="p2ptrain peer /home/runs/x",
    sent={"contribution": 2_000_000, "gossip": 900},
    refused={"malformed": 3},
)

ALL = (
    PREPARING,
    LOADING,
    READ,
    FETCHING,
    STARTED,
    TRAINING,
    PROGRESS,
    COMMITTED,
    ROLLED_BACK,
    REPLAYING,
    MARKED,
    EVALUATED,
    PAUSED,
    WENT_ON,
    WARNED,
    LEFT,
    STOPPED,
)


def presence(author: str, **fields: Any) -> Presence:
    given: dict[str, Any] = {
        "author": author,
        "run": bytes(32),
        "session": bytes(8),
        "beat": 1,
        "phase": "training",
        "version": "0.1.0",
        "device": "cpu, 2 threads",
        "addresses": (),
        "reachability": "unknown",
        "height": 12,
        "commit": bytes(32),
        "state": bytes.fromhex(STATE),
        "weight": 1,
        "steps": 345,
        "tokens": 6789,
        "tokens_per_second": 4321.0,
        "loss": 2.345,
        "eval_height": 8,
        "eval_loss": 2.222,
        "held_out": bytes(32),
        "snapshots": (),
        "bytes_sent": 7_654_321,
        "taken_back": 0,
        "name": "",
        "max_up": 0,
        "max_down": 0,
    }
    return Presence(**(given | fields))
