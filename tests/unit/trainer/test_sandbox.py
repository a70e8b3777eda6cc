"""Hostile programs: each changes nothing but its own outcome, and ends within its limit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mismatch_lab.errors import InputError, MissingDependencyError
from mismatch_lab.trainer.sandbox import Limits, Sandbox, open_sandbox

pytest.importorskip("pydantic_monty")

LIMITS = Limits(time_s=20, memory_mib=32, output_chars=100)
HURRIED = Limits(time_s=0.3, memory_mib=32, output_chars=100)
SLACK_S = 2.0
"""For a busy machine, on top of `time_s` and `grace_s`."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """So patient that nothing but an endless program runs out of time, on a slow machine too."""
    with open_sandbox("monty", LIMITS) as opened:
        yield opened


@pytest.fixture(scope="module")
def hurried() -> Iterator[Sandbox]:
    with open_sandbox("monty", HURRIED) as opened:
        yield opened


def test_ordinary_programs_run(sandbox: Sandbox) -> None:
    programs = [
        "print(7 * 8 + 30)",
        "import math\nprint(math.comb(5, 2))",
        "def f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)\nprint(f(10))",
        "40 + 2",  # as a script, not as a prompt: only what is printed comes back
    ]
    outcomes = sandbox.run(programs)
    assert [(o.status, o.output) for o in outcomes] == [
        ("ok", "86\n"),
        ("ok", "10\n"),
        ("ok", "55\n"),
        ("ok", ""),
    ]


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "sum(range(10**12))",
        "while True: sorted(range(10**5))",
        "exec('while True: pass')",
        "try:\n  while True: pass\nexcept BaseException: print('caught')\nwhile True: pass",
    ],
)
def test_endless_program(hurried: Sandbox, program: str) -> None:
    started = time.monotonic()
    outcome = hurried.run([program])[0]
    took = time.monotonic() - started
    assert (outcome.status, outcome.error) == ("time", "TimeoutError: stopped after 0.3 s")
    assert outcome.output == "", "a limit cannot be caught"
    assert took < HURRIED.time_s + HURRIED.grace_s + SLACK_S


@pytest.mark.parametrize(
    ("program", "status", "error"),
    [
        ("x = [0] * 10**10", "memory", "MemoryError: more than 32 MiB"),
        ("x = 'a'\nwhile True: x += x", "memory", "MemoryError: more than 32 MiB"),
        ("x = []\nwhile True: x.append('a' * 999)", "memory", "MemoryError: more than 32 MiB"),
        ("('a,' * 10**7).split(',')", "memory", "MemoryError: more than 32 MiB"),
        ("10**10**8", "memory", "MemoryError: more than 32 MiB"),
        ("f'{1:>1000000000}'", "memory", "MemoryError: more than 32 MiB"),
        ("print('a' * 10**6)", "output", "OutputError: more than 100 characters printed"),
        ("for i in range(10**5): print(i)", "output", "OutputError: more than 100 characters"),
        ("def f(n): return f(n + 1)\nf(0)", "error", "RecursionError: maximum recursion depth"),
        ("class A:\n  def __repr__(s): return repr(s)\nprint(A())", "error", "RecursionError"),
        ("(" * 9000 + ")" * 9000, "error", "SyntaxError"),
        ("print(1)\n" * 5000, "error", "SyntaxError: over 20000 characters"),
        ("open('/etc/passwd').read()", "error", "PermissionError"),
        ("import pathlib\npathlib.Path('/etc/passwd').read_text()", "error", "PermissionError"),
        ("import os\nos.listdir('/')", "error", "PermissionError"),
        ("import os\nprint(os.environ)", "error", "RuntimeError"),
        ("import os\nos.system('id')", "error", "AttributeError"),
        ("import os\nos.fork()", "error", "AttributeError"),
        ("import subprocess", "error", "ModuleNotFoundError"),
        ("import ctypes", "error", "ModuleNotFoundError"),
        ("import socket", "error", "ModuleNotFoundError"),
        ("import urllib.request", "error", "ModuleNotFoundError"),
        ("import threading", "error", "ModuleNotFoundError"),
        ("__import__('os')", "error", "NameError"),
        ("().__class__.__bases__[0].__subclasses__()", "error", "AttributeError"),
        ("(lambda: 0).__globals__", "error", "AttributeError"),
        ("while True:\n  try: undefined\n  except NameError: pass", "error", "RuntimeError"),
        ("1 / 0", "error", "ZeroDivisionError: division by zero"),
        ("raise SystemExit", "error", "SystemExit"),
        ("raise KeyboardInterrupt", "error", "KeyboardInterrupt"),
        ("raise MemoryError('mine')", "error", "MemoryError: mine"),
        ("raise ValueError('x' * 10**6)", "error", "ValueError: xxx"),
        ("def (", "error", "SyntaxError"),
        ("print((1 + 2)", "error", "SyntaxError: unexpected end of the program"),
        ("if True:\n", "error", "SyntaxError: unexpected end of the program"),
        ("x = 1 +", "error", "SyntaxError: Expected an expression"),
        ("eval('(')", "error", "SyntaxError: unexpected EOF while parsing"),
        ("\x00\x1b[2J", "error", "SyntaxError"),
        ("'\ud800'", "error", "SyntaxError"),
        ("int('9' * 5000)", "error", "ValueError"),
    ],
)
def test_hostile_program(sandbox: Sandbox, program: str, status: str, error: str) -> None:
    outcome, after = sandbox.run([program, "print(1 + 1)"])
    assert (outcome.status, outcome.error[: len(error)]) == (status, error)
    assert len(outcome.output) <= LIMITS.output_chars
    assert len(outcome.error) <= LIMITS.output_chars
    assert after.output == "2\n", "the program next to it was harmed"


def test_nothing_is_written(sandbox: Sandbox, tmp_path: Path) -> None:
    target = tmp_path / "written"
    programs = [
        f"open({str(target)!r}, 'w').write('x')",
        f"import pathlib\npathlib.Path({str(target)!r}).write_text('x')",
        f"import os\nos.mkdir({str(target)!r})",
    ]
    assert [o.status for o in sandbox.run(programs)] == ["error", "error", "error"]
    assert list(tmp_path.iterdir()) == []


def test_sleeping_takes_no_time(sandbox: Sandbox) -> None:
    started = time.monotonic()
    assert sandbox.run(["import time\ntime.sleep(10**6)\nprint('awake')"])[0].output == "awake\n"
    assert time.monotonic() - started < SLACK_S


def test_odd_text_survives(sandbox: Sandbox) -> None:
    text = "é\u202e\U0001f600\x1b[31m"
    assert sandbox.run([f"print({text!r})"])[0].output == text + "\n"


def test_programs_know_nothing_of_each_other(sandbox: Sandbox) -> None:
    # More programs than workers, so that every worker has served some program before.
    sandbox.run(["secret = 42"] * 8)
    assert {o.error for o in sandbox.run(["print(secret)"] * 8)} == {
        "NameError: name 'secret' is not defined"
    }


def test_the_same_program_prints_the_same(sandbox: Sandbox) -> None:
    program = (
        "import random, datetime, time\n"
        "print(random.random(), datetime.datetime.now().year, time.time(), {'b', 'a', 'c'})"
    )
    first, second = sandbox.run([program, program])
    assert first.status == "ok"
    assert first.output == second.output
    with open_sandbox(limits=LIMITS) as other:
        assert other.run([program]) == [first]


def test_output_before_an_error_is_kept(sandbox: Sandbox) -> None:
    outcome = sandbox.run(["print('half')\nraise ValueError('rest')"])[0]
    assert (outcome.output, outcome.error) == ("half\n", "ValueError: rest")


def test_long_output_is_cut(sandbox: Sandbox) -> None:
    # "0\n1\n…": 10 numbers of 2 characters and 26 of 3 are 98 characters, so "36" ends it.
    outcome = sandbox.run(["print('\\n'.join(str(i) for i in range(1000)))"])[0]
    assert outcome.output == "".join(f"{i}\n" for i in range(36)) + "36"


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="needs Linux's /proc")
def test_kernel_confines_the_workers(sandbox: Sandbox) -> None:
    sandbox.run(["print(1)"] * 8)
    limits = [
        (Path("/proc") / pid / "limits").read_text()
        for pid in _children()
        if (Path("/proc") / pid / "comm").read_text().strip() == "monty"
    ]
    # 512 MiB and 4 times the 32 MiB of a program, in bytes.
    rows = [line.split() for text in limits for line in text.splitlines()]
    assert ["Max", "address", "space", "671088640", "671088640", "bytes"] in rows
    assert ["Max", "file", "size", "0", "0", "bytes"] in rows


def _children() -> list[str]:
    tasks = Path(f"/proc/{os.getpid()}/task")
    return [pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()]


def test_workers_die_with_their_parent() -> None:
    program = (
        "import os\n"
        "from mismatch_lab.trainer.sandbox import open_sandbox\n"
        "sandbox = open_sandbox()\n"
        "sandbox.run(['print(1)'])\n"
        "with sandbox._session() as session: print(session.worker_pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    worker = Path(f"/proc/{int(done.stdout)}")
    deadline = time.monotonic() + 5
    while worker.exists() and "Z" not in (worker / "stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.05)


def test_closing_twice_is_fine() -> None:
    opened = open_sandbox()
    opened.close()
    opened.close()


@pytest.mark.parametrize("name", ["time_s", "memory_mib", "workers", "output_chars"])
def test_a_limit_of_zero_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=name):
        Limits(**{name: 0})


def test_unknown_sandbox() -> None:
    with pytest.raises(InputError, match="monty"):
        open_sandbox("docker")


def test_missing_library_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic_monty", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        open_sandbox()
