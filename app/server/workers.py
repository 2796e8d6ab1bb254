"""The parent of the worker processes: it starts them, replaces those that die, and hands on what it is told.

The workers are forked, so that they share what start-up made, and accept from the same sockets, which the parent bound. Each
has two pipes: on one it is given orders, and finds its end when the parent has died; on the other it tells that it is ready,
then that its event loop still turns. Whatever happens to one, the others go on.

SIGTERM drains and ends all, SIGINT ends them as soon as what is under way is answered, either of them a second time at once;
SIGHUP replaces one after the other by workers that read settings and certificates anew.
"""

from __future__ import annotations

import asyncio
import gc
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NoReturn

import structlog

from app.errors import ConfigurationError
from app.server import metrics, systemd
from app.server.draining import FIRST_REQUEST, UNDER_WAY, DrainingServer

log = structlog.get_logger(__name__)

READY, BEAT = b"r", b"."
BEAT_EVERY = 1.0  # seconds
SILENT = 30.0  # seconds without a beat: its event loop stands still for good; a whole garbage collection takes 0.1 s
SETTLED = 10.0  # seconds after which a worker that dies has not failed to start
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before another start, twice as long after each that failed
MARGIN = 5.0  # seconds that a worker has for its end beyond those that it counts itself
QUIT_WITHIN = 3.0  # seconds, when it is told to end at once
MISCONFIGURED = 2


class Order(Enum):
    """What a worker is told; see :class:`~app.server.draining.DrainingServer` for what it does then."""

    DRAIN = b"d"
    FINISH = b"f"
    RETIRE = b"r"
    QUIT = b"q"


class Parent:
    """A worker's side of the two pipes.

    :param orders: read end of what it is told.
    :param reports: write end of what it tells.
    """

    def __init__(self, orders: int, reports: int) -> None:
        self._orders, self._reports = orders, reports

    def obeyed_by(self, server: DrainingServer) -> None:
        """Hand every order to the server of this process, in the running event loop; a parent that died is one too.

        From now on it tells every second that the loop turns.
        """
        loop = asyncio.get_running_loop()
        actions = {
            Order.DRAIN: server.drain,
            Order.FINISH: server.finish,
            Order.RETIRE: server.retire,
            Order.QUIT: server.quit,
        }

        def obey() -> None:
            if not (said := os.read(self._orders, 16)):
                loop.remove_reader(self._orders)
                log.error("the parent process has died")
                metrics.abandon()
                return server.finish()
            for byte in said:
                actions[Order(bytes([byte]))]()

        loop.add_reader(self._orders, obey)
        loop.add_signal_handler(signal.SIGTERM, server.drain)
        self._beat()

    def is_ready(self) -> None:
        """Tell that this process serves."""
        self._tell(READY)
        log.info("accepting requests")

    def _beat(self) -> None:
        self._tell(BEAT)
        asyncio.get_running_loop().call_later(BEAT_EVERY, self._beat)

    def _tell(self, what: bytes) -> None:
        with suppress(OSError):  # it has died, which is an order on the other pipe
            os.write(self._reports, what)


Work = Callable[[Parent], Coroutine[Any, Any, None]]


@dataclass
class Worker:
    """The parent's side."""

    pid: int
    generation: int
    orders: int
    reports: int
    started: float = field(default_factory=time.monotonic)
    is_ready: bool = False
    heard: float = field(default_factory=time.monotonic)
    deadline: float | None = None

    def tell(self, order: Order, *, within: float) -> None:
        """Give an order to end, and a time after which it is killed."""
        deadline = time.monotonic() + within
        self.deadline = deadline if self.deadline is None else min(deadline, self.deadline)
        with suppress(OSError):  # it ended meanwhile
            os.write(self.orders, order.value)


