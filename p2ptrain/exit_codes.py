"""The meaning of each exit code. `p2ptrain explain` prints it, and `python -m p2ptrain.exit_codes > docs/exit-codes.md`
writes the page.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExitCode:
    """One way in which the program ends."""

    code: int
    title: str
    meaning: str
    causes: tuple[str, ...]
    next_steps: tuple[str, ...]


EXIT_CODES = (
    ExitCode(
        0,
        "done",
        "The command did what it was asked. A peer ends with this code when the run is complete, or when it was asked "
        "to stop and has saved.",
        ("The run has reached its last step.", "Ctrl-C was pressed once, or the system asked the process to stop."),
        (
            "Resume a stopped peer with the command that it printed last: p2ptrain peer RUN_DIR",
            "Write the model to a folder that transformers loads: p2ptrain export RUN_DIR OUT",
        ),
    ),
    ExitCode(
        1,
        "another problem",
        "The command could not do its work, for a reason that has no code of its own; or `doctor` found a problem.",
        (
            "A process of the demo failed. Its own error is printed above.",
            "At least one line of `p2ptrain doctor` is a problem.",
            "The command needs a package that is not installed, e.g. torch where only a bootstrap node runs.",
            "If there is a traceback: a bug of p2ptrain.",
        ),
        (
            "Do what the `next` line of the message says. `doctor` prints one below each problem.",
            "Report a traceback, together with the last lines of log.txt in the run folder.",
        ),
    ),
    ExitCode(
        2,
        "the command line is wrong",
        "The command or an option does not exist, an argument is missing, a value is malformed or out of range, or "
        "options contradict each other or mean nothing for this run. Nothing was started. The Python API raises the "
        "same error, UsageError, for a wrong argument.",
        (
            "An option or its value is misspelt.",
            "An argument is missing, e.g. the invite.",
            "A number is too small or too large.",
            "An address in --listen or --metrics is malformed.",
            "Two options contradict each other, e.g. --archive and --max-disk, or --no-listen and --listen.",
            "An option means nothing for this run: --keep for a run without records, --private for a run that exists, "
            "a label for an invite into a public run, fewer --peers than the run needs to begin.",
        ),
        (
            "Correct what the message names, or leave that option out.",
            "See which options the command has: p2ptrain COMMAND --help",
        ),
    ),
    ExitCode(
        3,
        "the run spec is wrong",
        "A run spec is wrong, or it asks for something that the command or this machine can't do. The message names "
        "the file, the key or option, what was found, and what is allowed.",
        (
            "A key is misspelt, a value is not allowed, or the file is not TOML.",
            "There is no recipe or file with this name.",
            "Parts of the model do not fit together: its configuration, the tokenizer, the sequence length, the number "
            "of fragments, a pattern that matches nothing, a learning rate that is too large for its weights.",
            "The model does not fit the task: it sees the tokens that it should predict, it is an encoder-decoder, or "
            "it fails on the first row (docs/tasks.md).",
            "The model's configuration would run code that its author wrote (docs/safety.md).",
            "The run needs a program of its founder, or the command is for runs with the other method.",
            "The device of this machine can't do what --autocast, --pause-when gpu-busy or a one-byte run needs.",
        ),
        (
            "Correct what the message names, or leave that option out, and start again.",
            "Write a spec in which every field is explained: p2ptrain new FILE",
            "If the run needs a program, ask its founder for it.",
        ),
    ),
    ExitCode(
        4,
        "the key file can't be used",
        "Another process uses the key file, it can't be read, it holds no Ed25519 key, or it is another peer's key.",
        (
            "Another peer on this machine runs with the same --identity or the same run folder.",
            "The key file does not exist, belongs to another user, or is damaged.",
            "The run folder belongs to another peer, or the key of its peer is not in this home.",
            "The file that `keygen` should write exists: a key is never overwritten.",
        ),
        (
            "Stop the other process, or leave out --identity: each peer takes the next free key.",
            "Check a key file: p2ptrain doctor --identity FILE",
            "Resume with the key of the folder's peer, --identity FILE; or join as a new peer: p2ptrain join INVITE",
        ),
    ),
    ExitCode(
        5,
        "network",
        "No peer answers at the swarm's addresses, no peer there has what is needed, the peers there speak another "
        "protocol, this machine can't listen at the given address, or p2pd has ended.",
        (
            "The peers of the invite have stopped, or moved to other addresses.",
            "A firewall blocks the way.",
            "This peer and the others have different versions of p2ptrain.",
            "No peer is online that knows the run, serves its state, or takes an owner's order.",
            "Another program uses the port of --listen or --metrics, or the address belongs to another machine.",
            "The text in --announce is not an address.",
            "The invite leads to this same peer, because --identity names the same key.",
            "No bootstrap node is known, or no run with the given name has peers.",
            "The run folder knows no address, because its peer has never run.",
        ),
        (
            "See how far the invite leads from here: p2ptrain doctor INVITE",
            "Ask for a newer invite: every peer of a public run prints one when it starts, an owner makes a private "
            "one.",
            "Start a peer of the run, then repeat the owner's command (`revoke`, `invite --renew`, `invite --revoke`).",
            "Listen at another port: --listen /ip4/0.0.0.0/tcp/31338",
            "List the runs of a swarm that you have an invite to: p2ptrain runs --bootstrap INVITE",
        ),
    ),
    ExitCode(
        6,
        "the invite can't be used",
        "The invite is damaged, has another version, or names no run; or several runs have the given name; or the list "
        "of bootstrap nodes can't be read.",
        (
            "A part of the link was lost when it was copied.",
            "The link is a bootstrap node's: it leads to a swarm and names no run.",
            "A newer version of p2ptrain made the link.",
            "Somebody has given their run the name of another run.",
        ),
        (
            "Copy the whole link again, from p2ptrain:// on.",
            "Start a run in the swarm of a bootstrap node: p2ptrain peer RUN --bootstrap INVITE",
            "If several runs have the name, give the first characters of the right id instead: p2ptrain join ID",
        ),
    ),
    ExitCode(
        7,
        "the model or the data can't be loaded",
        "The model, the tokenizer or the data can't be loaded: files or columns are missing, the disk is too small, "
        "there is no such device, or there is no compiler for --compile. Or they contain code, which p2ptrain never "
        "runs.",
        (
            "The run trains on each volunteer's own files, and --data is missing or names no file that can be read.",
            "The hub can't be reached, or it has nothing with this name.",
            "The model's folder is damaged (a weight is NaN), Git LFS has not fetched its files, or the model does not "
            "fit the task (docs/tasks.md).",
            "A column or a label is missing, or there is too little data to train and to hold some of it out.",
            "The disk with the hub's cache is too small for the download.",
            "A package is missing: peft for runs with adapters, nvidia-ml-py for --pause-when gpu-busy.",
            "The model, tokenizer or dataset needs code that its author wrote (docs/safety.md).",
            "torch can't use the GPU that --device names, or --compile finds no compiler.",
        ),
        (
            "Name the files to train on: --data FILES; or load the model from another folder: --model FOLDER",
            "Free disk space, or set HF_HOME to a folder on another disk.",
            'Install what is missing: pip install "p2ptrain[lora]" or "p2ptrain[gpu]"',
            "See which devices torch can use: p2ptrain doctor",
        ),
    ),
    ExitCode(
        8,
        "a folder can't be used",
        "A run folder, an export, or the folder of a bootstrap node can't be written or read, is damaged, is in use by "
        "another process, or does not hold what was asked for.",
        (
            "The disk is full, or the folder belongs to another user.",
            "A file is damaged or missing. The message names it.",
            "The folder is no run folder, has a format that this version can't read, or another peer uses it now.",
            "No run folder here has the given name, or several have it.",
            "The folder has no such height, records, peer or invite (`export --at`, `replay`, `revoke`, `invite`).",
            "The folder that `export` or `demo` should write to is not empty.",
        ),
        (
            "Free disk space, or choose another folder with --home. Check both: p2ptrain doctor",
            "Instead of a name, give the folder that the peer printed when it started.",
            "See what is wrong in a run folder: p2ptrain verify RUN_DIR",
            "Start the peer, which fetches what is missing or damaged: p2ptrain peer RUN_DIR",
            "If the genesis or the spec is damaged, join the run again, which repairs them: p2ptrain join INVITE",
        ),
    ),
    ExitCode(
        9,
        "training can't go on",
        "Training can't go on here, e.g. because the loss became NaN, or because an owner of a one-byte run has "
        "revoked this peer. The peer has contributed nothing wrong. If it is started again, it goes on from the "
        "swarm's weights.",
        (
            "The learning rate is too high for the model.",
            "The model needs float32, and --autocast was given.",
            "An owner has revoked this peer.",
        ),
        ("Start the peer again, without --autocast: p2ptrain peer RUN_DIR",),
    ),
    ExitCode(
        10,
        "the peers do not agree",
        "This peer and the others have different states, and a peer can't mend that by itself. `verify` also ends with "
        "this code if a check fails.",
        (
            "The arithmetic of a machine differs, or its memory is faulty.",
            "This peer was cut off for so long that both sides trained far: the fork is deeper than the spec allows.",
            "A file of the run folder or of the export is damaged or was changed.",
        ),
        (
            "See the branches of the run: p2ptrain history RUN_DIR",
            "Begin again from the swarm's state, in another home: p2ptrain join INVITE --home FOLDER",
        ),
    ),
    ExitCode(
        11,
        "malformed bytes",
        "Bytes from the network or the disk are malformed, and there is no other source for them.",
        ("A file is damaged.", "Another peer is faulty, hostile, or has another version of p2ptrain."),
        ("See what is wrong in a run folder: p2ptrain verify RUN_DIR", "Ask another peer for an invite."),
    ),
    ExitCode(
        12,
        "not let in",
        "The members of a private run do not let this peer in, or not any more; or only an owner of a private run can "
        "do this, and the key is no owner's or the run is public. A peer that was training has saved.",
        (
            "An owner has revoked this peer, or closed the invite before the peer used it.",
            "The invite has ended, and with it the membership.",
            "The link names a private run but holds no key, or it is for another peer.",
            "The clock of this machine is wrong by more than an hour.",
            "The file `members` in the run folder is damaged or missing.",
            "The run is public: it has no members, its invites have no labels, and it can't shut out a peer.",
        ),
        (
            "Ask an owner of the run for a new invite. A peer that was revoked needs a new key, too: --identity FILE",
            "As an owner, list the members and why a peer is out: p2ptrain members RUN_DIR",
            "Give an owner's key file: --owner-key FILE",
            "To choose who takes part, start a private run: p2ptrain peer RUN --private",
        ),
    ),
    ExitCode(
        15,
        "not enough memory",
        "The run needs more memory than --max-memory allows, or the model or a batch of one row does not fit into the "
        "memory. A peer that was training has saved. It resumes when it is started with more memory.",
        (
            "--max-memory is too small for the model. The message has the numbers.",
            "Other programs have taken the memory.",
        ),
        ("Start the peer again with a larger --max-memory, or on a machine with more memory: p2ptrain peer RUN_DIR",),
    ),
    ExitCode(
        130,
        "quit at once",
        "The peer quit at once, after a second Ctrl-C. It lost what it did after its last checkpoint.",
        ("Ctrl-C was pressed twice.",),
        ("Resume from the last checkpoint: p2ptrain peer RUN_DIR",),
    ),
)


def find(code: int) -> ExitCode | None:
    """The exit code with this number; None if there is none."""
    return next((each for each in EXIT_CODES if each.code == code), None)


def as_text(each: ExitCode) -> str:
    """One exit code, for a terminal."""
    return "\n\n".join([f"{each.code}: {each.title}", each.meaning, *_lists(each, "\n")])


def _lists(each: ExitCode, gap: str) -> list[str]:
    """The causes and the next steps, each below its heading and the gap."""
    lists = (("Usual causes:", each.causes), ("What to do:", each.next_steps))
    return [heading + gap + "\n".join(f"- {point}" for point in points) for heading, points in lists]


def as_markdown() -> str:
    """The whole page docs/exit-codes.md."""
    rows = (f"| {each.code} | [{each.title}](#{_anchor(each)}) |" for each in EXIT_CODES)
    parts = [
        "# Exit codes",
        "An expected failure prints three short lines: what happened, why, and what to do next. It ends with one of\n"
        "these codes. Nothing that was saved is lost. `p2ptrain explain CODE` prints the same in a terminal.",
        "\n".join(["| code | meaning |", "|---|---|", *rows]),
    ]
    for each in EXIT_CODES:
        parts += [f"## {_heading(each)}", each.meaning, *_lists(each, "\n\n")]
    return "\n\n".join(parts) + "\n"


def _heading(each: ExitCode) -> str:
    return f"{each.code} {each.title}"


def _anchor(each: ExitCode) -> str:
    """The name that markdown gives to the heading, for links."""
    return "".join(letter for letter in _heading(each).lower().replace(" ", "-") if letter.isalnum() or letter == "-")


if __name__ == "__main__":
    print(as_markdown(), end="")
