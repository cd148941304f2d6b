"""What people and programs see: events, tables of peers and runs, and reporters that show them on a terminal, in a pipe
or as JSON.
"""

from p2ptrain.monitor import events
from p2ptrain.monitor.report import JsonReporter, LiveReporter, PlainReporter, Reporter, describe, make_reporter
from p2ptrain.monitor.table import peers_lines, peers_table

__all__ = ["JsonReporter", "LiveReporter", "PlainReporter", "Reporter", "describe", "events", "make_reporter"]
__all__ += ["peers_lines", "peers_table"]
