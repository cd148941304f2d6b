"""What each exit code of the program means: the one source of `p2ptrain explain` and of docs/exit-codes.md, which
`python -m p2ptrain.exit_codes > docs/exit-codes.md` writes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExitCode:
    """One way in which the program can end."""

    code: int
    title: str
    meaning: str
    causes: tuple[str, ...]
    next_steps: tuple[str, ...]


EXIT_CODES = (
    ExitCode(
        0,
        "done",
        "The run is complete, or the peer was asked to stop and has saved. Any other command did what it was asked.",
        ("The run has reached its last step.", "Ctrl-C was pressed once, or the system asked the process to stop."),
        (
            "Resume a stopped peer with the command that it printed last: p2ptrain peer RUN_DIR",
            "Take the model out of a run: p2ptrain export RUN_DIR OUT",
        ),
    ),
    ExitCode(
        1,
        "something else that was foreseen",
        "The command could not do its work for a reason that has no code of its own, or `doctor` found a problem.",
        (
            "A process of the demo failed; its own error is printed above.",
            "At least one line of `p2ptrain doctor` is a problem.",
            "With a traceback: a bug of p2ptrain.",
        ),
        (
            "Read the message's `next` line; after `doctor`, that below each problem.",
            "Report a traceback together with the last lines of log.txt in the run folder.",
        ),
    ),
    ExitCode(
        2,
        "the command line is wrong",
        "The command line itself is wrong: an unknown command or flag, a missing argument, a value out of its range, "
        "or flags that mean nothing together or to this run.",
        ("A flag is misspelt.", "An argument is missing, e.g. the invite.", "A number is too small or too large."),
        ("See what the command takes: p2ptrain COMMAND --help",),
    ),
    ExitCode(
        3,
        "a run spec is wrong",
        "A run spec (or a flag that stands for one of its fields) is wrong: the message names file, key, what was "
        "found and what is allowed.",
        (
            "A key is misspelt, or a value is not among those that are allowed.",
            "No recipe has this name, or the file is not there.",
            "The model's configuration does not fit the architecture, the tokenizer or the sequence length.",
        ),
        (
            "Correct what the message names and start again.",
            "Get a spec in which every field is explained: p2ptrain new FILE",
        ),
    ),
    ExitCode(
        4,
        "the identity can't be used",
        "The identity is in use by another process on this machine, unreadable, or no Ed25519 key.",
        (
            "Another peer on this machine runs with the same --identity or from the same run folder.",
            "The key file belongs to another user, or is damaged.",
            "The key is not the one that the command needs, e.g. an owner's for `revoke`.",
        ),
        (
            "Stop the other process, or leave out --identity: each peer takes the next free one.",
            "See whether the key can be used: p2ptrain doctor --identity FILE",
        ),
    ),
    ExitCode(
        5,
        "network",
        "Nobody answers at the swarm's addresses, another protocol is spoken there, a port is taken, or p2pd has "
        "ended.",
        (
            "The peers of the invite have stopped, or moved to other addresses.",
            "A firewall between here and there.",
            "One of the two is of another version.",
            "Another process listens at the port of --listen.",
            "No bootstrap node is known, or no run of the name that was given goes on there.",
        ),
        (
            "See how far the invite leads from here: p2ptrain doctor INVITE",
            "Ask for a newer invite; any peer of the run prints one at its start.",
            "Listen at another port: --listen /ip4/0.0.0.0/tcp/31338",
            "See which runs go on in a swarm that you have an invite of: p2ptrain runs --bootstrap INVITE",
        ),
    ),
    ExitCode(
        6,
        "the invite can't be used",
        "The invite is damaged, of another version, or names no run; or a name is that of several runs; or the list of "
        "bootstrap nodes can't be read.",
        (
            "A part of the link was lost on the way.",
            "It is a bootstrap node's: it leads to a swarm and names no run in it.",
            "It was made by a newer p2ptrain.",
            "Somebody has given their run the name of another one.",
        ),
        (
            "Copy the whole link again, from p2ptrain:// on.",
            "With a bootstrap node's: p2ptrain peer RUN --bootstrap INVITE",
            "Of several runs, give the beginning of the id of the one that is meant: p2ptrain join ID",
        ),
    ),
    ExitCode(
        7,
        "model or data can't be loaded",
        "Model, tokenizer or data can't be loaded: missing files or columns, an incomplete model folder, too small a "
        "disk, no such device, no compiler for `--compile`; or they would bring code with them, which is never run.",
        (
            "The run reads files that are not on this machine.",
            "The hub can't be reached, or the name there is another one.",
            "A package is missing, e.g. peft for runs with adapters.",
            "The model, tokenizer or dataset wants code of its author's to be run (docs/safety.md).",
            "--device names a GPU that torch can't use.",
        ),
        (
            "Read other files than the spec names: --data FILES; load another folder's model: --model FOLDER",
            "See what torch can use here: p2ptrain doctor",
        ),
    ),
    ExitCode(
        8,
        "a run folder can't be used",
        "A run folder, or what a bootstrap node keeps, can't be written, read or trusted: full disk, damaged file, in "
        "use by another process.",
        (
            "The disk is full, or the folder belongs to another user.",
            "A file is damaged or gone; the message names it.",
            "The folder is another peer's that runs now, or no run folder.",
        ),
        (
            "Free some space, or choose another folder with --home; see what is there: p2ptrain doctor",
            "See what is wrong in a run folder: p2ptrain verify RUN_DIR",
            "Join the run again: what is damaged is fetched from the others: p2ptrain join INVITE",
        ),
    ),
    ExitCode(
        9,
        "training can't go on here",
        "Training can't go on here, e.g. the loss became NaN, or an owner of a one-byte run has revoked this peer. The "
        "peer has contributed nothing wrong; starting it again goes on from the swarm's weights.",
        (
            "The learning rate is too high for the model.",
            "--autocast with a model that needs float32.",
            "An owner has revoked this peer.",
        ),
        ("Start the peer again, without --autocast: p2ptrain peer RUN_DIR",),
    ),
    ExitCode(
        10,
        "this peer and the swarm can't agree",
        "This peer and the swarm can't agree: arithmetic that gives other bits, or a fork deeper than the spec lets a "
        "peer leave by itself. Also what `verify` ends with if something is wrong.",
        (
            "A machine whose arithmetic differs, or whose memory is faulty.",
            "This peer was apart from the others for so long that both sides went far.",
            "A file of the run folder or of an export is not what it should be.",
        ),
        (
            "See which branches there are: p2ptrain history RUN_DIR",
            "Begin anew from the swarm's state, with another --home: p2ptrain join INVITE --home FOLDER",
        ),
    ),
    ExitCode(
        11,
        "malformed bytes",
        "Bytes from the network or the disk are malformed where there is no other source to turn to.",
        ("A damaged file.", "A peer that is faulty, hostile or of another version."),
        ("See what is wrong in a run folder: p2ptrain verify RUN_DIR", "Ask for another peer's invite."),
    ),
    ExitCode(
        12,
        "not let in",
        "The run is private and its members do not let this peer in, or not any more; or a key is not one of the run's "
        "owners. A peer that was training has saved.",
        (
            "An owner has revoked this peer, or closed the invite before it was used.",
            "The invite, and with it the membership, has ended.",
            "The link names a private run and holds no key, or is for another peer.",
            "This machine's clock is off by more than an hour.",
        ),
        (
            "Ask an owner of the run for a new invite: p2ptrain join INVITE",
            "As an owner, see who is in and why not: p2ptrain members RUN_DIR",
            "Give the owner's key file: --owner-key FILE",
        ),
    ),
    ExitCode(
        15,
        "not enough memory",
        "The run takes more than `--max-memory` allows, or than there is with a batch of one row. A peer that was "
        "training has saved and goes on where it was when it is started with more.",
        (
            "--max-memory is too small for the model; the message has the numbers.",
            "Other programs have taken the memory meanwhile.",
        ),
        ("Start the peer again with a larger --max-memory, or on a machine with more memory: p2ptrain peer RUN_DIR",),
    ),
    ExitCode(
        130,
        "quit at once",
        "Quit at once, by a second Ctrl-C. What the peer did since its last checkpoint is lost to it.",
        ("Ctrl-C was pressed twice.",),
        ("Go on from the last checkpoint: p2ptrain peer RUN_DIR",),
    ),
)


def find(code: int) -> ExitCode | None:
    return next((each for each in EXIT_CODES if each.code == code), None)


def as_text(each: ExitCode) -> str:
    """For a terminal."""
    lines = [f"{each.code}: {each.title}", "", each.meaning]
    for heading, points in (("Usual causes:", each.causes), ("What to do:", each.next_steps)):
        lines += ["", heading, *(f"- {point}" for point in points)]
    return "\n".join(lines)


def as_markdown() -> str:
    """docs/exit-codes.md, whole."""
    parts = [
        "# Exit codes",
        "Every expected failure is three short lines on standard error (what happened, why, and what to do next) and "
        "one of\nthese codes. Nothing that was saved before is lost. `p2ptrain explain CODE` says the same in the "
        "terminal.",
        "\n".join(
            [
                "| code | meaning |",
                "|---|---|",
                *(f"| {each.code} | [{each.title}](#{_anchor(each)}) |" for each in EXIT_CODES),
            ]
        ),
    ]
    for each in EXIT_CODES:
        parts += [f"## {_heading(each)}", each.meaning]
        for heading, points in (("Usual causes:", each.causes), ("What to do:", each.next_steps)):
            parts.append("\n".join([heading, "", *(f"- {point}" for point in points)]))
    return "\n\n".join(parts) + "\n"


def _heading(each: ExitCode) -> str:
    return f"{each.code} {each.title}"


def _anchor(each: ExitCode) -> str:
    """As markdown renderers name the heading."""
    return "".join(letter for letter in _heading(each).lower().replace(" ", "-") if letter.isalnum() or letter == "-")


if __name__ == "__main__":
    print(as_markdown(), end="")
