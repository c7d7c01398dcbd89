"""What tests share: a tiny prepared data set, and the command line in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TINY = str(ROOT / "tests" / "tiny.py")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder with the data set synthetic_faces/tiny."""
    from data_pipelines import prepare

    folder = tmp_path_factory.mktemp("data")
    prepare.prepare("synthetic_faces/tiny", None, data_dir=str(folder))
    return folder


def environment(devices: int = 1) -> dict[str, str]:
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        # Most of a test is compiling: these programs take 0.6 of the time, and run slower. Those of
        # tests/unit, tests/golden and tests/multidevice/test_plan.py are compiled as users' are.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "true"),
        "JAX_ENABLE_COMPILATION_CACHE": str(devices == 1).lower(),  # the reason is in commands/process.py
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
    }


def start(*arguments: object, devices: int = 1) -> subprocess.Popen:
    """`expressnet ARGUMENTS` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "expressnet_jax.cli", *map(str, arguments)],
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def expressnet(*arguments: object, devices: int = 1) -> subprocess.CompletedProcess:
    """Runs `expressnet ARGUMENTS` to its end."""
    process = start(*arguments, devices=devices)
    out, err = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)
