"""Where a volunteer's identities and run folders live."""

import os
from pathlib import Path

import platformdirs


def default_home() -> Path:
    """Where identities and run folders live unless a command says otherwise: P2PTRAIN_HOME, or the system's data
    folder."""
    given = os.environ.get("P2PTRAIN_HOME")
    return Path(given) if given else platformdirs.user_data_path("p2ptrain")
