"""The command line: one small module per command. Nothing heavy is imported before a command runs, so that
`p2ptrain --help` answers at once.
"""

from p2ptrain.cli.app import main

__all__ = ["main"]
