"""Stages forked from a process with their libraries are what they are by themselves."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, environment

pytestmark = pytest.mark.campaign

LAUNCH = f"bash '{ROOT}/workflow/launch.sh' 1 1"
# Without the libraries, which take seconds; torch is there, for it is asked about GPUs.
SERVER = """\
import sys
import fork_server
fork_server.LIBRARIES = ()
sys.exit(fork_server.serve(sys.argv[1:]))
"""
PROGRAMS = {
    "tell": """\
import os, sys, tempfile
print(sys.argv[1:], os.getcwd(), os.environ["OF_THE_JOB"], tempfile.gettempdir(), __name__)
print("to standard error", file=sys.stderr)
print("torch" in sys.modules)
sys.exit(3)
""",
    "fail": "raise ValueError('what went wrong')",
    "last": """\
import os, time
from pathlib import Path
from pipeline.program import run

def main():
    Path("ids").write_text(f"{os.getpid()} {os.getppid()}")
    time.sleep(600)

run(main)
""",
}
# Starts `last`; says how it ended, and whether the stage itself is still there.
ENDED = f"""\
export PYTHONPATH=$PROGRAMS
{LAUNCH} last 2>&1 & asked=$!
until [[ -s ids ]]; do sleep 0.05; done
read stage handler < ids
kill -{{signal}} {{whom}}
status=0; wait $asked || status=$?
echo "status $status"
for i in {{{{1..100}}}}; do [[ -d /proc/$stage ]] || break; sleep 0.05; done
[[ -d /proc/$stage ]] && echo alive && kill -KILL $stage || echo gone
"""
AGAIN = "run it again: what was finished is kept."


@pytest.fixture
def forked(tmp_path: Path):
    """Run a shell script from which launch.sh finds a fork server, and $PROGRAMS what to launch."""
    for folder in ("here", "there", "programs"):
        (tmp_path / folder).mkdir()
    for name, program in PROGRAMS.items():
        (tmp_path / "programs" / f"{name}.py").write_text(program)

    def run(script: str) -> subprocess.CompletedProcess:
        paths = {
            "PYTHONPATH": str(ROOT / "workflow"),
            "PROGRAMS": f"{ROOT}:{tmp_path / 'programs'}",
        }
        return subprocess.run(
            [sys.executable, "-c", SERVER, "bash", "-c", script],
            env=environment(**paths), cwd=tmp_path / "here",
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip

    return run


def test_a_stage_starts_where_and_as_it_was_asked_for(forked, tmp_path: Path):
    done = forked(
        f"cd ../there; export OF_THE_JOB='a b' TMPDIR=$PWD PYTHONPATH=$PROGRAMS\n"
        f"{LAUNCH} tell --name 'c d'; echo \"status $?\"; exit 5"
    )
    there = tmp_path / "there"
    told = f"['--name', 'c d'] {there} a b {there} __main__"
    assert done.stdout.splitlines() == [told, "True", "status 3"]
    assert done.stderr.splitlines()[-1] == "to standard error"
    assert done.returncode == 5  # the command's


def test_several_stages_at_once_each_tell_their_own_end(forked):
    done = forked(
        "export PYTHONPATH=$PROGRAMS OF_THE_JOB=x\n"
        f"{LAUNCH} fail & first=$!; {LAUNCH} tell & second=$!; {LAUNCH} fail & third=$!\n"
        'for job in $first $second $third; do wait $job; echo "status $?"; done'
    )
    assert [line for line in done.stdout.splitlines() if line.startswith("status")] == [
        "status 1", "status 3", "status 1",
    ]  # fmt: skip


def test_asked_to_stop_it_asks_its_command(forked):
    done = forked("trap 'echo asked; exit 4' TERM; kill -TERM $PPID; while :; do sleep 0.05; done")
    assert (done.stdout, done.returncode) == ("asked\n", 4)


def test_a_command_that_is_killed_has_the_status_of_a_shell(forked):
    assert forked("kill -KILL $$").returncode == 137


def test_without_its_server_a_stage_is_refused(forked, tmp_path: Path):
    """Also while a stage of the dead server goes on."""
    script = tmp_path / "outliving.sh"
    script.write_text(
        f"export PYTHONPATH=$PROGRAMS; {LAUNCH} last & asked=$!\n"
        "until [[ -s ids ]]; do sleep 0.05; done\n"
        f'kill -KILL $SERVER; {LAUNCH} last; echo "status $?"\n'
        "read stage handler < ids; kill -KILL $stage; wait $asked; ended=$?\n"
        'rm -r "$(dirname "$SACD_FORK_SERVER")"; echo "status $ended"\n'
    )
    forked(f"SERVER=$PPID bash '{script}' > told 2>&1 & wait")
    told = tmp_path / "here/told"
    deadline = time.monotonic() + 60
    while told.read_text().count("status") < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert told.read_text().splitlines() == [
        "error: the fork server has ended; run the command again.", "status 1", "status 137",
    ]  # fmt: skip


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS=2", "SACD_FORK_SERVER=", "SLURM_JOB_ID=1"])
def test_a_stage_that_cannot_share_a_process_is_one_by_itself(forked, variable: str):
    given = f"OF_THE_JOB=x PYTHONPATH=$PROGRAMS {variable}"
    done = forked(f'export {given}; {LAUNCH} tell; echo "status $?"')
    assert done.stdout.splitlines()[1:] == ["False", "status 3"]


def test_an_unforeseen_error_is_told_whole(forked):
    done = forked(f"export PYTHONPATH=$PROGRAMS; {LAUNCH} fail")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: what went wrong"


@pytest.mark.parametrize(
    ("signal", "whom", "lines"),
    [
        ("TERM", "$asked", [f"stopped by SIGTERM; {AGAIN}", "status 143"]),
        ("USR1", "$asked", [f"stopped by SIGUSR1; {AGAIN}", "status 143"]),
        ("INT", "$asked", [f"interrupted; {AGAIN}", "status 130"]),
        # As a signal to a whole group of processes has it.
        ("TERM", "$asked $handler", [f"stopped by SIGTERM; {AGAIN}", "status 143"]),
        ("KILL", "$stage", ["status 137"]),
        ("KILL", "$asked", ["status 137"]),
        ("KILL", "$handler", ["status 137"]),
    ],
)
def test_signals_reach_a_stage_and_its_end_is_told(forked, signal: str, whom: str, lines):
    done = forked(ENDED.format(signal=signal, whom=whom))
    assert done.stdout.splitlines() == [*lines, "gone"], done.stderr
    assert "Traceback" not in done.stderr


def test_stages_find_their_libraries_imported_and_no_threads():
    program = """\
import os, sys
from importlib import import_module
from pathlib import Path
import fork_server

for library in fork_server.LIBRARIES:
    import_module(library)
before, threads = set(sys.modules), os.listdir("/proc/self/task")
OURS = ("sacd", "pipeline", "stages")
assert not {*OURS} & before  # else stages would have them from another folder
for path in Path("stages").glob("[a-z]*.py"):
    import_module(f"stages.{path.stem}")
names = [Path(f"/proc/self/task/{thread}/comm").read_text().strip() for thread in threads]
ours = [name for name in set(sys.modules) - before if not name.startswith(OURS)]
print(len(ours), sorted(set(names) - {"python", "python3"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True,
        env=environment(PYTHONPATH=f"{ROOT / 'workflow'}:{ROOT}", OPENBLAS_NUM_THREADS="1"),
    )  # fmt: skip
    modules, threads = done.stdout.split(maxsplit=1)
    assert int(modules) < 30
    assert threads.strip() in ("[]", "['jemalloc_bg_thd']")  # which is made to outlive a fork
