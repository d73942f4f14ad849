"""`ZeusCallback` for Hugging Face's `Trainer`.

from zeus_runtime.huggingface import ZeusCallback, training_arguments

trainer = Trainer(
    model=model,
    args=TrainingArguments(..., eval_strategy="epoch", **training_arguments(64)),
    ...,
    callbacks=[ZeusCallback("eval_accuracy")],
)
trainer.train()
trainer.save_model()  # only reached with a model that is good enough
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any, Dict, Mapping, Optional

from zeus_runtime import settings
from zeus_runtime.batch_split import split_batch
from zeus_runtime.callback_run import CallbackRun, Wishes
from zeus_runtime.callback_schedule import Training
from zeus_runtime.stop import Ending
from zeus_runtime.torch_gpu import used_gpu

try:
    from transformers.trainer_callback import (
        ExportableState,
        TrainerCallback,
        TrainerControl,
        TrainerState,
    )
    from transformers.training_args import TrainingArguments
except ImportError as error:
    raise ImportError(
        "zeus_runtime.huggingface is for transformers' Trainer, which can't be imported here: "
        "pip install transformers accelerate"
    ) from error


class ZeusCallback(TrainerCallback, ExportableState):
    """Measures and optimizes what a `Trainer` trains, and ends it when it should end.

    An epoch is a pass over the data, a step one of the optimizer, however many micro-batches its
    gradients are accumulated over.  Each evaluation's metric is reported, whether it comes after
    an epoch or within one; epochs without evaluation go on.

    What a checkpoint of the `Trainer` needs to go on with the run is in its trainer_state.json.

    Where the run ended without reaching its target, `StopTraining` leaves `trainer.train()` from
    `on_train_end`, which comes last: the best model is loaded, checkpoints are written and
    sorted out, and what reports to trackers has heard of the end.  Nothing later would do without
    a line in the script, and a script that forgot it would go on with a model that is not good
    enough.  Callbacks that come after this one don't hear of the end then, so put it last.

    Args:
        metric: as `evaluate` names it, "eval_accuracy"; "eval_" may be left out.
        batch_size: the global batch size; None: per_device_train_batch_size x processes x
            gradient_accumulation_steps.  To be given where that is wrong, as with tensor parallel
            processes, which share a batch.
        samples_per_epoch: samples that count as one epoch; None: a pass over the data.  For data
            without an end, and for passes so long that nobody wants to wait for the next.
        eta: energy preference outside a ZeusJob; 1 counts only energy, 0 only time.
        on_stop: "raise" ends the script by `StopTraining` where the target was not
            reached; "return" only ends the training.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        metric: str,
        *,
        batch_size: Optional[int] = None,
        samples_per_epoch: Optional[int] = None,
        eta: float = 0.5,
        on_stop: str = "raise",
    ) -> None:
        self._wishes = Wishes(metric, batch_size, samples_per_epoch, eta, on_stop)
        self._training: Optional[CallbackRun] = None
        self._step_samples = self._eval_samples = 0.0

    @property
    def run(self) -> Optional[CallbackRun]:
        """The run of the training that began last; None before there is one."""
        return self._training

    @property
    def ending(self) -> Optional[Ending]:
        """Why training does no further epoch; None while it may, and before it."""
        return None if self._training is None else self._training.run.ending

    def state(self) -> Dict[str, Any]:
        """Return what a checkpoint keeps of the run, for the process that goes on from it."""
        kept = {} if self._training is None else {"kept": self._training.state_dict()}
        return {"args": asdict(self._wishes), "attributes": kept}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, _control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the run: only now are there the processes that train together."""
        former = self._training
        if former is not None and not former.ended and args.auto_find_batch_size:
            former.failed(RuntimeError("out of memory, so that the batch size is lowered"))
        accumulation = args.gradient_accumulation_steps
        own = args.train_batch_size
        if args.auto_find_batch_size and state.train_batch_size:
            own = state.train_batch_size
        self._step_samples = float(own * accumulation)
        self._eval_samples = float(args.eval_batch_size)
        self._training = CallbackRun(
            self._wishes,
            _training(args, state, own, kwargs),
            used_gpu(args.device),
            _before(state) if state.global_step else None,
        )
        # The Trainer fails to save where a callback was not there in the checkpoint before.
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        if args.n_gpu > 1:
            self._training.run.notices.warn(
                "data-parallel",
                f"the Trainer spreads each batch over {args.n_gpu} GPUs from one process, whose "
                "energy is measured on the first alone: start one process a GPU (torchrun)",
            )

    def on_epoch_begin(
        self, _args: TrainingArguments, _state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """See `TrainerCallback`."""
        if self._training is not None:
            self._training.begin_pass()
            self._stop(control)

    def on_step_begin(
        self, _args: TrainingArguments, _state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """See `TrainerCallback`: the micro-batches of one step follow."""
        if self._training is not None:
            self._training.begin_step(self._step_samples)
            self._stop(control)

    def on_step_end(
        self, _args: TrainingArguments, _state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """See `TrainerCallback`: what other callbacks have ordered comes right after."""
        training = self._training
        if training is None:
            return
        training.end_step()
        if control.should_evaluate or control.should_save:
            training.pause()
        if not (control.should_evaluate or training.follows_data):
            self._judge(control)

    def on_epoch_end(
        self, _args: TrainingArguments, _state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """See `TrainerCallback`: the epoch is judged once its evaluation is done."""
        if self._training is not None:
            self._training.end_pass(cut=control.should_training_stop)
            if not control.should_evaluate:
                self._judge(control)

    def on_prediction_step(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """See `TrainerCallback`: a batch was evaluated."""
        if self._training is not None and not self._training.ended:
            self._training.begin_evaluation(self._eval_samples)

    def on_evaluate(
        self,
        _args: TrainingArguments,
        _state: TrainerState,
        control: TrainerControl,
        metrics: Optional[Mapping[str, Any]] = None,
        **_: Any,
    ) -> None:
        """See `TrainerCallback`: with several data sets it is called for each of them."""
        if self._training is not None:
            found, name = metrics or {}, self._wishes.metric
            if name not in found and f"eval_{name}" in found:
                name = f"eval_{name}"
            self._training.evaluated(found, name)
            self._stop(control)

    def on_train_end(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """End the run.

        Raises:
            StopTraining: training ended without reaching its target.
        """
        if self._training is not None:
            self._training.end()
            self._training.raise_if_stopped()

    def _judge(self, control: TrainerControl) -> None:
        if self._training is not None:
            self._training.judge()
            self._stop(control)

    def _stop(self, control: TrainerControl) -> None:
        if self._training is not None and self._training.over:
            control.should_training_stop = True


def training_arguments(
    default_global: int, largest_micro_batch: Optional[int] = None
) -> Dict[str, int]:
    """Return what `TrainingArguments` needs so that the decided batch size trains.

    Args:
        default_global: global batch size where none was decided: outside a ZeusJob.
        largest_micro_batch: samples that fit into one GPU at once; None: all of a process.

    Raises:
        ValueError: the batch can't be shared evenly by the processes.
    """
    split = split_batch(
        settings.batch_size(default_global),
        processes=settings.processes_by_environment(os.environ),
        largest_micro_batch=largest_micro_batch,
    )
    return {
        "per_device_train_batch_size": split.micro_batch,
        "gradient_accumulation_steps": split.accumulation_steps,
    }


def _training(
    args: TrainingArguments, state: TrainerState, own: int, kwargs: Mapping[str, Any]
) -> Training:
    """Return what the `Trainer` is about to do.

    Args:
        own: samples of one micro-batch of this process.
    """
    accumulation = args.gradient_accumulation_steps
    loader = kwargs.get("train_dataloader")
    batches = _length(loader)
    steps = None if batches is None else max(1, -(-batches // accumulation))
    partial = False
    if batches is not None:
        samples = _length(getattr(loader, "dataset", None))
        together = own * args.world_size
        last_is_smaller = samples is not None and samples % together != 0
        partial = batches % accumulation != 0 or (last_is_smaller and not args.dataloader_drop_last)
    done, into = divmod(state.global_step, steps) if steps else (0, 0)
    return Training(
        batch_size=own * args.world_size * accumulation,
        steps_per_epoch=steps,
        partial_last_step=partial,
        max_steps=state.max_steps,
        epochs_done=done,
        steps_done=state.global_step,
        steps_into_epoch=0 if args.ignore_data_skip else into,
    )


def _before(state: TrainerState) -> Optional[Mapping[str, Any]]:
    """Return what the checkpoint holds of the run; None: nothing."""
    saved = state.stateful_callbacks.get(ZeusCallback.__name__)
    if isinstance(saved, list):
        saved = saved[0] if saved else None
    kept = None if saved is None else saved.get("attributes", {}).get("kept")
    return kept if isinstance(kept, Mapping) else None


def _length(sized: Any) -> Optional[int]:
    try:
        return len(sized)
    except TypeError:
        return None  # data without an end does not know
