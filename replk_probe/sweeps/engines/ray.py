"""Tasks on a Ray cluster, or on a local Ray instance.

Ray places the tasks, runs those again whose process or node was lost, and watches the nodes.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from replk_probe.errors import BackendError, InvalidInputError

from .interface import THREAD_VARIABLES, Failure, Finished, attempt, limit_memory, prepare_process

# Ray also counts the removal of a node, for which the task is not the reason, so that these are more than local ones.
MOST_RETRIES = 5

# Tasks that are submitted at least, running or waiting: a cluster grows with the number of tasks that wait.
_FEWEST_SUBMITTED = 64
_COUNT_EVERY = 10.0  # seconds after which the size of the cluster is read again
_OBJECT_STORE = 100 << 20  # bytes of shared memory; tasks return only the reasons of failures


class RayEngine:
    """Tasks on a Ray cluster.

    Args:
        workers: Number of tasks that run at the same time at most; None for as many as the cluster can run.
        threads: Number of threads of each, and of the cores that Ray reserves for it.
        timeout: Seconds after which a task is ended, or None. They count from its start, or from its next start if its
            process or node was lost.
        max_memory: Bytes that Ray reserves for each task, and that its data may take, or None.
        gpus: Number of GPUs that Ray reserves for each task. Without any, tasks do not see the GPUs of their node.
        address: Address of the cluster as for :func:`ray.init`, such as ``"auto"`` or ``"HOST:6379"``. If it is None, a
            Ray with the cores for ``workers`` is started on this machine and ended by :meth:`close`.

    Raises:
        BackendError: Ray is not installed.
        InvalidInputError: There is no cluster at ``address``, or none of its nodes has the resources of a task.
    """

    def __init__(  # noqa: D107
        self,
        workers: int | None,
        *,
        threads: int = 1,
        timeout: float | None = None,
        max_memory: int | None = None,
        gpus: int = 0,
        address: str | None = None,
    ) -> None:
        self._ray = _import_ray()
        self._needs = {"CPU": float(threads), "GPU": float(gpus), "memory": float(max_memory or 0)}
        self._workers, self._timeout, self._max_memory = workers, timeout, max_memory
        self._running: dict[Any, str] = {}
        self._slots, self._counted = 0, -float("inf")
        # A program may have a connection of its own, which is kept.
        self._connected = not self._ray.is_initialized()
        if self._connected:
            _connect(self._ray, address, threads * (workers or 1))
        try:
            self._check_resources()
            environment = {name: str(threads) for name in THREAD_VARIABLES}
            if not gpus:
                environment["CUDA_VISIBLE_DEVICES"] = ""  # the keys of the jobs say that they run on the CPU
            self._options = {
                "num_cpus": threads,
                "num_gpus": gpus,
                "memory": max_memory,
                "max_retries": MOST_RETRIES,
                "runtime_env": {"env_vars": environment},
            }
            self._remote = self._ray.remote(_run)
            self._starts = None if timeout is None else self._start_clock()
        except BaseException:
            self.close()
            raise

    @property
    def free(self) -> int:
        """Number of tasks that can be submitted; the tasks of a cluster wait there, so that no core has to."""
        most = self._workers
        if most is None:
            if time.monotonic() - self._counted > _COUNT_EVERY:  # nodes come and go
                total = self._ray.cluster_resources()
                self._slots = min(int(total.get(name, 0) / need) for name, need in self._needs.items() if need)
                self._counted = time.monotonic()
            most = max(2 * self._slots, _FEWEST_SUBMITTED)
        return max(most - len(self._running), 0)

    def submit(self, task: str, function: Callable[..., None], *args: Any) -> None:
        """Submit a task, which Ray runs again if its process or node is lost."""
        remote = self._remote.options(name=task, **self._options)
        self._running[remote.remote(task, self._starts, self._max_memory, function, args)] = task

    def wait(self, seconds: float) -> list[Finished]:
        """Wait for tasks, and end those that have run for too long.

        Raises:
            BackendError: The processes of Ray on this machine have ended.
        """
        waiting = list(self._running)
        if not waiting:
            return []
        errors = self._ray.exceptions
        try:
            self._ray.wait(waiting, timeout=seconds)
            ended, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
            found = [Finished(self._running.pop(one), self._outcome(one)) for one in ended]
            return found + self._end_late() if self._starts is not None else found
        except (errors.LocalRayletDiedError, errors.RayActorError, errors.RaySystemError, errors.RpcError) as error:
            raise BackendError(
                "The connection to Ray is lost. Its processes on this machine have ended. Start Ray again if it does "
                "not belong to this sweep, and run the same command again: jobs that are done are kept."
            ) from error

    def close(self) -> None:
        """End all tasks and the connection, and the local Ray instance if it was started here."""
        try:
            for one in self._running:
                self._ray.cancel(one, force=True)
            if self._running:
                self._ray.wait(list(self._running), num_returns=len(self._running), timeout=10)
        finally:
            self._running.clear()
            self._starts = None
            if self._connected:
                self._ray.shutdown()

    def _outcome(self, task: Any) -> Failure | None:
        """The failure of a task that has ended, if any."""
        errors = self._ray.exceptions
        try:
            failure: Failure | None = self._ray.get(task)
        except errors.OutOfMemoryError as error:
            return Failure(
                "Ray ended the process of the job because its node had too little memory. Give max_memory, so that "
                "fewer jobs run on a node, or a smaller size.",
                str(error),
            )
        except (errors.WorkerCrashedError, errors.NodeDiedError) as error:
            return Failure(
                f"The process or node of the job was lost {MOST_RETRIES + 1} times. The system may have too little "
                "memory. Give max_memory, so that fewer jobs run on a node, or a smaller size.",
                str(error),
            )
        except (errors.LocalRayletDiedError, errors.RaySystemError, errors.RpcError):
            raise  # no failure of the job
        except errors.RayError as error:
            text = str(error).strip()
            return Failure(
                f"Ray could not run the job. {text.splitlines()[-1] if text else type(error).__name__}", text
            )
        return failure

    def _end_late(self) -> list[Finished]:
        """End the tasks that have run for longer than the timeout."""
        assert self._starts is not None and self._timeout is not None
        seconds = self._ray.get(self._starts.seconds.remote(list(self._running.values())))
        late = [one for one, task in self._running.items() if seconds.get(task, 0) >= self._timeout]
        for one in late:
            self._ray.cancel(one, force=True)
        reason = f"The job took longer than {self._timeout:g} s. It was ended. Give a longer timeout."
        return [Finished(self._running.pop(one), Failure(reason)) for one in late]

    def _start_clock(self) -> Any:
        """An actor that knows when tasks began, on the node of this process, whose end is the end of the sweep."""
        strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self._ray.get_runtime_context().get_node_id(), soft=True
        )
        return self._ray.remote(_Clock).options(num_cpus=0, scheduling_strategy=strategy).remote()

    def _check_resources(self) -> None:
        """Refuse tasks that would wait forever; nodes of a cluster that grows by itself may be missing."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(all(node.get(name, 0) >= need for name, need in self._needs.items()) for node in nodes):
            return
        needed = f"{self._needs['CPU']:g} cores"
        needed += f", {self._needs['GPU']:g} GPU" if self._needs["GPU"] else ""
        needed += f", {self._needs['memory'] / 2**30:.3g} GiB" if self._needs["memory"] else ""
        raise InvalidInputError(
            f"No node of Ray can run a job. A job needs {needed}, and there are {len(nodes)} nodes with less. Start a "
            "larger node first, or use fewer threads or less memory."
        )


