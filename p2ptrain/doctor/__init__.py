"""`p2ptrain doctor`: can this machine train, and where does an invite lead?

`machine` and `swarm` measure facts. The pure functions of `verdicts` judge them. `examine` runs one check after another
and prints what each finds.
"""

from p2ptrain.doctor.examine import run_doctor

__all__ = ["run_doctor"]
