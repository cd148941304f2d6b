"""`p2ptrain verify`: check every digest and signature of a run folder or an export."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from p2ptrain.commands.provenance import FILE, Provenance, check_export
from p2ptrain.errors import LedgerError, UsageError
from p2ptrain.paths import exists
from p2ptrain.peer.methods import method_of
from p2ptrain.state import RunFolder
from p2ptrain.state.check import Check


def verify(target: Path, base: int | None, run_dir: Path | None, json_lines: bool) -> None:
    """Check a run folder or an export, and print each check when it is done.

    Args:
        target: the run folder or the export.
        base: height of the snapshot from which a run folder is replayed; None: the oldest snapshot.
        run_dir: a run folder of the same run; an export is compared with its ledger.

    Raises:
        UsageError: `run_dir` is given, but `target` is no export.
        StorageError: `target` is no run folder and no export.
        LedgerError: a check failed.
    """
    if exists(target / FILE):
        _tell(target, _check_export(target, run_dir), json_lines, "export the run again")
        return
    if run_dir is not None:
        raise UsageError(f"--run means nothing for {target}", "this folder is not an export", "leave out --run")
    with RunFolder.open(target, lock=False) as folder:
        step = f"start the peer, which fetches what is missing or damaged: p2ptrain peer {target}"
        _tell(target, method_of(folder.spec).audit(folder, base), json_lines, step)


def _check_export(target: Path, run_dir: Path | None) -> Iterator[Check]:
    yield from check_export(target)
    if run_dir is None:
        return
    told = Provenance.read(target)
    with RunFolder.open(run_dir, lock=False) as folder:
        if folder.run.hex() == told.run:
            yield method_of(folder.spec).check_against(folder, told.claim)
        else:
            yield Check("ledger", False, f"{run_dir} belongs to another run, {folder.run.hex()[:8]}")


def _tell(target: Path, checks: Iterable[Check], json_lines: bool, next_step: str) -> None:
    bad = []
    for check in checks:
        if json_lines:
            print(json.dumps({"event": "check", **asdict(check)}), flush=True)
        else:
            print(f"{'ok' if check.good else 'WRONG':<7}{check.subject:<10} {check.found}", flush=True)
        bad += [] if check.good else [check.subject]
    if bad:
        raise LedgerError(f"{target} did not pass all checks", f"wrong: {', '.join(dict.fromkeys(bad))}", next_step)
