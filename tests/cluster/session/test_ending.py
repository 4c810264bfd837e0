"""The end of a Ray, with processes that ignore it."""

import subprocess
import sys

import psutil
import pytest
import ray

from cluster.session import ending
from cluster.session.ending import OwnRay

STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("waits", [True, False], ids=["hangs", "leaves them"])
def test_no_process_of_an_own_ray_outlives_its_shutdown(monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    for limit in ("_GRACE_S", "_HEAD_S", "_LEFT_S"):
        monkeypatch.setattr(ending, limit, 0.2)
    with subprocess.Popen(["sleep", "600"]) as other:
        own = OwnRay()
        with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as root:
            worker = psutil.Process(int(root.stdout.readline()))
            own.started()
            monkeypatch.setattr(ray, "shutdown", root.wait if waits else lambda: None)
            own.shutdown()
            root.wait(10)
            psutil.wait_procs([worker], timeout=10)
            assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
        assert other.poll() is None
        other.kill()


HANGING = """
import sys, threading, time
from cluster import cli
from cluster.commands import group

@cli.main.command()
def hang():
    threading.Thread(target=time.sleep, args=(600,)).start()
    raise KeyboardInterrupt

group._EXIT_S = 0.2
sys.argv = ["raystill", "hang"]
cli.main()
"""


def test_an_interrupted_command_waits_for_no_thread() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, "raystill: Interrupted.\n")
