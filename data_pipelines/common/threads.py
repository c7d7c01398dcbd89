"""Work in threads whose results come in the order of the tasks, with a bound on what is in memory."""

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def ordered(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    workers: int | None = None,
    full: Callable[[Collection[Task]], bool] | None = None,
) -> Iterator[tuple[Task, Result]]:
    """Each task with function(task), in the order of the tasks; the first exception of a task ends it.

    workers: threads, by default one for each core. full: says of the tasks under way that no further one may be taken
    before the first of them is done; by default they are at most twice as many as the threads.
    """
    workers = workers or os.cpu_count() or 1
    waiting: deque[Task] = deque()
    futures: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for task in tasks:
            waiting.append(task)
            futures.append(pool.submit(function, task))
            while waiting and (full(waiting) if full else len(waiting) > 2 * workers):
                result = futures.popleft().result()
                yield waiting.popleft(), result
        while waiting:
            result = futures.popleft().result()
            yield waiting.popleft(), result
    finally:
        pool.shutdown(cancel_futures=True)
