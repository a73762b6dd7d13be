"""What follows the Trainer's events: tokens in the progress bar and their clock, and the epoch of a batch plan.

On a GPU two watches say once what slows a run down: launches that the GPU waits for, and checkpointing that the memory
does not need. They read clocks and counters, and wait for nothing.
"""

import logging
import time
from collections.abc import Callable, Sequence

import torch
from transformers import ProgressCallback, TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from ..data.batching import BatchPlan
from .ranks import Counters

logger = logging.getLogger(__name__)

GIB = 1 << 30


class TokenProgress(ProgressCallback):
    """transformers' progress bar, which also shows the tokens a second and what sharing saves."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs=logs, **kwargs)
        if self.training_bar is not None and logs and "tokens_per_second" in logs:
            speed, sharing = logs["tokens_per_second"], logs["sharing_ratio"]
            self.training_bar.set_postfix_str(f"{speed:,.0f} tokens/s, sharing x{sharing:.2f}")


class TokenClock(TrainerCallback):
    """Starts the counters when training starts, so that they do not count the time of what was set up before."""

    def __init__(self, counters: Counters):
        self.counters = counters

    def on_train_begin(self, args, state, control, **kwargs):
        self.counters.tokens.start()
        self.counters.running.clear()
        self.counters.not_finite.clear()

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.counters.tokens.end_step()


class PlanEpoch(TrainerCallback):
    """Sets a plan's epoch, which accelerate's wrappers do not reach when several ranks resume (accelerate 1.15)."""

    def __init__(self, plan: BatchPlan):
        self.plan = plan

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.plan.set_epoch(int((state.epoch or 0.0) + 1e-6))


def watches(args, *, deepspeed: bool, fsdp: bool) -> list[TrainerCallback]:
    """The watches of this process: the first rank's, on a GPU.

    DeepSpeed's backward contains its optimizer step, which waits for the device. Where parameters are sharded they come
    and go within a layer, so that its activations cannot be distinguished from them.
    """
    if args.device.type != "cuda" or args.process_index != 0 or deepspeed:
        return []
    return [LaunchWatch()] if fsdp else [LaunchWatch(), CheckpointingWatch()]


# ---- launches ----------------------------------------------------------------------------------------------------


def launch_notice(times: Sequence[tuple[float, float]]) -> str | None:
    """What to say where the device waits for launches, or None where it has work enough.

    The host runs up to about 1,024 launches ahead. Where the device is the slower of the two, it still has so many
    kernels to compute when the host has launched the last one. Each of them takes longer than a launch, which takes
    5 microseconds or more, so that the device ends at least 5 ms after the host. A device that ends with the host has
    waited for its launches.

    Args:
        times: of a few batches that found the device idle, milliseconds that their forward and backward took the host
            to launch, and the device to compute. One batch that kept the device busy decides: the host may have been
            interrupted at the others.

    >>> print(launch_notice([(60.0, 61.0), (58.0, 59.0)])[:87])
    The GPU waits for Python: forward and backward of a batch take 58 ms to launch, and the
    >>> launch_notice([(60.0, 61.0), (20.0, 45.0)])  # the second batch kept the device busy
    """
    if any(device - host >= min(0.05 * host, 5.0) for host, device in times):
        return None
    host, device = min(times)
    return (
        f"The GPU waits for Python: forward and backward of a batch take {host:.0f} ms to launch, and the GPU is done "
        f"{max(device - host, 0.0):.0f} ms later. A larger batch takes hardly longer: raise `max_tokens_per_batch` "
        "(packed batches) or `per_device_train_batch_size`. Where gradient checkpointing is on, "
        '`gradient_checkpointing_kwargs={"use_reentrant": True}` launches the same in less time, and '
        "`gradient_checkpointing=False` launches less."
    )


def cuda_event():
    """An event that knows its time."""
    return torch.cuda.Event(enable_timing=True)


class LaunchWatch(TrainerCallback):
    """Says once if the GPU waits for the host to launch its kernels.

    A log has read the loss, so that the device is idle when the next step begins. Events around that step's first
    forward and backward are read at the next log, when both have passed. The optimizer is left out: its kernels are few
    and long, and end after the host in any case.

    Args:
        new_event: makes an event with `record`, `query` and `elapsed_time` (milliseconds), as CUDA's.
        clock: seconds of the host.
        batches: how many batches to look at.
    """

    def __init__(
        self,
        new_event: Callable = cuda_event,
        clock: Callable[[], float] = time.perf_counter,
        batches: int = 3,
    ):
        self.new_event, self.clock, self.batches = new_event, clock, batches
        self.times: list[tuple[float, float]] = []
        self._idle = False
        self._begin = self._end = None  # (event, seconds of the host)

    def on_step_begin(self, args, state, control, **kwargs):
        if self._idle:
            self._idle, self._begin, self._end = False, self._mark(), None

    def on_substep_end(self, args, state, control, **kwargs):
        if self._begin is not None and self._end is None:
            self._end = self._mark()

    on_pre_optimizer_step = on_substep_end  # the first of them is the end of the step's first backward

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in (logs or {}) or len(self.times) == self.batches:
            return
        if self._end is not None and self._end[0].query():
            (begin, begun), (end, ended) = self._begin, self._end
            self.times.append(((ended - begun) * 1e3, begin.elapsed_time(end)))
            if len(self.times) == self.batches and (notice := launch_notice(self.times)):
                logger.warning("%s", notice)
        self._idle, self._begin, self._end = len(self.times) < self.batches, None, None

    def _mark(self) -> tuple:
        event = self.new_event()
        event.record()
        return event, self.clock()


# ---- gradient checkpointing --------------------------------------------------------------------------------------


def checkpointing_notice(*, layer: int, layers: int, peak: int, limit: int) -> str | None:
    """What to say where memory suffices without gradient checkpointing, or None.

    Without it each layer keeps what its recomputation allocates, so that the peak rises by at most all of that. A fifth
    of the memory is left for larger batches to come and for what the allocator cannot use.

    Args:
        layer: bytes that the recomputation of a layer allocated at most.
        layers: how many are checkpointed.
        peak: bytes in use at most so far, of `limit`.

    >>> print(checkpointing_notice(layer=GIB // 2, layers=28, peak=20 * GIB, limit=80 * GIB)[:85])
    Gradient checkpointing is on, but is not needed: at most 20.0 GiB were in use so far,
    >>> checkpointing_notice(layer=2 * GIB, layers=28, peak=20 * GIB, limit=80 * GIB)  # 76 of 80 GiB
    """
    if peak + layers * layer > 0.8 * limit:
        return None
    return (
        f"Gradient checkpointing is on, but is not needed: at most {peak / GIB:.1f} GiB were in use so far, without it "
        f"{layers} layers would keep {layers * layer / GIB:.1f} GiB more, and there are {limit / GIB:.1f} GiB. "
        "`gradient_checkpointing=False` saves the second forward of every step."
    )


class CheckpointingWatch(TrainerCallback):
    """Says once if there is memory enough to do without gradient checkpointing.

    The allocator's counter is read on the host, before and after each recomputation of the middle layer, until the
    first log after `steps` steps: the optimizer's state is in the peak by then, and batches have shown their sizes.

    Args:
        memory: has the functions of `torch.cuda` that count bytes.
        steps: optimizer steps before anything is said.
    """

    def __init__(self, memory=torch.cuda, steps: int = 10):
        self.memory, self.steps = memory, steps
        self.layers, self.largest = 0, 0
        self._watched = None  # (layer, its checkpoint function)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        layers = [layer for layer in layers if layer.gradient_checkpointing]
        if not layers or args.torch_compile:
            return
        layer = layers[len(layers) // 2]
        self.layers, self._watched = len(layers), (layer, layer._gradient_checkpointing_func)
        layer._gradient_checkpointing_func = recording(
            layer._gradient_checkpointing_func, self.memory.memory_allocated, self._record
        )

    def on_log(self, args, state, control, **kwargs):
        if self._watched is None or state.global_step < self.steps:
            return
        self.on_train_end(args, state, control)
        limit = self.memory.mem_get_info()[0] + self.memory.memory_reserved()  # what is free, and what is ours already
        sizes = {"layer": self.largest, "layers": self.layers, "peak": self.memory.max_memory_allocated()}
        if self.largest and (notice := checkpointing_notice(**sizes, limit=limit)):
            logger.warning("%s", notice)

    def on_train_end(self, args, state, control, **kwargs):
        if self._watched is not None:
            layer, layer._gradient_checkpointing_func = self._watched
            self._watched = None

    def _record(self, size: int) -> None:
        self.largest = max(self.largest, size)


def recording(checkpoint: Callable, allocated: Callable[[], int], record: Callable[[int], None]) -> Callable:
    """`checkpoint` of torch with its options, which calls `record` with the bytes that each recomputation allocates."""

    def checkpointed(function, *args, **kwargs):
        def computed(*inputs):
            if torch._C._current_graph_task_id() == -1:  # no backward is running: it is the first forward
                return function(*inputs)
            before = allocated()
            try:  # a recomputation ends by an exception where the last tensor that is needed is there
                return function(*inputs)
            finally:
                record(allocated() - before)

        return checkpoint(computed, *args, **kwargs)

    return checkpointed
