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
            "A package is not installed that the command needs, e.g. torch where only a bootstrap node runs.",
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
        "The command line itself is wrong: an unknown command or option, a missing argument, a value that is malformed "
        "or out of its range, or options that contradict each other or mean nothing to this run. Nothing was started. "
        "The Python API raises the same error, UsageError, for an argument of its own.",
        (
            "An option is misspelt, or its value.",
            "An argument is missing, e.g. the invite.",
            "A number is too small or too large.",
            "An address in --listen or --metrics is malformed.",
            "Two options contradict each other, e.g. --archive and --max-disk, or --no-listen and --listen.",
            "An option means nothing to this run: --keep to a run without records, --private to one that exists, a "
            "label in an invite into a public run, fewer --peers than the run begins with.",
        ),
        (
            "Correct what the message names, or leave that option out.",
            "See what the command takes: p2ptrain COMMAND --help",
        ),
    ),
    ExitCode(
        3,
        "a run spec is wrong",
        "A run spec is wrong, or asks for something that the command or this machine can't do: the message names file "
        "and key or flag, what was found and what is allowed.",
        (
            "A key is misspelt, a value is not among those that are allowed, or the file is no TOML.",
            "No recipe has this name, or the file is not there.",
            "The model's parts do not fit together: its configuration, the tokenizer, the sequence length, the number "
            "of fragments, a pattern that matches nothing, a learning rate that its weights can't follow.",
            "The model's configuration would have code run that comes from elsewhere (docs/safety.md).",
            "The run needs a program of its founder's, or trains by the other method than the command is for.",
            "--autocast, --pause-when gpu-busy or a one-byte run asks this machine's device for what it lacks.",
        ),
        (
            "Correct what the message names, or leave that flag out, and start again.",
            "Get a spec in which every field is explained: p2ptrain new FILE",
            "Ask the founder of a run that needs a program for that program.",
        ),
    ),
    ExitCode(
        4,
        "the identity can't be used",
        "The identity is in use by another process on this machine, unreadable, no Ed25519 key, or another peer's.",
        (
            "Another peer on this machine runs with the same --identity or from the same run folder.",
            "The key file is not there, belongs to another user, or is damaged.",
            "The run folder that is resumed is another peer's, or its key is not in this home.",
            "`keygen` was given a file that exists: a key is never overwritten.",
        ),
        (
            "Stop the other process, or leave out --identity: each peer takes the next free one.",
            "See whether the key can be used: p2ptrain doctor --identity FILE",
            "Resume with the key of the folder's own peer, --identity FILE; or come as a new one: p2ptrain join INVITE",
        ),
    ),
    ExitCode(
        5,
        "network",
        "Nobody answers at the swarm's addresses, or nobody there has what is asked for; another protocol is spoken "
        "there; this machine can't listen as it was told; or p2pd has ended.",
        (
            "The peers of the invite have stopped, or moved to other addresses.",
            "A firewall between here and there.",
            "One of the two is of another version.",
            "No peer is there that knows the run, hands out its state, or takes an owner's order.",
            "The port of --listen or --metrics is taken, or the address there is another machine's.",
            "An address in --announce is none.",
            "The invite leads to this very peer: it was made under the same --identity.",
            "No bootstrap node is known, or no run of the name that was given goes on there.",
            "The run folder knows no address yet: its peer has never run.",
        ),
        (
            "See how far the invite leads from here: p2ptrain doctor INVITE",
            "Ask for a newer invite; any peer of a public run prints one at its start, an owner makes a private run's.",
            "Start a peer of the run, then give the order again (`revoke`, `invite --renew`, `invite --revoke`).",
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
            "The run trains on files of each volunteer's machine; none were named, none match, or they can't be read.",
            "The hub can't be reached, or the name there is another one.",
            "A column or a label is missing; or what is left is too little to train on, or to hold some of it out.",
            "The disk of the hub's cache is too small for what has to be downloaded.",
            "A package is missing: peft for runs with adapters, nvidia-ml-py for --pause-when gpu-busy.",
            "The model, tokenizer or dataset wants code of its author's to be run (docs/safety.md).",
            "--device names a GPU that torch can't use, or --compile finds no compiler.",
        ),
        (
            "Name the files that the run may read here: --data FILES; load another folder's model: --model FOLDER",
            "Make room, or set HF_HOME to a folder on another disk.",
            'Install what is missing: pip install "p2ptrain[lora]" or "p2ptrain[gpu]"',
            "See what torch can use here: p2ptrain doctor",
        ),
    ),
    ExitCode(
        8,
        "a run folder can't be used",
        "A run folder, an export, or what a bootstrap node keeps can't be written, read or trusted (full disk, damaged "
        "file, in use by another process), or does not hold what was asked for.",
        (
            "The disk is full, or the folder belongs to another user.",
            "A file is damaged or gone; the message names it.",
            "The folder is another peer's that runs now, no run folder, or of a format that this version can't read.",
            "No run folder here, or more than one, goes by the name that was given.",
            "It does not hold the height or records (`export --at`, `replay`), the peer or invite (`revoke`, `invite`) "
            "that was named.",
            "The folder that `export` or `demo` should write to holds something else.",
        ),
        (
            "Free some space, or choose another folder with --home; see what is there: p2ptrain doctor",
            "Instead of a name, give the folder that the peer printed at its start.",
            "See what is wrong in a run folder: p2ptrain verify RUN_DIR",
            "Have its peer fetch what is missing: p2ptrain peer RUN_DIR",
            "If genesis or spec are damaged, join the run again, which mends them: p2ptrain join INVITE",
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
        "The run is private and its members do not let this peer in, or not any more; or only an owner of a private "
        "run can do that, and the key is no owner's or the run is public. A peer that was training has saved.",
        (
            "An owner has revoked this peer, or closed the invite before it was used.",
            "The invite, and with it the membership, has ended.",
            "The link names a private run and holds no key, or is for another peer.",
            "This machine's clock is off by more than an hour.",
            "The file `members` in the run folder is damaged or gone.",
            "The run is public: it has no members, its invites no labels, and it can shut nobody out.",
        ),
        (
            "Ask an owner of the run for a new invite; who was revoked joins with it under another --identity.",
            "As an owner, see who is in and why not: p2ptrain members RUN_DIR",
            "Give the owner's key file: --owner-key FILE",
            "To choose who takes part, start a private run: p2ptrain peer RUN --private",
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
