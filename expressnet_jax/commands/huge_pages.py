"""Memory in huge pages, without which a training step on a CPU can take half as long again (docs/benchmarks.md).

XLA asks for the memory of a step's intermediate values when the step begins and returns it at the end; the C library
hands it to the operating system and takes it anew, and the kernel clears it page by page, 4 KiB at a time. glibc asks
for pages of 2 MiB where GLIBC_TUNABLES says so, which it reads once, when a program starts.
"""

import os
import sys
from pathlib import Path

_VARIABLE, _SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"  # 1: by madvise (glibc 2.35; an older one ignores it)
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart() -> None:
    """Starts this program once more with huge pages, in this process; returns where that is done, or would not help.

    It would not where the kernel gives huge pages never, or always. Whoever has set GLIBC_TUNABLES keeps their own.
    """
    if _VARIABLE in os.environ or not is_on_request():
        return
    os.environ[_VARIABLE] = _SETTING
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def is_on_request() -> bool:
    """Whether the kernel gives huge pages to those who ask."""
    try:
        return "[madvise]" in _KERNEL.read_text()
    except OSError:  # no Linux, or hidden
        return False
