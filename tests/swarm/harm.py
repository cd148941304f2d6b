"""What can happen to the files of a run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def flip(path: Path, *places: float) -> None:
    """Change one bit at each of these places, from 0 for the first byte to 1 for the last."""
    data = bytearray(path.read_bytes())
    for place in places or (0.5,):
        data[int(place * (len(data) - 1))] ^= 4
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(mode)


def scatter(path: Path) -> None:
    """Change bits all over the file."""
    flip(path, *(part / 40 for part in range(1, 40)))


def vectors(folder: Path) -> list[Path]:
    return sorted((folder / "vectors").iterdir(), key=lambda path: path.stat().st_mtime)


def newest_vector(folder: Path) -> Path:
    return vectors(folder)[-1]


def strew_into_incoming(folder: Path) -> None:
    """All vectors are gone, and what seems to be on its way of them is rubbish."""
    incoming = folder / "incoming"
    incoming.mkdir(exist_ok=True)
    for path in vectors(folder):
        path.unlink()
        for kind in ("manifest", "part"):
            (incoming / f"{path.stem}.{kind}").write_bytes(bytes(1000))


def for_each(harm: Callable[[Path], None]) -> Callable[[Path], None]:
    def harm_all(folder: Path) -> None:
        for path in vectors(folder):
            harm(path)

    return harm_all


@dataclass(frozen=True)
class Case:
    """What happens to a run folder, and what has to be told of it."""

    harm: Callable[[Path], object]
    told: str
    long: bool = True
    power_loss: bool = False
    """It happens to the folder as it was while the peer trained, not after it had left."""
