"""Whether a run shall do another epoch, and how it ended if not.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional

from zeus_runtime.progress import MetricRecord
from zeus_runtime.protocol import FINAL_BY_RUNTIME, Decision, Outcome
from zeus_runtime.stop import Ending
from zeus_runtime.stopping import CostSoFar, exceeds_threshold

NO_REPORT = "all epochs are done and report_metric was never called"
LEFT_WITHOUT_REPORT = "the script has ended its training and report_metric was never called"


def _unheard(sentence: str) -> None:
    """Take a warning that nobody wants."""


@dataclass(frozen=True)
class Judge:
    """The rules of one run.

    Args:
        decision: None outside a ZeusJob.
        max_epochs: the lesser of the script's and the decision's.
        applied: whether the decision is what really trains; its cost threshold and stop
            rule do not hold for another batch size.
        warn: is told, in one sentence, each time the stop rule can't be asked.
    """

    decision: Optional[Decision]
    max_epochs: int
    applied: bool = True
    warn: Callable[[str], None] = _unheard

    def at_report(self, metric: MetricRecord) -> Optional[Ending]:
        """Judge by the metric alone, as soon as it was reported."""
        if self.decision is not None and metric.diverged:
            return Ending(Outcome.DIVERGED, "the metric is not finite", stops_script=True)
        if metric.reached:
            return Ending(Outcome.REACHED, "the metric reached its target", stops_script=False)
        return None

    def between_epochs(
        self, metric: MetricRecord, epochs: int, so_far: Optional[CostSoFar]
    ) -> Optional[Ending]:
        """Judge before the next epoch.

        Args:
            epochs: complete epochs.
            so_far: None: the cost is not known.
        """
        return (
            self.at_report(metric)
            or self._after_last(metric, epochs)
            or self._by_cost(epochs, so_far)
            or self._by_rule(metric, so_far)
        )

    def after_all(self, metric: MetricRecord, epochs: int) -> Optional[Ending]:
        """Judge once all epochs are done, and not before: what every process knows by itself."""
        last = self._after_last(metric, epochs)
        return None if last is None else self.at_report(metric) or last

    def at_will(self, metric: MetricRecord, epochs: int, *, asked_to_end: bool) -> Ending:
        """Judge where no rule ends the run, but the script does no further epoch.

        As a training that does not converge: the target is not reached in as many epochs as
        whoever wrote the script would train.

        Args:
            asked_to_end: the process was told to end, which says nothing of the training.
        """
        decision, reported = self.decision, self.at_report(metric)
        if reported is not None:
            return reported
        if decision is None:
            return Ending(None, "the script has ended its training", stops_script=False)
        if asked_to_end:
            # Not the runtime's to claim (`outcome`); but the model is not the one asked for.
            reason = "the process was asked to end before its target was reached"
            return Ending(Outcome.PREEMPTED, reason, stops_script=True)
        if metric.reports == 0:
            return Ending(Outcome.NO_TELEMETRY, LEFT_WITHOUT_REPORT, stops_script=False)
        reason = (
            f"the script itself has ended its training after {epochs} of {self.max_epochs} epochs, "
            f"without reaching the target {decision.target:g}"
        )
        return Ending(Outcome.MAX_EPOCHS, reason, stops_script=True)

    def _after_last(self, metric: MetricRecord, epochs: int) -> Optional[Ending]:
        if epochs < self.max_epochs:
            return None
        if self.decision is None:
            return Ending(None, "all epochs are done", stops_script=False)
        if metric.reports == 0:
            # Nothing is known of the model, so nothing speaks against what the script does next.
            return Ending(Outcome.NO_TELEMETRY, NO_REPORT, stops_script=False)
        reason = f"the target {self.decision.target:g} was not reached in {epochs} epochs"
        return Ending(Outcome.MAX_EPOCHS, reason, stops_script=True)

    def _by_cost(self, epochs: int, so_far: Optional[CostSoFar]) -> Optional[Ending]:
        threshold = None if self.decision is None else self.decision.cost_threshold_joules
        if threshold is None or not self.applied or so_far is None:
            return None
        if not exceeds_threshold(so_far, threshold):
            return None
        reason = (
            f"after {epochs} epochs at {so_far.cost_joules:.4g} J another one of "
            f"{so_far.next_epoch_joules:.4g} J would exceed the threshold of {threshold:.4g} J"
        )
        return Ending(Outcome.COST_EXCEEDED, reason, stops_script=True)

    def _by_rule(self, metric: MetricRecord, so_far: Optional[CostSoFar]) -> Optional[Ending]:
        decision = self.decision
        if decision is None or decision.stop_rule is None or not self.applied or so_far is None:
            return None
        # That the target was missed is known only of epochs whose metric was reported.
        epochs = min(so_far.epochs, metric.last_epoch)
        next_joules = so_far.next_epoch_joules
        if epochs < 1 or not next_joules > 0.0:
            return None
        try:
            if decision.stop_rule.goes_on(epochs, metric.milestones, next_joules):
                return None
        except Exception as error:  # whatever is wrong with it: a rule must not end the training
            self.warn(f"the stop rule can't be asked ({type(error).__name__}: {error})")
            return None
        best = "no metric" if metric.best is None else f"a best metric of {metric.best:.6g}"
        reason = (
            f"after {so_far.epochs} epochs at {so_far.cost_joules:.4g} J with {best}, the target "
            f"{decision.target:g} is too far away for another epoch of {next_joules:.4g} J "
            "to be expected to pay"
        )
        return Ending(Outcome.COST_EXCEEDED, reason, stops_script=True)

    def outcome(self, ending: Optional[Ending], *, out_of_memory: bool) -> Optional[Outcome]:
        """Return the outcome as far as the runtime knows it; None: whoever runs it must judge."""
        if not self.applied:
            return Outcome.DECISION_NOT_APPLIED
        if self.decision is None:
            return None
        if out_of_memory:
            return Outcome.OUT_OF_MEMORY
        claimed = None if ending is None else ending.outcome
        return claimed if claimed in FINAL_BY_RUNTIME else None


def why_not_applied(
    decision: Optional[Decision], decision_error: str, batch_size: Optional[int]
) -> str:
    """Return why the decision does not hold for what trains; "" if it does, or there is none."""
    if decision_error:
        return f"the decision can't be used: {decision_error}"
    if decision is None or batch_size == decision.batch_size:
        return ""
    trained = "one that can't be told" if batch_size is None else str(batch_size)
    return (
        f"decided was a batch size of {decision.batch_size}, but this script trains with "
        f"{trained}: pass batch_size=zeus_runtime.batch_size(default) to the training loader, or "
        "$(ZEUS_BATCH_SIZE) to the script's argument"
    )
