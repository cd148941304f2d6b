"""Where a volunteer's identities and run folders live."""

import os
from pathlib import Path

import platformdirs


def default_home() -> Path:
    """The folder of identities and run folders, unless a command names another one: $P2PTRAIN_HOME if it is set, else
    the system's folder for user data."""
    given = os.environ.get("P2PTRAIN_HOME")
    return Path(given) if given else platformdirs.user_data_path("p2ptrain")
