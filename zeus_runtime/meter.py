"""Measures the energy of this process's GPU from a thread of its own.

The training thread only sets marks (`mark`, a clock reading and a notification)
and never calls NVML, which may be slow or hang.  The thread reads the counter
around a mark until the next edge and then knows the energy at the mark; without
marks it sleeps.  See `windows` for the reasoning.
"""

from __future__ import annotations

import threading
import time
from typing import Callable, List, Optional

from zeus_runtime.gpu import Gpu, GpuFacts, GpuUnavailable
from zeus_runtime.windows import (
    Energy,
    EnergyCurve,
    MonotonicCounter,
    PowerIntegrator,
    Reading,
    TickTracker,
)

OPEN_TIMEOUT_SECONDS = 10.0
POWER_PERIOD_SECONDS = 0.05
RETRY_FIRST_SECONDS = 1.0
RETRY_LAST_SECONDS = 30.0
STUCK_SECONDS = 5.0


class Mark:
    """A moment whose energy is, or will be, known.

    `energy` is None until then, and for good if `failed`.
    """

    __slots__ = ("energy", "failed", "rough", "time_seconds")

    def __init__(self, time_seconds: float) -> None:
        self.time_seconds = time_seconds
        self.energy: Optional[Energy] = None
        self.rough: Optional[Energy] = None  # from the first reading, up to a tick old
        self.failed = False

    @property
    def settled(self) -> bool:
        """Whether nothing more will be learned about it."""
        return self.failed or self.energy is not None

    @property
    def answered(self) -> bool:
        """Whether the GPU was read after it, or is known not to answer."""
        return self.settled or self.rough is not None


