"""What the doctor makes of facts: each bound, and a next step wherever something is amiss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import pytest
from packaging.requirements import Requirement

from p2ptrain.doctor import verdicts
from p2ptrain.doctor.verdicts import GB, DeviceFacts, DialledBack, Finding, KeyFacts, RunFacts, Verdict
from p2ptrain.run.needs import Needs

NEEDED = [Requirement("torch>=2.6"), Requirement("hivemind==1.1.12")]
GOOD = {"torch": "2.13.0+cpu", "hivemind": "1.1.12", "transformers": "5.23.0"}
PUBLIC, HOME, SELF = (
    DialledBack("93.184.216.34", (31337,)),
    DialledBack("192.168.1.5", (31337,)),
    DialledBack("127.0.0.1", (31337,)),
)
IN_VAIN = DialledBack("93.184.216.34", ())
CPU = DeviceFacts("cpu, 2 cores", "cpu", None, "", True)
GPU = DeviceFacts("NVIDIA H200", "cuda", (100 * GB, 140 * GB), "", True)
RUN = RunFacts(
    "quickstart",
    "a new llama on stdlib-python",
    3,
    1_000_000,
    Needs(host=2 * 10**9, device=10**9, disk=4 * 10**9, fetched=8 * 10**6),
    8 * GB,
    8 * GB,
    50 * GB,
)


def versions(python: str = "3.11.7", **installed: str | None) -> Finding:
    return verdicts.versions(python, ">=3.11", {**GOOD, **installed}, NEEDED, "0.1.0")


CASES: list[tuple[Finding, Verdict, str]] = [
    (versions(), "ok", "torch 2.13.0"),
    (versions(python="3.10.2"), "problem", "needs python >=3.11"),
    (versions(python="3.14.0rc1"), "ok", "python 3.14.0rc1"),
    (versions(torch="2.5.1"), "problem", "torch>=2.6 (found 2.5.1)"),
    (versions(hivemind=None), "problem", "hivemind==1.1.12 (found none)"),
    (versions(hivemind="1.1.13"), "problem", "hivemind==1.1.12 (found 1.1.13)"),
    (verdicts.memory(2 * GB, 8 * GB), "ok", "2.0 GB of 8.0 GB free"),
    (verdicts.memory(1.9 * GB, 8 * GB), "warning", "1.9 GB"),
    (verdicts.memory(0.7 * GB, 8 * GB), "problem", "700.0 MB"),
    (verdicts.open_files(1024, 4096), "ok", "1024"),
    (verdicts.open_files(-1, -1), "ok", "no limit"),
    (verdicts.open_files(256, -1), "warning", "256"),
    (verdicts.open_files(255, 10**6), "problem", "255"),
    (verdicts.open_files(512, 512), "warning", "the system's limit is 512"),
    (verdicts.temporary([("/tmp", "")]), "ok", "/tmp"),
    (verdicts.temporary([("/long", "too long"), ("/tmp", "")]), "warning", "/long: too long; sockets go to /tmp"),
    (verdicts.temporary([("/long", "too long"), ("/tmp", "full")]), "problem", "/tmp: full"),
    (verdicts.caches("/a/.cache", "", None, "", ""), "ok", "/a/.cache"),
    (verdicts.caches("/.cache", "no", "/home/cache", "", ""), "warning", "can't write to /.cache: no; downloads"),
    (verdicts.caches(None, "no", "/tmp/x", "", ""), "warning", "no home folder; downloads and compiled code go"),
    (verdicts.caches("/.cache", "no", None, "", ""), "problem", "can't write to /.cache"),
    (verdicts.caches("/a/.cache", "", None, "/hf", "read-only"), "warning", "can't write to /hf: read-only"),
    (verdicts.shared_memory(True), "ok", "usable"),
    (verdicts.shared_memory(False), "ok", "does without"),
    (verdicts.disk("/home", 5 * GB, 100 * GB, 0.01), "ok", "5.0 GB of 100.0 GB free in /home"),
    (verdicts.disk("/home", 4 * GB, 100 * GB, 0.01), "warning", "small models"),
    (verdicts.disk("/home", 0.4 * GB, 100 * GB, 0.01), "problem", "400.0 MB"),
    (verdicts.disk("/home", 50 * GB, 100 * GB, 0.7), "warning", "syncing one file takes 0.7 s"),
    (verdicts.disk("/home", 50 * GB, 100 * GB, None, "Read-only file system"), "problem", "Read-only"),
    (verdicts.identity([], None), "ok", "makes a key when it starts"),
    (verdicts.identity([KeyFacts("1.key", 0o400)], None), "ok", "1.key"),
    (verdicts.identity([KeyFacts("1.key", 0o400, in_use=True)], None), "ok", "makes another one"),
    (verdicts.identity([KeyFacts("1.key", 0o400, in_use=True), KeyFacts("2.key", 0o400)], None), "ok", "2.key"),
    (verdicts.identity([KeyFacts("1.key", 0o400, in_use=True)], "1.key"), "problem", "in use by another process"),
    (verdicts.identity([KeyFacts("1.key", 0o644)], None), "warning", "can be read by others (mode 644)"),
    (verdicts.identity([KeyFacts("1.key", 0o400, "not a key")], None), "problem", "not a key"),
    (verdicts.device(CPU), "ok", "cpu, 2 cores, bf16"),
    (verdicts.device(replace(CPU, bf16=False)), "ok", "no bf16"),
    (verdicts.device(replace(CPU, gpu_without_torch=True)), "warning", "there is an NVIDIA GPU"),
    (verdicts.device(GPU), "ok", "NVIDIA H200, 100.0 GB of 140.0 GB free, bf16"),
    (verdicts.device(replace(GPU, failure="no kernel image")), "problem", "no kernel image"),
    (verdicts.clock([]), "warning", "no peer has told"),
    (verdicts.clock([(0.3, 0.02), (-0.1, 0.02), (0.1, 0.02)]), "ok", "within 0.1 s"),
    (verdicts.clock([(12.0, 5.0)]), "ok", "within 12.0 s"),
    (verdicts.clock([(12.0, 0.1)]), "warning", "12 s behind the swarm's"),
    (verdicts.clock([(-600.0, 0.1)]), "warning", "10 min 0 s ahead of the swarm's"),
    (verdicts.clock([(-600.0, 0.1), (0.0, 0.1), (0.0, 0.1)]), "ok", "within"),
    (verdicts.clock([(7200.0, 0.1)]), "problem", "2 h 0 min behind"),
    (verdicts.reachability([31337], [], [PUBLIC, PUBLIC], []), "ok", "2 of 2 peers reached 93.184.216.34:31337"),
    (verdicts.reachability([31337], [], [PUBLIC, IN_VAIN], ["x"]), "ok", "1 of 2 peers reached"),
    (verdicts.reachability([31337], [], [HOME], []), "ok", "from your own network; no peer outside has tried"),
    (verdicts.reachability([31337], [], [SELF], []), "ok", "from this machine; no peer outside has tried"),
    (verdicts.reachability([31337], [PUBLIC.ip], [PUBLIC], []), "ok", "reached"),
    (
        verdicts.reachability([31337], ["1.1.1.1"], [PUBLIC], []),
        "warning",
        "no peer sees the announced address 1.1.1.1",
    ),
    (
        verdicts.reachability([31337], [], [IN_VAIN], []),
        "warning",
        "1 peer dialled 93.184.216.34 and could not connect",
    ),
    (verdicts.reachability([31337], [], [], ["busy"]), "warning", "no peer dialled back (busy)"),
    (verdicts.reachability([], [], [], []), "warning", "not tested"),
    (verdicts.bandwidth(1e6, 125e3), "ok", "8.0 Mbit/s down, 1.0 Mbit/s up"),
    (verdicts.bandwidth(1e6, 124e3), "warning", "contributions will arrive late"),
    (verdicts.bandwidth(12e3, 1e6), "problem", "0.1 Mbit/s down"),
    (verdicts.bandwidth(None, None, "busy"), "warning", "not measured: busy"),
    (verdicts.bandwidth(1e6, None, "busy"), "warning", "8.0 Mbit/s down, not measured: busy"),
    (verdicts.run(RUN), "ok", "1,000,000 parameters, 3 peers; state of 8.0 MB at most"),
    (verdicts.run(replace(RUN, down=1e6)), "ok", "8 s to fetch"),
    (verdicts.run(replace(RUN, peers=1)), "ok", "1 peer;"),
    (verdicts.run(replace(RUN, free_memory=1.9 * GB)), "problem", "it needs 2.0 GB of memory, 1.9 GB are free"),
    (verdicts.run(replace(RUN, free_memory=2.4 * GB)), "warning", "2.4 GB are free: that is little"),
    (verdicts.run(replace(RUN, free_device=0.9 * GB)), "problem", "of GPU memory"),
    (verdicts.run(replace(RUN, free_device=None)), "ok", "state of"),
    (verdicts.run(replace(RUN, free_disk=3 * GB)), "problem", "needs 4.0 GB of disk"),
    (verdicts.run(replace(RUN, own_files=True)), "warning", "it trains on files that you name; state of 8.0 MB"),
    (verdicts.run(replace(RUN, own_files=True, free_memory=1.9 * GB)), "problem", "needs 2.0 GB of memory"),
]


@pytest.mark.parametrize(("finding", "verdict", "text"), CASES, ids=lambda value: getattr(value, "check", None))
def test_facts_become_a_verdict(finding: Finding, verdict: Verdict, text: str) -> None:
    assert finding.verdict == verdict, finding
    assert text in finding.text


def told() -> Iterator[Finding]:
    yield from (finding for finding, _, _ in CASES)


def test_whatever_is_amiss_has_a_next_step_and_what_is_well_has_none() -> None:
    for finding in told():
        assert bool(finding.next_step) == (finding.verdict != "ok"), finding
        assert "\n" not in finding.text + finding.next_step


def test_a_run_on_files_of_the_volunteer_is_joined_with_them() -> None:
    for free, more in ((8 * GB, ""), (2.4 * GB, " --batch-size 1, or close other programs")):
        finding = verdicts.run(replace(RUN, own_files=True, free_memory=free))
        assert finding.next_step == f"p2ptrain join INVITE --data FILES{more}"


def test_only_problems_end_with_1() -> None:
    codes: dict[Verdict, set[int]] = {verdict: set() for verdict in get_args(Verdict)}
    for each in told():
        codes[each.verdict].add(verdicts.exit_code([each]))
    assert codes == {"ok": {0}, "warning": {0}, "problem": {1}}
    assert verdicts.exit_code([]) == 0


def test_the_announced_address_follows_the_family_that_is_seen() -> None:
    finding = verdicts.reachability([31337], [], [DialledBack("2001:db8::7", ())], [])
    assert "--announce /ip6/2001:db8::7/tcp/31337" in finding.next_step
    reached = verdicts.reachability([31337], [], [DialledBack("2606:4700::1", (31337,))], [])
    assert "[2606:4700::1]:31337" in reached.text
