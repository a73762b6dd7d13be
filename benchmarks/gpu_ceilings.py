"""What the device is, and the most that it does: the figures that all others are to be held against.

In: nothing. Out, a line each and as records: versions, limits, and three ceilings. These are the product of two random
matrices of 8192 x 8192 in bf16, a copy from device to device (bytes read and written), and an empty launch.
Run by `gpu_probe.py`, in a process of its own.
"""

import argparse
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

import torch
from device_figures import device_seconds, synchronize
from parts import as_part, line_of, reason_of, record, say
from side_by_side import machine

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")


def limits() -> dict:
    """What kernels and compilers may ask for."""
    memory = Path("/proc/meminfo")
    lines = memory.read_text().splitlines() if memory.exists() else ["- 0"]
    found = {
        "cores": os.cpu_count(),
        "host_memory_GiB": round(int(lines[0].split()[1]) / 2**20, 1),
        "system": platform.platform(),
        "compilers": [name for name in ("gcc", "cc", "clang", "g++", "nvcc", "ptxas") if shutil.which(name)],
        "cuda_of_torch": torch.version.cuda,
    }
    if CUDA:
        device = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info()
        found |= {
            "capability": f"{device.major}.{device.minor}",
            "compiled_for": torch.cuda.get_arch_list(),
            "multiprocessors": device.multi_processor_count,
            "shared_memory_a_block": device.shared_memory_per_block_optin,
            "second_level_cache_MiB": round(device.L2_cache_size / 2**20, 1),
            "memory_GiB": round(total / 2**30, 1),
            "free_GiB": round(free / 2**30, 1),
            "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def driver() -> dict:
    """What `nvidia-smi` says of the driver, the clocks and the power."""
    if not CUDA or shutil.which("nvidia-smi") is None:
        return {"nvidia_smi": "none"}
    names = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu")
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return dict(zip(names, done.stdout.strip().split(", "), strict=True))


def product(smoke: bool, dtype: torch.dtype) -> dict:
    size = 256 if smoke else 8192
    a, b = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
    seconds = device_seconds(lambda: a @ b, repeats=20)
    return {"size": size, "milliseconds": seconds * 1e3, "TFLOP_per_second": 2 * size**3 / seconds / 1e12}


def copy(smoke: bool) -> dict:
    source = torch.randn(2**18 if smoke else 2**30, device=DEVICE)  # 4 GiB, many times the second-level cache
    target = torch.empty_like(source)
    seconds = device_seconds(lambda: target.copy_(source), repeats=20)
    return {"GiB": source.nbytes / 2**30, "GB_per_second": 2 * source.nbytes / seconds / 1e9}


def launch(smoke: bool) -> dict:
    """Microseconds of the host a call: a kernel that does nothing, an operation of torch's on one number.

    A step of so many launches cannot be shorter than they take together.
    """
    one = torch.zeros(1, device=DEVICE)
    calls = {"operation": lambda: one.add_(1)}
    if CUDA:
        calls = {"empty_kernel": lambda: torch.cuda._sleep(0), **calls}
    found = {}
    for name, call in calls.items():
        for _ in range(100):
            call()
        synchronize()
        count = 100 if smoke else 5000
        start = time.perf_counter()
        for _ in range(count):
            call()
        synchronize()
        found[f"{name}_microseconds"] = (time.perf_counter() - start) / count * 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    with as_part():
        figures = {
            "versions": machine,
            "limits": limits,
            "driver": driver,
            "product": lambda: product(options.smoke, torch.bfloat16 if CUDA else torch.float32),
            "copy": lambda: copy(options.smoke),
            "launch": lambda: launch(options.smoke),
        }
        for name, measure in figures.items():
            try:
                values = measure()
            except Exception as error:  # the others go on, unless nothing runs in this process any more
                values = {"failed": reason_of(error)}
                synchronize()
            record(**{name: values})
            say(line_of(name, values))


if __name__ == "__main__":
    main()
