"""The simulator: data sets, invented worlds, and traffic that plays the services around the engine.

A folder for each verb of the command line: `simulate`, `replay`, `evaluate`, `rehearse`, `traffic` and `demo`. In
each, ``run`` does the work. Below them, `policies` play, `scenarios` are worlds that we invent and `data` is what was
recorded; `session` is the engine's own learning loop, `parallel` runs many cases, and `report` makes pages.
"""

from banditroute_sim.data.dataset import Baseline, DataSet
from banditroute_sim.demo.run import DemoOptions, run_demo
from banditroute_sim.demo.world import DemoWorld
from banditroute_sim.traffic.options import TrafficOptions
from banditroute_sim.traffic.run import run_traffic
from banditroute_sim.traffic.show import print_summary, traffic_progress
from banditroute_sim.traffic.tally import Tally, TrafficSummary

__all__ = [
    "Baseline",
    "DataSet",
    "DemoOptions",
    "DemoWorld",
    "Tally",
    "TrafficOptions",
    "TrafficSummary",
    "print_summary",
    "run_demo",
    "run_traffic",
    "traffic_progress",
]
