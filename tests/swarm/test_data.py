"""What peers do while they train if their data are bad, or go away."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from tests.swarm.lab import Lab, write_spec

ROWS, FILES = 400, 4


def write_stream(lab: Lab, total_steps: int) -> tuple[Path, Path]:
    """(a spec, the folder of the stream that it reads): JSON lines, one of which was cut by a full disk."""
    folder = lab.home / "texts"
    folder.mkdir()
    for at in range(FILES):
        lines = [
            json.dumps({"text": f"row {number} says: " + "a quick brown fox " * 4, "other": number}) + "\n"
            for number in range(at, ROWS, FILES)
        ]
        if at == 0:
            lines[60] = lines[60][:40] + "\n"
        (folder / f"{at}.jsonl").write_text("".join(lines))
    spec = write_spec(lab.home, inner_steps=8, total_steps=total_steps)
    text = spec.read_text().replace('source = "files"', 'source = "dataset"\nheld_out = 0.1\nmax_left_out = 0.0025')
    lines = [f"dataset = {json.dumps(str(folder))}" if "paths" in line else line for line in text.splitlines()]
    spec.write_text("\n".join(lines))
    return spec, folder


def test_a_stream_is_trained_on_past_a_row_that_was_cut(lab: Lab) -> None:
    """And the run comes to its end, after several passes."""
    spec, _ = write_stream(lab, total_steps=400)
    peer = lab.found(spec, "--batch-size", "4")
    assert peer.exit_code(180) == 0, peer.errors
    warnings = [event["text"] for event in peer.events if event["event"] == "warning"]
    assert "row 61 is left out: not a JSON object" in " ".join(warnings)
    assert any("has read the whole stream once" in text for text in warnings)
    [stopped] = [event for event in peer.events if event["event"] == "stopped"]
    assert stopped["reason"] == "the run is complete"
    assert not peer.errors


def test_a_shard_that_is_gone_ends_a_peer_in_order_and_it_goes_on_when_the_shard_is_back(lab: Lab) -> None:
    spec, folder = write_stream(lab, total_steps=4000)
    peer = lab.found(spec, "--batch-size", "4")
    peer.wait_for_height(2)
    shard = folder / "2.jsonl"
    shard.rename(lab.home / "away")
    assert peer.exit_code(120) == 7
    assert "2.jsonl" in peer.errors
    assert "No such file or directory" in peer.errors
    assert "Traceback" not in peer.errors
    [stopped] = [event for event in peer.events if event["event"] == "stopped"]
    assert (peer.folder / "checkpoint.pt").exists()
    command = shlex.split(stopped["resume"])
    assert command[:3] == ["p2ptrain", "peer", str(peer.folder)]

    (lab.home / "away").rename(shard)
    again = lab.found(peer.folder, *command[3:])
    again.wait_for_height(stopped["height"] + 4)
