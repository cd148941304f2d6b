"""Where a volunteer's identities and run folders live."""

import os
from pathlib import Path

import platformdirs

from p2ptrain.errors import StorageError


def default_home() -> Path:
    """The folder of identities and run folders, unless a command names another one: $P2PTRAIN_HOME if it is set, else
    the system's folder for user data.

    Raises:
        StorageError: this user has no home folder, so the system has no such folder.
    """
    if given := os.environ.get("P2PTRAIN_HOME"):
        return Path(given)
    try:
        return platformdirs.user_data_path("p2ptrain")
    except RuntimeError:  # of platformdirs
        what, why = "there is no folder for identities and runs", "this user has no home folder, and HOME is not set"
        raise StorageError(what, why, "name one: --home FOLDER, or set P2PTRAIN_HOME") from None