class Workers:
    """Keeps as many workers as there shall be, until it is told to end.

    :param count: how many.
    :param sockets: that all accept from; only bound, so that nobody waits in their queues before the first is ready.
    :param work: what a worker does, in an event loop of its own.
    :param loop_factory: makes that.
    :param drain_seconds: that a worker serves on when it is told to drain.
    """

    def __init__(
        self,
        count: int,
        sockets: list[socket.socket],
        work: Work,
        *,
        loop_factory: Callable[[], asyncio.AbstractEventLoop],
        drain_seconds: float,
    ) -> None:
        self._count = count
        self._sockets = sockets
        self._work = work
        self._loop_factory = loop_factory
        self._to_drain = drain_seconds + FIRST_REQUEST + UNDER_WAY + MARGIN
        self._workers: dict[int, Worker] = {}
        self._generation = 0
        self._was_one_ready = False
        self._failures, self._next_start = 0, 0.0
        self._stopping: signal.Signals | None = None
        self._code = 0
        self._selector = selectors.DefaultSelector()
        self._signals: tuple[int, int] = (-1, -1)

    def run(self) -> int:
        """Run until the last worker has ended.

        :returns: 0 when it was told to end and every worker ended as it should; else what the first to fail ended with.
        """
        self._signals = os.pipe()
        for end in self._signals:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._signals[1], warn_on_full_buffer=False)
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(each, lambda *_: None)
        self._selector.register(self._signals[0], selectors.EVENT_READ, self._signalled)
        for reason in ("replaced", "died", "failed to start"):
            metrics.RESTARTS.labels(reason)  # 0 from the start: a series that begins with its first count has not increased
        while self._stopping is None or self._workers:
            self._start_and_retire()
            for key, _ in self._selector.select(timeout=self._pause()):
                key.data()
            self._reap()
            self._kill_who_is_late()
        return self._code

    def _pause(self) -> float | None:
        """Return the seconds until something is due without a sign from anybody."""
        now = time.monotonic()
        due = [worker.deadline for worker in self._workers.values() if worker.deadline is not None]
        due += [worker.heard + SILENT for worker in self._workers.values()]
        if self._stopping is None and self._next_start > now:
            due.append(self._next_start)
        return max(0.0, min(due) - now) + 0.01 if due else None

    def _start_and_retire(self) -> None:
        """Do what is to be done next: all at once at the start; one after the other when they are replaced."""
        if self._stopping is not None:
            return
        staying = [worker for worker in self._workers.values() if worker.deadline is None]
        new = [worker for worker in staying if worker.generation == self._generation]
        old = [worker for worker in staying if worker.generation != self._generation]
        ready = sum(worker.is_ready for worker in new)
        for worker in old[: max(0, ready + len(old) - self._count)]:
            worker.tell(Order.RETIRE, within=self._to_drain)
        missing = self._count - len(new)
        if old:  # one at a time, so that no more than one worker's connections are added to the database's
            missing = 0 if len(new) > ready or len(staying) < len(self._workers) else min(missing, 1)
        for _ in range(missing):
            if time.monotonic() < self._next_start:
                break
            self._start()

    def _start(self) -> None:
        (orders, order), (report, reports) = os.pipe(), os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        gc.freeze()  # a worker that walked what it shares would make it its own
        if (pid := os.fork()) == 0:
            for each in (order, report, *self._signals):
                os.close(each)
            self._become_worker(Parent(orders, reports))
        os.close(orders)
        os.close(reports)
        worker = self._workers[pid] = Worker(pid, self._generation, order, report)
        self._selector.register(report, selectors.EVENT_READ, lambda: self._reported(worker))

    def _become_worker(self, parent: Parent) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for each in (signal.SIGINT, signal.SIGHUP):  # of a terminal: the parent has heard them too
                signal.signal(each, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._selector.close()
            for worker in self._workers.values():
                os.close(worker.orders)
                os.close(worker.reports)
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                runner.run(self._work(parent))
            code = 0
        except ConfigurationError as error:
            log.error("the worker cannot serve", reason=str(error))
            code = MISCONFIGURED
        except BaseException as error:
            log.error("the worker failed", exc_info=error)
        finally:
            os._exit(code)

    def _reported(self, worker: Worker) -> None:
        said = os.read(worker.reports, 1024)
        if not said:
            self._selector.unregister(worker.reports)  # it ends; SIGCHLD tells how
            return
        worker.heard = time.monotonic()
        if READY in said:
            if not self._was_one_ready:
                systemd.tell(systemd.READY)
            worker.is_ready = self._was_one_ready = True

    def _signalled(self) -> None:
        for number in os.read(self._signals[0], 256):
            if number == signal.SIGHUP and self._stopping is None:
                self._generation += 1
                self._failures, self._next_start = 0, 0.0
                log.info("replacing every worker")
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop(signal.Signals(number))

    def _stop(self, cause: signal.Signals) -> None:
        """End all workers; what comes from now on is turned away where it can go elsewhere, not left in a queue of ours."""
        for listening in self._sockets:
            listening.close()
        if self._stopping is not None:
            order, within = Order.QUIT, QUIT_WITHIN
        elif cause == signal.SIGINT:
            order, within = Order.FINISH, UNDER_WAY + FIRST_REQUEST + MARGIN
        else:
            order, within = Order.DRAIN, self._to_drain
        self._stopping = cause
        systemd.tell(systemd.STOPPING)
        log.info("stopping", signal=cause.name, order=order.name.lower())
        for worker in self._workers.values():
            worker.tell(order, within=within)

    def _reap(self) -> None:
        """Take notice of every process that has ended; as the first of a container we are given others' children too."""
        with suppress(ChildProcessError):  # there is none any more
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if (worker := self._workers.get(ended[0])) is not None:
                    self._ended(worker, os.waitstatus_to_exitcode(ended[1]))

    def _ended(self, worker: Worker, code: int) -> None:
        del self._workers[worker.pid]
        if worker.reports in self._selector.get_map():
            self._selector.unregister(worker.reports)
        os.close(worker.orders)
        os.close(worker.reports)
        metrics.forget(worker.pid)
        if self._stopping is not None:
            self._code = self._code or abs(code)
            return
        if worker.deadline is not None and code == 0:
            metrics.RESTARTS.labels("replaced").inc()
            return
        metrics.RESTARTS.labels("died" if worker.is_ready else "failed to start").inc()
        if not self._was_one_ready:
            self._code = abs(code) or 1
            self._stop(signal.SIGTERM)
            return
        if time.monotonic() - worker.started < SETTLED:
            pause = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
            self._failures, self._next_start = self._failures + 1, time.monotonic() + pause
        else:
            self._failures, self._next_start = 0, 0.0
        pause = max(0.0, self._next_start - time.monotonic())
        log.error("a worker has died", worker=worker.pid, exit_code=code, seconds_until_the_next=round(pause, 1))

    def _kill_who_is_late(self) -> None:
        now = time.monotonic()
        for worker in self._workers.values():
            if now > worker.heard + SILENT or (worker.deadline is not None and now > worker.deadline):
                log.error("a worker is killed: it does not end, or its event loop stands still", worker=worker.pid)
                os.kill(worker.pid, signal.SIGKILL)
                worker.heard, worker.deadline = now, now + MARGIN
