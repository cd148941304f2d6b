"""Run the doctor's checks one after another, and print what each finds.

A check that raises an error becomes a finding, too. Modules that import torch are imported inside the checks that need
them: if torch is broken, the doctor reports that and does not crash.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace

from rich.console import Console
from rich.table import Table

from p2ptrain.doctor import machine, verdicts
from p2ptrain.doctor.check import checked
from p2ptrain.doctor.verdicts import Finding
from p2ptrain.lean import has_semaphores
from p2ptrain.peer import Volunteer
from p2ptrain.state.home import default_home

COLOURS = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def run_doctor(volunteer: Volunteer, invite: str | None, json_lines: bool) -> int:
    """Run all checks and print each finding as soon as it is there.

    Args:
        json_lines: print one JSON object per line.

    Returns:
        The exit code: 1 if a finding is a problem, else 0.
    """
    logging.getLogger("p2ptrain").addHandler(logging.NullHandler())  # the findings already tell what a log would tell
    told, console = [], Console()
    live = sys.stdout.isatty() and not json_lines
    with console.status("looking") if live else contextlib.nullcontext():
        for finding in map(printable, findings(volunteer, invite)):
            told.append(finding)
            if live:
                console.print(_row(finding))
            else:
                line = json.dumps({"event": "finding", **asdict(finding)}) if json_lines else as_text(finding)
                print(line, flush=True)
    return verdicts.exit_code(told)


def findings(volunteer: Volunteer, invite: str | None = None) -> Iterator[Finding]:
    """The findings of all checks, the quick checks first."""
    yield checked("versions", machine.check_versions)
    yield checked("memory", lambda: verdicts.memory(*machine.free_memory()))
    yield checked("open files", lambda: verdicts.open_files(*resource.getrlimit(resource.RLIMIT_NOFILE)))
    yield checked("disk", lambda: machine.check_disk(volunteer.home or default_home()))
    yield checked("identity", lambda: machine.check_identity(volunteer.home or default_home(), volunteer.identity))
    yield checked("temporary", machine.check_temporary)
    yield checked("caches", lambda: machine.check_caches(volunteer.home))
    yield checked("/dev/shm", lambda: verdicts.shared_memory(has_semaphores()))
    yield checked("listen", lambda: machine.check_listen(volunteer.listen, volunteer.announce))
    yield checked("device", lambda: machine.check_device(volunteer.device))
    if invite is not None:
        from p2ptrain.doctor.swarm import swarm_findings

        yield from swarm_findings(volunteer, invite)


def printable(finding: Finding) -> Finding:
    """Remove control characters: some words come from other peers, and must not control the terminal."""
    text, step = ("".join(filter(str.isprintable, words)) for words in (finding.text, finding.next_step))
    return replace(finding, text=text, next_step=step)


def as_text(finding: Finding) -> str:
    """One line for a pipe, and a second line if there is a next step."""
    text = f"{finding.verdict:<8} {finding.check:<11} {finding.text}"
    return text + (f"\n         next: {finding.next_step}" if finding.next_step else "")


def _row(finding: Finding) -> Table:
    table = Table.grid(padding=(0, 1))
    for width in (8, 11):
        table.add_column(min_width=width, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(f"[{COLOURS[finding.verdict]}]{finding.verdict}[/]", finding.check, _plain(finding.text))
    if finding.next_step:
        table.add_row("", "[dim]next[/]", _plain(finding.next_step))
    return table


def _plain(text: str) -> str:
    """Escape brackets, e.g. those of an IPv6 address: rich would read them as markup."""
    return text.replace("[", "\\[")
