"""Stages forked from a process with their libraries are what they are by themselves."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment

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
import os, sys
print(sys.argv[1:], os.getcwd(), os.environ["OF_THE_JOB"], __name__)
print("to standard error", file=sys.stderr)
print("torch" in sys.modules)
sys.exit(3)
""",
    "fail": "raise ValueError('what went wrong')",
    "last": """\
import os, time
from pathlib import Path
from stages.common import run

def main():
    Path("ids").write_text(f"{os.getpid()} {os.getppid()}")
    time.sleep(600)

run(main)
""",
}
# Starts `last`; says how it ended, and whether the stage itself is still there.
ENDED = f"""\
{LAUNCH} last 2>&1 & asked=$!
until [[ -s ids ]]; do sleep 0.05; done
read stage handler < ids
kill -{{signal}} ${{whom}}
status=0; wait $asked || status=$?
echo "status $status"
for i in {{{{1..100}}}}; do [[ -d /proc/$stage ]] || break; sleep 0.05; done
[[ -d /proc/$stage ]] && echo alive && kill -KILL $stage || echo gone
"""
AGAIN = "run it again: what was finished is kept."


@pytest.fixture
def forked(tmp_path: Path):
    """Run a shell script from which launch.sh finds a fork server."""
    for name, program in PROGRAMS.items():
        (tmp_path / f"{name}.py").write_text(program)
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()

    def run(script: str, **more: str) -> subprocess.CompletedProcess:
        paths = f"{ROOT / 'workflow'}:{ROOT}:{tmp_path}"
        return subprocess.run(
            [sys.executable, "-c", SERVER, "bash", "-c", script],
            env=environment(PYTHONPATH=paths, **more), cwd=tmp_path / "here",
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip

    return run


def test_a_stage_starts_where_and_as_it_was_asked_for(forked, tmp_path: Path):
    tell = f"{LAUNCH} tell --name 'c d'; echo \"status $?\""
    done = forked(f"cd ../there; export OF_THE_JOB='a b'; {tell}; exit 5")
    told = f"['--name', 'c d'] {tmp_path / 'there'} a b __main__"
    assert done.stdout.splitlines() == [told, "True", "status 3"]
    assert done.stderr.splitlines()[-1] == "to standard error"
    assert done.returncode == 5  # the command's


def test_asked_to_stop_it_asks_its_command(forked):
    done = forked("trap 'echo asked; exit 4' TERM; kill -TERM $PPID; while :; do sleep 0.05; done")
    assert (done.stdout, done.returncode) == ("asked\n", 4)


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS=2", "SACD_FORK_SERVER=", "SLURM_JOB_ID=1"])
def test_a_stage_that_cannot_share_a_process_is_one_by_itself(forked, variable: str):
    done = forked(f'export OF_THE_JOB=x {variable}; {LAUNCH} tell; echo "status $?"')
    assert done.stdout.splitlines()[1:] == ["False", "status 3"]


def test_an_unforeseen_error_is_told_whole(forked):
    done = forked(f"{LAUNCH} fail")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: what went wrong"


@pytest.mark.parametrize(
    ("signal", "whom", "lines"),
    [
        ("TERM", "asked", [f"stopped by SIGTERM; {AGAIN}", "status 143", "gone"]),
        ("INT", "asked", [f"interrupted; {AGAIN}", "status 130", "gone"]),
        ("KILL", "stage", ["status 137", "gone"]),
        ("KILL", "asked", ["status 137", "gone"]),
        ("KILL", "handler", ["status 137", "alive"]),
    ],
)  # fmt: skip
def test_signals_reach_a_stage_and_its_end_is_told(forked, signal: str, whom: str, lines):
    done = forked(ENDED.format(signal=signal, whom=whom))
    assert done.stdout.splitlines() == lines, done.stderr


def test_no_stage_imports_more_libraries():
    program = """\
import sys
from importlib import import_module
from pathlib import Path
import fork_server

def third_party():
    return {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)

for library in fork_server.LIBRARIES:
    import_module(library)
before = third_party()
for path in Path("stages").glob("[a-z]*.py"):
    import_module(f"stages.{path.stem}")
print(sorted(third_party() - before - {"stages", "sacd"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True,
        env=environment(PYTHONPATH=f"{ROOT / 'workflow'}:{ROOT}"),
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