class _Clock:
    """Since when each task has been running; a task that is run again begins again."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}

    def begin(self, task: str) -> None:
        """Note that a task begins."""
        self._begun[task] = time.monotonic()

    def seconds(self, tasks: list[str]) -> dict[str, float]:
        """Seconds since those of the tasks began that have begun; all others are forgotten."""
        now = time.monotonic()
        self._begun = {task: begun for task, begun in self._begun.items() if task in tasks}
        return {task: now - begun for task, begun in self._begun.items()}


def _run(task: str, clock: Any, max_memory: int | None, function: Callable[..., None], args: tuple[Any, ...]) -> Any:
    """Run a task in a worker of Ray."""
    prepare_process()
    limit_memory(max_memory)
    if clock is not None:
        clock.begin.remote(task)
    return attempt(function, *args)


def _import_ray() -> Any:
    # By default, Ray sends usage statistics to its developers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise BackendError(
            "The engine 'ray' is not available. Ray is not installed. Run pip install 'replk-probe[ray]', or use the "
            "engine 'local'."
        ) from error
    return ray


def _connect(ray: Any, address: str | None, cores: int) -> None:
    """Connect to a cluster, or start a local Ray instance with that many cores."""
    local = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        ray.init(
            address=address or "local", log_to_driver=False, logging_level=logging.ERROR,
            **({} if address else local),
        )  # fmt: skip
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = " ".join(str(error).split())
        where = f"connect to Ray at {address}" if address else "start Ray on this machine"
        raise InvalidInputError(
            f"Cannot {where}. {reason.rstrip('.')}. Give the address that 'ray start --head' printed, or use the "
            "engine 'local'."
        ) from error
