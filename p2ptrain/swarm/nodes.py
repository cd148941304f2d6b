"""The signed list of bootstrap nodes: where `p2ptrain runs` and `p2ptrain join NAME` search by default.

    [[node]]
    invite = "p2ptrain://1.…"                    # the node prints it when it starts
    operator = "Ada Example, ada@example.org"    # who runs it
    until = 2027-06-30                           # the last day on which the entry is valid
    signature = "…"                              # base64, made with the node's own key

The node's key signs the other three fields, so only its operator can make an entry. Somebody who edits or passes on the
file can't add, move or prolong the node of somebody else. A node has no authority over any run.
"""

from __future__ import annotations

import base64
import importlib.resources
import json
import tomllib
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from p2ptrain.errors import InviteError, MalformedError, P2PTrainError
from p2ptrain.run import PeerId, SignedRecord, SigningKey
from p2ptrain.run.record import Text
from p2ptrain.swarm.addresses import is_relayed, peer_of
from p2ptrain.swarm.invite import MAX_LINK, Invite
from p2ptrain.text import reason_of

MAX_FILE_BYTES = 256 * 1024
MAX_NODES = 64
LONGEST_DAYS = 2 * 366
"""The longest time that an entry may still be valid, since operators come and go."""


def _check_date(text: str) -> str:
    if date.fromisoformat(text).isoformat() != text:
        raise ValueError("a date is written YYYY-MM-DD")
    return text


class NodeEntry(SignedRecord):
    """One node of the list; the author is the node itself."""

    kind: ClassVar[str] = "bootstrap-node/1"

    invite: Annotated[str, Field(max_length=MAX_LINK)]
    operator: Annotated[Text, Field(min_length=1, max_length=100)]
    until: Annotated[str, AfterValidator(_check_date)]

    @classmethod
    def sign(cls, invite: str, operator: str, until: date, key: SigningKey, today: date) -> Self:
        """Make and sign the entry of the node that this key belongs to. Raises InviteError if the invite is damaged,
        and MalformedError if it does not lead to this node alone, or a field is outside its bounds."""
        try:
            entry = cls(author=key.peer_id, invite=invite, operator=operator, until=until.isoformat()).signed(key)
        except ValidationError as error:
            raise _malformed(error) from None
        entry.check(today)
        return entry

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of the node."""
        return Invite.parse(self.invite).addresses

    def check(self, today: date) -> Self:
        """Returns itself; raises InviteError or MalformedError unless the node itself has signed the entry and the
        entry is valid today."""
        self.check_signature()
        left = (date.fromisoformat(self.until) - today).days
        if left < 0:
            raise MalformedError("it is not valid any more", f"its last day was {self.until}")
        if left > LONGEST_DAYS:
            raise MalformedError("it is valid for too long", f"until {self.until}; at most two years are allowed")
        if node_of(self.invite) != self.author:
            raise MalformedError("the invite leads to another node than the one that has signed", self.author)
        return self

    def to_toml(self) -> str:
        """The entry as text for the file."""
        return (
            f'[[node]]\ninvite = "{self.invite}"\noperator = {json.dumps(self.operator, ensure_ascii=False)}\n'
            f'until = {self.until}\nsignature = "{base64.b64encode(self.signature).decode()}"\n'
        )


class _Row(BaseModel):
    """The fields of a node in the file."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    invite: str
    operator: str
    until: date
    signature: Annotated[str, Field(max_length=100)]


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of a file, usable or not."""

    number: int
    """The place in the file, counted from 1."""
    entry: NodeEntry | None
    """None if the entry can't be used."""
    problem: str = ""
    """Why the entry can't be used."""

    def __str__(self) -> str:
        if self.entry is None:
            return f"entry {self.number}: {self.problem}"
        return f"entry {self.number}: {self.entry.author} by {self.entry.operator}, until {self.entry.until}"


def shipped_list() -> Path:
    """The path of the list that came with this installation."""
    package = Path(str(importlib.resources.files("p2ptrain")))
    installed = package / "nodes.toml"
    return installed if installed.is_file() else package.parent / "bootstrap" / "nodes.toml"


def read_nodes(path: Path, today: date) -> list[Listed]:
    """Read and check every entry of a file. Raises InviteError if there is no such file, or the file as a whole is no
    list of nodes."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
        fields = tomllib.loads(data.decode())
        rows = fields.pop("node", [])
        if fields:
            raise ValueError(f"it has an unknown key: {next(iter(fields))!r}")
        if not isinstance(rows, list) or len(rows) > MAX_NODES:
            raise ValueError(f"'node' must be a list of tables, at most {MAX_NODES}: [[node]]")
    except Exception as error:  # of the system, of decoding, of TOML
        why = reason_of(error)[:200]
        raise InviteError(f"the list of bootstrap nodes {path} can't be read", why, "see bootstrap/README.md") from None
    listed: list[Listed] = []
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        try:
            entry = _read(row).check(today)
            if entry.author in seen:
                raise MalformedError("this node is in the list already", entry.author)
            seen.add(entry.author)
            listed.append(Listed(number, entry))
        except P2PTrainError as error:
            listed.append(Listed(number, None, error.brief))
    return listed


def node_of(invite: str) -> PeerId:
    """The node that a bootstrap node's invite leads to. Raises InviteError if the text is no invite, or is damaged, and
    MalformedError if it leads to a run, to several peers, or to a peer behind a relay."""
    parsed = Invite.parse(invite)
    if parsed.run is not None:
        raise MalformedError("the invite leads to a run", "this list holds bootstrap nodes only")
    if any(map(is_relayed, parsed.addresses)):
        raise MalformedError("the invite leads through a relay", "others must be able to dial the node directly")
    peers = {peer_of(address) for address in parsed.addresses}
    if len(peers) > 1:
        raise MalformedError("the invite leads to several peers", "each node has an entry of its own")
    return peers.pop()


def _read(row: Any) -> NodeEntry:
    try:
        told = _Row.model_validate(row)
        return NodeEntry(
            author=node_of(told.invite),
            invite=told.invite,
            operator=told.operator,
            until=told.until.isoformat(),
            signature=base64.b64decode(told.signature, validate=True),
        )
    except ValidationError as error:
        raise _malformed(error) from None
    except ValueError as error:  # of base64
        raise MalformedError("its signature is not base64", str(error)) from None


def _malformed(error: ValidationError) -> MalformedError:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the entry"
    return MalformedError(f"{where[:40]!r} is wrong", first["msg"])
