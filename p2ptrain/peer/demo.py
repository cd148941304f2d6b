from pathlib import Path


def run_demo(folder: Path, run: str, peers: int, json_lines: bool) -> None: ...
