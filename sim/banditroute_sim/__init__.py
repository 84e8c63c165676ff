"""The simulator: data sets, invented worlds, and traffic that plays the services around the engine."""

from banditroute_sim.dataset import Baseline, DataSet
from banditroute_sim.demo import DemoOptions, run_demo
from banditroute_sim.options import TrafficOptions
from banditroute_sim.summary import print_summary
from banditroute_sim.tally import Tally, TrafficSummary
from banditroute_sim.traffic import run_traffic
from banditroute_sim.view import traffic_progress
from banditroute_sim.world import DemoWorld

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
