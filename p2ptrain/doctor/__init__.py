"""`p2ptrain doctor`: facts about this machine (`machine`) and about a swarm (`swarm`) are measured, then judged by pure
functions (`verdicts`). `examine` asks one check after another and shows what each finds.
"""

from p2ptrain.doctor.check import DoctorOptions
from p2ptrain.doctor.examine import run_doctor

__all__ = ["DoctorOptions", "run_doctor"]
