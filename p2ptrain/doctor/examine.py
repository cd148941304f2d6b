"""`p2ptrain doctor`: can this machine train, and does an invite lead anywhere? One finding after another.

What is measured here is judged by `verdicts`. A check that fails in a way that nobody foresaw is a finding, too. What
brings torch along is imported by the checks that need it, so that a broken installation is found and not fallen over.
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
from p2ptrain.doctor.check import DoctorOptions, checked
from p2ptrain.doctor.verdicts import Finding

COLOURS = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def run_doctor(options: DoctorOptions, json_lines: bool) -> int:
    """Print each finding as it comes.

    Returns:
        The exit code: 1 if there is a problem.
    """
    logging.getLogger("p2ptrain").addHandler(logging.NullHandler())  # the findings say what a log would
    told, console = [], Console()
    live = sys.stdout.isatty() and not json_lines
    with console.status("looking") if live else contextlib.nullcontext():
        for finding in map(printable, findings(options)):
            told.append(finding)
            if live:
                console.print(_row(finding))
            else:
                line = json.dumps({"event": "finding", **asdict(finding)}) if json_lines else as_text(finding)
                print(line, flush=True)
    return verdicts.exit_code(told)


def findings(options: DoctorOptions) -> Iterator[Finding]:
    """All checks, the quick ones first."""
    yield checked("versions", machine.check_versions)
    yield checked("memory", lambda: verdicts.memory(*machine.free_memory()))
    yield checked("open files", lambda: verdicts.open_files(*resource.getrlimit(resource.RLIMIT_NOFILE)))
    yield checked("disk", lambda: machine.check_disk(options.home_or_default))
    yield checked("identity", lambda: machine.check_identity(options.home_or_default, options.identity))
    yield checked("listen", lambda: machine.check_listen(options.listen))
    yield checked("device", lambda: machine.check_device(options.device))
    if options.invite is not None:
        from p2ptrain.doctor.swarm import swarm_findings

        yield from swarm_findings(options)


def printable(finding: Finding) -> Finding:
    """Some of the words are another peer's: nothing in them may steer the terminal."""
    text, step = ("".join(filter(str.isprintable, words)) for words in (finding.text, finding.next_step))
    return replace(finding, text=text, next_step=step)


def as_text(finding: Finding) -> str:
    """For a pipe: one line, and one more if there is something to do."""
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
    """Brackets, e.g. of an IPv6 address, are no markup."""
    return text.replace("[", "\\[")
