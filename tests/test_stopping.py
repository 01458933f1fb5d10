"""Being asked to stop: what the asked program sees of it."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from conftest import ROOT, environment

from sacd.stopping import REQUESTS, noting_requests


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_is_only_noted_while_work_ends_a_step(request_: signal.Signals):
    before = signal.getsignal(request_)
    with noting_requests() as asked:
        assert not asked()
        os.kill(os.getpid(), request_)
        assert asked()
    assert signal.getsignal(request_) == before


def test_outside_the_main_thread_nothing_is_noted():
    seen = []

    def work() -> None:
        with noting_requests() as asked:
            seen.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


@pytest.mark.parametrize("request_", REQUESTS)
def test_elsewhere_it_ends_the_stage_in_order(request_: signal.Signals):
    program = (
        "import os, sys, time\nfrom pipeline.program import run\n"
        "def main():\n"
        "    try:\n"
        f"        os.kill(os.getpid(), {int(request_)})\n"
        "        time.sleep(60)\n"
        "    except Exception: sys.exit('taken for a fault')\n"
        "run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 143
    assert done.stderr == (
        f"stopped by {request_.name}; run it again: what was finished is kept.\n"
    )
