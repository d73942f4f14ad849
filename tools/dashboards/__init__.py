"""The Grafana dashboards of the chart, from which their JSON is generated."""

from tools.dashboards.fleet import FLEET
from tools.dashboards.job import JOB
from tools.dashboards.node import NODE

DASHBOARDS = (FLEET, JOB, NODE)
