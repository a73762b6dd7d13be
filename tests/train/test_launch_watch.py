"""The log says once that a GPU waits for Python's launches: figures by hand, and a GPU that is played by two clocks."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from rows import quick, text_pairs

from hf_rewardplug import RewardConfig, RewardTrainer
from hf_rewardplug.train.callbacks import CheckpointingWatch, LaunchWatch, launch_notice, watches

WAITS = "The GPU waits for Python"


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([(60, 60.5)] * 3, True),
        ([(60, 62.9), (60, 60), (60, 59.99)], True),
        ([(60, 60.5), (60, 63.1), (60, 60.5)], False),  # 5 % behind the host, once
        ([(20, 45)] * 3, False),
        ([(400, 404)] * 3, True),
        ([(400, 406)] * 3, False),  # 1,024 launches of a model of 80 layers are few, but last long
        ([(9000, 9001), (30, 100), (30, 100)], False),  # the first one compiled something
    ],
)
def test_a_device_that_ends_with_the_host_waited_for_it(times, said):
    assert (launch_notice(times) is not None) is said


def test_the_notice_has_the_figures_and_the_remedies():
    assert launch_notice([(66.4, 67.6), (70.2, 70.3)]) == (
        "The GPU waits for Python: forward and backward of a batch take 66 ms to launch, and the GPU is done 1 ms "
        "later. A larger batch takes hardly longer: raise `max_tokens_per_batch` (packed batches) or "
        "`per_device_train_batch_size`. Where gradient checkpointing is on, "
        '`gradient_checkpointing_kwargs={"use_reentrant": True}` launches the same in less time, and '
        "`gradient_checkpointing=False` launches less."
    )


class Machine:
    """A host and a device in milliseconds: a launch takes the host's time, and its kernel the device's behind it."""

    def __init__(self):
        self.host = self.device = 0.0

    def launch(self, host: float, device: float) -> None:
        self.device = max(self.device, self.host) + device
        self.host += host

    def read(self) -> None:
        """What a loss that is logged does."""
        self.host = max(self.host, self.device)

    def clock(self) -> float:
        return self.host / 1e3

    def event(self) -> "Event":
        return Event(self)


class Event:
    def __init__(self, machine: Machine):
        self.machine, self.at = machine, None

    def record(self) -> None:
        self.at = max(self.machine.device, self.machine.host)

    def query(self) -> bool:
        return self.at <= self.machine.host

    def elapsed_time(self, end: "Event") -> float:
        assert self.query() and end.query(), "CUDA raises where an event has not passed"
        return end.at - self.at


def follow(machine: Machine, kernel: float, *, batches: int = 1, optimizer: float = 0.0, logs: int = 5) -> LaunchWatch:
    """A run with a log every two steps; a batch is 100 launches of 1 ms with kernels that take `kernel` ms."""
    watch = LaunchWatch(machine.event, machine.clock)
    for step in range(1, 2 * logs + 1):
        watch.on_step_begin(None, None, None)
        for batch in range(batches):
            for _ in range(100):
                machine.launch(1.0, kernel)
            if batch < batches - 1:
                watch.on_substep_end(None, None, None)
        watch.on_pre_optimizer_step(None, None, None)
        machine.launch(1.0, optimizer)
        if step % 2 == 0:
            machine.read()
            watch.on_log(None, None, None, logs={"loss": 0.5})
            watch.on_log(None, None, None, logs={"eval_loss": 0.5})
    return watch


@pytest.mark.parametrize(
    ("kernel", "options", "said"),
    [
        (0.5, {}, True),
        (3.0, {}, False),
        (0.5, {"optimizer": 40.0}, True),  # one long kernel behind all launches
        (0.5, {"batches": 4}, True),
        (1.2, {"batches": 50}, False),
    ],
)
def test_the_watch_tells_who_waits(kernel, options, said, caplog):
    watch = follow(Machine(), kernel, **options)
    assert [WAITS in record.getMessage() for record in caplog.records] == [True] * said
    host, device = watch.times[0]
    assert host == pytest.approx(100.0) and device == pytest.approx(100.0 if kernel < 1 else 100 * kernel, abs=1.0)
    assert len(watch.times) == 3


def test_no_verdict_before_three_logs_have_been_followed(caplog):
    assert len(follow(Machine(), 0.5, logs=3).times) == 2 and not caplog.records
    assert len(follow(Machine(), 0.5, logs=4).times) == 3 and len(caplog.records) == 1


def test_a_log_that_reads_nothing_is_not_waited_for():
    machine = Machine()
    watch = LaunchWatch(machine.event, machine.clock)
    watch.on_log(None, None, None, logs={"loss": 0.5})
    watch.on_step_begin(None, None, None)
    machine.launch(1.0, 500.0)
    watch.on_pre_optimizer_step(None, None, None)
    watch.on_log(None, None, None, logs={"loss": 0.5})  # the events have not passed
    assert watch.times == []


def test_transformers_events_come_in_the_order_that_the_watch_expects(assets, tmp_path, caplog):
    """A device that ends with the host, in real training with two batches a step."""
    machine = Machine()
    watch = LaunchWatch(machine.event, machine.clock)
    trainer = RewardTrainer(
        str(assets / "stories260K"),
        RewardConfig(**quick(tmp_path, max_steps=6, gradient_accumulation_steps=2)),
        train_dataset=Dataset.from_list(text_pairs(24)),
        callbacks=[watch],
    )
    plain = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: machine.launch(70.0, 1.0) or plain(*args, **kwargs)
    trainer.train()
    assert watch.times == [(pytest.approx(70.0), pytest.approx(70.0))] * 3
    assert sum(WAITS in record.getMessage() for record in caplog.records) == 1


def args_of(device: str, rank: int = 0) -> SimpleNamespace:
    return SimpleNamespace(device=torch.device(device), process_index=rank)


@pytest.mark.parametrize(
    ("args", "sharding", "expected"),
    [
        (args_of("cuda"), {}, [LaunchWatch, CheckpointingWatch]),
        (args_of("cuda", rank=1), {}, []),
        (args_of("cpu"), {}, []),
        (args_of("mps"), {}, []),
        (args_of("cuda"), {"fsdp": True}, [LaunchWatch]),
        (args_of("cuda"), {"deepspeed": True}, []),
    ],
)
def test_the_first_rank_watches_its_gpu(args, sharding, expected):
    found = watches(args, **{"deepspeed": False, "fsdp": False, **sharding})
    assert [type(watch) for watch in found] == expected


def test_nothing_is_watched_on_the_cpu(assets, tmp_path):
    trainer = RewardTrainer(
        str(assets / "stories260K"), RewardConfig(**quick(tmp_path)), train_dataset=Dataset.from_list(text_pairs(4))
    )
    kinds = {type(callback) for callback in trainer.callback_handler.callbacks}
    assert not kinds & {LaunchWatch, CheckpointingWatch}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_both_watches_on_a_gpu(assets, tmp_path, caplog):
    options = {"use_cpu": False, "bf16": True, "max_steps": 12, "gradient_checkpointing": True}
    trainer = RewardTrainer(
        str(assets / "stories260K"),
        RewardConfig(**quick(tmp_path, **options)),
        train_dataset=Dataset.from_list(text_pairs(24)),
    )
    trainer.train()
    watching = {type(callback): callback for callback in trainer.callback_handler.callbacks}
    times = watching[LaunchWatch].times
    assert len(times) == 3 and all(0 < 0.9 * host < device for host, device in times)
    assert watching[CheckpointingWatch].layers == 5 and watching[CheckpointingWatch].largest > 0
    said = [record.getMessage() for record in caplog.records]
    assert sum("Gradient checkpointing is on, but is not needed" in message for message in said) == 1
