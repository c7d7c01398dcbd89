"""What tests share: a tiny prepared data set, and the command line, in this process or in one of its own.

A process that has to load JAX and this project first takes longer than most tests run, so `expressnet` runs a command
in the process of the test, and what needs 8 devices in one that is kept for that (tests/devices.py). `start` is for
what has to be another process: to be killed, limited, or one of several.
"""

import contextlib
import gc
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests import devices as eight

ROOT = Path(__file__).resolve().parent.parent
TINY = str(ROOT / "tests" / "tiny.py")

#: Most of a test is compiling, and with these two settings a training step compiles in a fifth of the time (and runs
#: slower). What is to be compiled as users compile it has processes of its own: tests/golden, and the plans that are
#: compared with what a compiler says. JAX_DISABLE_MOST_OPTIMIZATIONS=false in the environment: everything is.
LIGHT = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true") == "true"

os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")  # where there is a cache


def xla_flags(devices: int, light: bool) -> str:
    light &= metadata.version("jaxlib").startswith("0.10.")  # jaxlib 0.11 has no such flag, and ends where it sees one
    return f"--xla_force_host_platform_device_count={devices}" + " --xla_cpu_use_fusion_emitters=false" * light


if "jax" not in sys.modules:  # as in `environment`, so that both find each other's programs in JAX's cache
    os.environ.setdefault("XLA_FLAGS", xla_flags(1, LIGHT))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests marked `long`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is worth hours, unless it is asked for."""
    if not config.getoption("--long"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_configure(config: pytest.Config) -> None:
    """Workers side by side have a part of the cores each: threads that wait for a core only take time from others."""
    gc.set_threshold(200_000, 20, 100)  # traced programs are many small objects, nearly none of them garbage
    worker, cores = os.environ.get("PYTEST_XDIST_WORKER", ""), sorted(os.sched_getaffinity(0))
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if worker.startswith("gw") and 1 < count <= len(cores):
        os.sched_setaffinity(0, cores[int(worker[2:]) :: count])


def pytest_sessionfinish() -> None:
    eight.stop()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder with the data set synthetic_faces/tiny."""
    from data_pipelines import prepare

    folder = tmp_path_factory.mktemp("data")
    prepare.prepare("synthetic_faces/tiny", None, data_dir=str(folder))
    return folder


@pytest.fixture(scope="module")
def equal_charts_drawn_once():
    """Of the charts of hundreds of nearly equal pages, which are the same again and again."""
    from expressnet_jax.figures import charts

    def once(function):
        known = {}

        def answer(*arguments, **settings):
            key = repr((arguments, settings))
            if key not in known:
                known[key] = function(*arguments, **settings)
            return known[key]

        return answer

    with pytest.MonkeyPatch.context() as patch:
        for name in ("forest", "dots", "lines", "reliability", "panel"):
            patch.setattr(charts, name, once(getattr(charts, name)))
        yield


def environment(devices: int = 1) -> dict[str, str]:
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(devices, os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "true"),
        "JAX_ENABLE_COMPILATION_CACHE": str(devices == 1).lower(),  # the reason is in commands/common.py
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


def separate(*arguments: object, devices: int = 1) -> subprocess.CompletedProcess:
    """Runs `expressnet ARGUMENTS` to its end in a process of its own."""
    process = start(*arguments, devices=devices)
    out, err = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def expressnet(*arguments: object, devices: int = 1) -> subprocess.CompletedProcess:
    """Runs `expressnet ARGUMENTS` to its end on one device or on 8; this process and its settings stay as they are."""
    if devices == 8:
        return on_eight("expressnet_jax.cli", *arguments)
    with before_and_after(environment()):
        return eight.run("expressnet_jax.cli", *arguments)


def on_eight(module: str, *arguments: object) -> subprocess.CompletedProcess:
    """`python -m MODULE ARGUMENTS` on 8 devices."""
    return eight.ask(environment(8), module, *arguments)


@contextlib.contextmanager
def before_and_after(environ: dict[str, str]):
    """What a command of its own process may change: the environment, JAX's settings, the way warnings are shown."""
    import warnings

    import jax

    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - environ.keys():
            patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        kept = {name: jax.config.values[name] for name in eight.SETTINGS}
        before = dict(os.environ)
        try:
            yield
        finally:
            for name, value in kept.items():
                jax.config.update(name, value)
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)
