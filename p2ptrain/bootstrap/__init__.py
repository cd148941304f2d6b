"""The bootstrap node: a first address and a relay for newcomers. It trains nothing and loads neither torch nor numpy.

`service` runs it, `health` checks it every few seconds, `metrics` tells Prometheus and supervisors what was found.
"""

from p2ptrain.bootstrap.service import BootstrapOptions, run_bootstrap

__all__ = ["BootstrapOptions", "run_bootstrap"]
