"""What holds for all tests."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# How fast an example was says something about the machine and nothing about the code.  CI tries
# the same examples each time: what is found by chance is found, and mended, where people work.
settings.register_profile(
    "zeus",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("zeus")

# A runner started in the background or by nohup hands down ignored signals, and the programs
# under test rightly keep ignoring them.  Here they shall find what a terminal gives.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)
