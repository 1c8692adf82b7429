"""A command run as a child as if its parent were not there: its terminal, pipes, signals and end.

The child stays in this process's group, so a terminal's keys (Ctrl-C, Ctrl-Z) reach it once and
directly, and a program that wants the terminal gets it; when it stops, so does this process, and a
shell sees one job. Signals that were sent to this process alone, as launchers and schedulers do,
are passed on; which is which the kernel says. One that a program sends to the whole group reaches
the child twice, as it does below `timeout`.

On Linux processes that the command leaves behind become this process's children (subreaper), so
they are seen and their time counts; and if this process is killed the child gets a SIGTERM.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

from benthic.cost.metering.descendants import Process, below

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""signals that ask a command to end"""
_PASSED_ON = (*ENDING, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SETTLE = 0.2  # seconds in which helpers of a command that ended end, too
_NOT_FOUND, _CANNOT = 127, 126


class NotRun(Exception):
    """The command cannot be run; `code` is what a shell would exit with."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass
class Child:
    """A command that runs; `wait` watches it to its end."""

    pid: int
    mask: set[int | signal.Signals]
    """signals that were blocked before"""
    signals: list[int] = field(default_factory=list)
    """that came while it ran, the terminal's included"""

    def wait(self) -> int:
        """Pass signals on until the command ends; its exit code, 128 + n if a signal n ended it."""
        while True:
            status = self._reap()
            if status is not None:
                return code_of(status)
            number, meant = self._receive(None)
            if meant:
                send(self.pid, number)

    def wait_for_rest(self) -> None:
        """Wait until nothing is left below this process, or until it was asked to end twice.

        Signals that were sent to this process go to all that is left.
        """
        asked = 0
        while asked < 2 and ((rest := below(os.getpid())) or self._has_children()):
            number, meant = self._receive(2.0)
            for process in rest if meant else []:
                send(process.pid, number)
            asked += number in ENDING
            self._reap()

    def outliving(self) -> list[Process]:
        """What the command left behind, once its helpers had a moment to end."""
        deadline = time.monotonic() + _SETTLE
        while (rest := below(os.getpid())) or self._has_children():
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
            self._reap()
        return rest

    def _has_children(self) -> bool:
        """Also where /proc shows none: a parent that hands its child over may end between the
        reading of its folder and of its line."""
        self._reap()
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return False
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def release(self) -> None:
        """Signals are again this process's own."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def _reap(self) -> int | None:
        """Bury all that ended; the command's status if it is among them."""
        found = None
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
                if pid == 0:
                    break
                if pid == self.pid and os.WIFSTOPPED(status):
                    _stop_too()
                elif pid == self.pid:
                    found = status
        return found

    def _receive(self, seconds: float | None) -> tuple[int, bool]:
        """Wait for a signal, 0 if none comes in time, and whether it is to be passed on."""
        number, by_kernel = _next_signal(seconds)
        if number in (0, signal.SIGCHLD):
            return 0, False
        self.signals.append(number)
        return number, not by_kernel  # the terminal has sent it to the whole group


def program(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """The file that the command's first word names, as a shell would find it; else NotRun."""
    if not command or not command[0]:
        raise NotRun(
            "no command is given: write it after --, as in: benthic meter -- python train.py", 2
        )
    name = command[0]
    if any("\0" in word for word in command):
        raise NotRun("the command holds a NUL character: leave it out", _CANNOT)
    if "/" in name:
        paths = [name]
    else:
        folders = environ.get("PATH", os.defpath).split(os.pathsep)
        paths = [os.path.join(folder or ".", name) for folder in folders]
    there = [path for path in paths if os.path.exists(path)]
    for path in there:
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    if "/" not in name or not there:
        where = "there is no such file" if "/" in name else "it is not in PATH"
        raise NotRun(f"'{name}' is not found: {where}, so check its spelling", _NOT_FOUND)
    if os.path.isdir(name):
        raise NotRun(f"'{name}' is a folder: name a program in it", _CANNOT)
    raise NotRun(f"'{name}' may not be executed: chmod +x it, or name its interpreter", _CANNOT)


def become(path: str, command: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Be the command from now on."""
    _restore_signals()
    try:
        os.execve(path, list(command), dict(environ))
    except OSError as error:
        raise _not_run(command[0], error) from error


def start(path: str, command: Sequence[str], environ: Mapping[str, str]) -> Child:
    """Start the command below this process, which then has no handlers but `Child.wait`.

    NotRun where the system refuses it. For a process that does nothing else: all its children count
    as the command's.
    """
    prctl = _prctl()
    if prctl:
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *_PASSED_ON})
    parent = os.getpid()
    read, write = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError):  # closed before the start, or whoever read it left
            stream.flush()
    pid = os.fork()
    if pid == 0:
        try:
            if prctl:
                prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
                if os.getppid() != parent:  # killed between the fork and here
                    os._exit(128 + signal.SIGTERM)
            _restore_signals()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.execve(path, list(command), dict(environ))
        except OSError as error:
            os.write(write, str(error.errno).encode())
        finally:
            os._exit(_CANNOT)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        failure = pipe.read()
    for key in (signal.SIGTSTP, signal.SIGTTOU):  # it stops when the command does, see `_reap`
        signal.signal(key, signal.SIG_IGN)
    child = Child(pid, mask)
    if failure:
        os.waitpid(pid, 0)
        child.release()
        number = int(failure)
        raise _not_run(command[0], OSError(number, os.strerror(number)))
    return child


def send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def code_of(status: int) -> int:
    """A shell's exit code of what `waitpid` said."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _not_run(name: str, error: OSError) -> NotRun:
    import errno

    if error.errno == errno.ENOEXEC:
        return NotRun(
            f"'{name}' is no program: begin it with a line like #!/bin/sh, or name its interpreter",
            _CANNOT,
        )
    if error.errno == errno.E2BIG:
        return NotRun(
            f"the arguments of '{name}' are longer than the system allows: put them in a file",
            _CANNOT,
        )
    return NotRun(f"'{name}' cannot be run: {error.strerror}", _CANNOT)


def _stop_too() -> None:
    """Stop as the command did, where a shell waits for its job to; both go on with SIGCONT."""
    with suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        os.kill(os.getpid(), signal.SIGSTOP)


def _restore_signals() -> None:
    """What Python ignores for itself, programs expect to be as usual."""
    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


def _next_signal(seconds: float | None) -> tuple[int, bool]:
    """The next signal, 0 if none comes in time, and whether the kernel, not a process, sent it."""
    wanted = {signal.SIGCHLD, *_PASSED_ON}
    if hasattr(signal, "sigtimedwait"):
        found = signal.sigtimedwait(wanted, 3600.0 if seconds is None else seconds)
        return (0, False) if found is None else (found.si_signo, found.si_code > 0)
    if seconds is not None:  # a system that cannot say who sent it: keys come from the terminal
        time.sleep(seconds)
        if not signal.sigpending() & wanted:
            return 0, False
    number = signal.sigwait(wanted)
    return number, number in (signal.SIGINT, signal.SIGQUIT) and os.isatty(0)


def _prctl() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    try:
        found: Callable[..., int] = ctypes.CDLL(None, use_errno=True).prctl
        return found
    except (OSError, AttributeError):
        return None