class EnergyMeter:
    """Energy of one GPU since the process began to look.

    Args:
        open_gpu: opens the device; runs in the thread.
        clock: monotonic seconds, the time base of marks.
    """

    def __init__(
        self, open_gpu: Callable[[], Gpu], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_gpu = open_gpu
        self._clock = clock
        self._changed = threading.Condition()
        self._opened = threading.Event()
        self._gpu: Optional[Gpu] = None
        self._problem = ""
        self._lost = False
        self._fresh = False  # a mark came that no reading has followed yet
        self._closing = False
        self._pending: List[Mark] = []
        self._tracker = TickTracker()
        self._curve = EnergyCurve()
        self._counter = MonotonicCounter()
        self._integrator: Optional[PowerIntegrator] = None
        self._last_raw: Optional[Reading] = None
        self._still_since: Optional[float] = None
        self._thread = threading.Thread(target=self._run, name="zeus-meter", daemon=True)

    def start(self) -> None:
        """Open the device and learn the counter's period, in the background."""
        self._thread.start()

    def wait_open(self, timeout_seconds: float = OPEN_TIMEOUT_SECONDS) -> Optional[Gpu]:
        """Return the device, or None: then `problem` says why."""
        if not self._opened.wait(timeout_seconds):
            with self._changed:
                if self._gpu is None:
                    self._problem = f"NVML did not answer within {timeout_seconds:g} s"
                    self._closing = True  # an answer in the middle of the run is too late
        return self._gpu

    @property
    def facts(self) -> Optional[GpuFacts]:
        """The device's facts; None if it could not be opened (yet)."""
        return self._gpu.facts if self._gpu is not None else None

    @property
    def problem(self) -> str:
        """Why energy is not known (now); "" if it is."""
        return self._problem

    @property
    def period_seconds(self) -> Optional[float]:
        """Distance of the moments at which energy is known; None: not learned yet."""
        if self._integrator is not None:
            return POWER_PERIOD_SECONDS
        return self._tracker.period_seconds

    def mark(self, time_seconds: Optional[float] = None) -> Mark:
        """Return a mark at this moment (or one just past).  Never blocks on the GPU."""
        mark = Mark(self._clock() if time_seconds is None else time_seconds)
        with self._changed:
            if self._closing or self._lost or (self._opened.is_set() and self._gpu is None):
                mark.failed = True
            else:
                self._pending.append(mark)
                self._fresh = True
                self._changed.notify_all()
        return mark

    def wait(self, mark: Mark, timeout_seconds: float) -> Optional[Energy]:
        """Return the energy at `mark`, waiting for it if need be; None: unknown."""
        with self._changed:
            self._changed.wait_for(lambda: mark.settled, timeout_seconds)
            return mark.energy

    def wait_rough(self, mark: Mark, timeout_seconds: float = 0.05) -> Optional[Energy]:
        """Return the energy at `mark`, off by up to a tick if it is not known better yet."""
        with self._changed:
            self._changed.wait_for(lambda: mark.answered, timeout_seconds)
            return mark.energy or mark.rough

    def close(self, timeout_seconds: float = 1.0) -> None:
        """Stop the thread; a GPU that hangs is left behind."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    # ---- the thread -----------------------------------------------------------

    def _run(self) -> None:
        problem = "the thread that reads the GPU ended by an error"
        try:
            self._follow(self._open_gpu())
            problem = self._problem
        except GpuUnavailable as error:
            problem = str(error)
        finally:
            # Whatever happened: nobody may wait for an answer that won't come.
            with self._changed:
                self._problem, self._closing = problem, True
            self._opened.set()
            self._fail_pending()

    def _follow(self, gpu: Gpu) -> None:
        """Read the GPU whenever a mark needs it, until the meter is closed."""
        if not gpu.facts.has_energy_counter:
            self._integrator = PowerIntegrator()
        with self._changed:
            if not self._closing:
                self._gpu = gpu
        self._opened.set()
        retry_seconds = RETRY_FIRST_SECONDS
        while not self._closing:
            try:
                if self._lost:
                    gpu.reopen()
                    self._tracker.reset()
                self._fresh = False
                delay = self._look(gpu)
                self._lost, retry_seconds = False, RETRY_FIRST_SECONDS
                self._problem = ""
            except GpuUnavailable as error:
                self._lost, delay = True, retry_seconds
                retry_seconds = min(2.0 * retry_seconds, RETRY_LAST_SECONDS)
                self._problem = str(error)
                self._fail_pending()
            with self._changed:
                if delay is None:
                    self._changed.wait_for(lambda: self._closing or bool(self._pending))
                else:
                    self._changed.wait_for(lambda: self._closing or self._fresh, delay)
        gpu.close()

    def _look(self, gpu: Gpu) -> Optional[float]:
        """Read once; return when to read again, or None: at the next mark."""
        if self._integrator is not None:
            now = self._clock()
            piece = self._integrator.observe(now, gpu.read_power_watts())
            if piece is not None:
                self._curve.add(piece)
                self._settle()
            self._guess(None)
            return POWER_PERIOD_SECONDS
        before = self._clock()
        joules = gpu.read_energy_joules()
        now = self._clock()
        reading, was_reset = self._counter.observe(
            Reading(0.5 * (before + now), joules), self._curve.power_watts
        )
        if was_reset:
            self._tracker.reset()
        if self._is_stuck(reading):
            self._integrator = PowerIntegrator()
            return 0.0
        pieces = self._tracker.observe(reading)
        for piece in pieces:
            self._curve.add(piece)
        if pieces:
            self._settle()
        self._guess(reading)
        self._last_raw = reading
        if self._pending or self._tracker.period_seconds is None:
            return self._tracker.delay_seconds(self._clock())
        return None

    def _is_stuck(self, reading: Reading) -> bool:
        """Whether the counter is supported but never moves."""
        if self._tracker.period_seconds is not None:
            return False
        last = self._last_raw
        if self._still_since is None or last is None or last.energy_joules != reading.energy_joules:
            self._still_since = reading.time_seconds
        return reading.time_seconds - self._still_since > STUCK_SECONDS

    def _settle(self) -> None:
        """Resolve the marks that lie before the end of what is known."""
        end = self._curve.end_seconds
        with self._changed:
            open_marks = []
            for mark in self._pending:
                if end is not None and mark.time_seconds <= end:
                    mark.energy = self._curve.at(mark.time_seconds)
                else:
                    open_marks.append(mark)
            if len(open_marks) < len(self._pending):
                self._pending = open_marks
                self._changed.notify_all()

    def _guess(self, reading: Optional[Reading]) -> None:
        """Give waiting marks a first idea.

        From the last piece if that ended within the last tick or two, else from the
        counter as it stands plus half a tick.
        """
        period, power = self.period_seconds or 0.1, self._curve.power_watts
        half_tick = 0.5 * period * (power or 0.0)
        end = self._curve.end_seconds
        with self._changed:
            fresh = [mark for mark in self._pending if mark.rough is None]
            for mark in fresh:
                if end is not None and mark.time_seconds - end < 2.0 * period:
                    mark.rough = self._curve.estimate(mark.time_seconds)
                elif reading is not None:
                    mark.rough = Energy(reading.energy_joules + half_tick, half_tick)
            if fresh:
                self._changed.notify_all()

    def _fail_pending(self) -> None:
        with self._changed:
            for mark in self._pending:
                mark.failed = True
            self._pending = []
            self._changed.notify_all()
