"""The bootstrap node: a first address and a relay for newcomers. It trains nothing and loads neither torch nor numpy.

`service` is its life, `health` what it knows of itself, `metrics` what it tells Prometheus.
"""

from p2ptrain.bootstrap.service import BootstrapOptions, run_bootstrap

__all__ = ["BootstrapOptions", "run_bootstrap"]
