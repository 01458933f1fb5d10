"""DVC remotes as a cluster has them: what is stored, and what happens when one fails.

Shared directories are what the other tests use; here are SSH, by a real sshd on loopback, a remote
that is down, and one with a damaged file.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import EXPERIMENT, Checkout
from recorded_run import NOTHING, changed, clone, make

pytestmark = pytest.mark.campaign

SSHD = "/usr/sbin/sshd"
# Made again from images and models in a fraction of the time that it takes to move them.
NOT_STORED = ("features", "latents")


def stored(folder: Path) -> list[Path]:
    """The files of a remote."""
    return [path for path in (folder / "files/md5").rglob("*") if path.is_file()]


def store(checkout: Checkout) -> Path:
    """The shared directory that is the remote of the recorded run."""
    return Path(checkout.run("dvc", "remote", "list").stdout.split()[1])


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of an sshd of our own, and the key of whom it lets in."""
    if not Path(SSHD).exists():
        pytest.skip("sshd is missing: apt-get install openssh-server")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(key, check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nPidFile none\nStrictModes no\n"
        f"UsePAM no\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # which sshd wants
    server = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(folder / "config")],
        stdout=subprocess.DEVNULL, stderr=(folder / "log").open("w"),
    )  # fmt: skip
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield port, folder / "user"
    finally:
        server.kill()
        server.wait()


class TestSsh:
    def test_a_clone_is_up_to_date_after_a_pull(
        self, recorded: Checkout, sshd: tuple[int, Path], tmp_path: Path
    ):
        made = recorded.copy(tmp_path / "repository")
        far, (port, key) = tmp_path / "far", sshd
        for option, value in (
            ("url", f"ssh://127.0.0.1:{port}{far}"),
            ("user", "root"),
            ("keyfile", str(key)),
        ):
            made.run("dvc", "remote", "modify", "store", option, value)
        made.run("git", "commit", "--quiet", "--all", "--message", "A remote by SSH")
        made.run("dvc", "push", "dvc.yaml")
        assert len(stored(far)) == len(stored(store(recorded))) > 10

        fresh = clone(made, tmp_path / "clone")
        done = make("pull", fresh, str(EXPERIMENT))
        assert done.returncode == 0, done.stdout
        assert NOTHING in fresh.snakemake("--dry-run").stdout
        for path in made.experiment.rglob("*.safetensors"):
            twin = fresh.experiment / path.relative_to(made.experiment)
            kept = path.relative_to(made.experiment).parts[0] not in NOT_STORED
            assert twin.exists() == kept
            assert not kept or twin.read_bytes() == path.read_bytes()


class TestFaults:
    def test_one_that_is_down_is_named_and_nothing_is_lost(
        self, recorded: Checkout, tmp_path: Path
    ):
        made = recorded.copy(tmp_path / "repository")
        before = {path: path.stat().st_mtime_ns for path in made.experiment.rglob("*")}
        with socket.socket() as closed:  # a port that nobody answers at
            closed.bind(("127.0.0.1", 0))
            url = f"ssh://127.0.0.1:{closed.getsockname()[1]}/far"
            made.run("dvc", "remote", "modify", "store", "url", url)
            pushed = made.run("dvc", "push", "dvc.yaml", check=False)
            fresh = clone(made, tmp_path / "clone")
            fresh.run("dvc", "remote", "modify", "store", "url", url)
            pulled = make("pull", fresh, str(EXPERIMENT))
        assert pushed.returncode != 0
        assert "Connect call failed ('127.0.0.1'" in pushed.stdout
        assert before == {path: path.stat().st_mtime_ns for path in made.experiment.rglob("*")}
        assert changed(made) == set()
        assert pulled.returncode != 0
        assert "Connect call failed ('127.0.0.1'" in pulled.stdout
        assert not (fresh.experiment / ".snakemake/metadata").exists()

    def test_a_damaged_file_is_not_taken(self, recorded: Checkout, tmp_path: Path):
        """And after the push of one who has it whole, the same pull succeeds."""
        made = recorded.copy(tmp_path / "repository")
        far = tmp_path / "far"
        shutil.copytree(store(recorded), far)
        made.run("dvc", "remote", "modify", "store", "url", str(far))
        made.run("git", "commit", "--quiet", "--all", "--message", "A remote of its own")
        damaged = max(stored(far), key=lambda path: path.stat().st_size)
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.chmod(0o644)
        damaged.write_bytes(content)

        fresh = clone(made, tmp_path / "clone")
        done = make("pull", fresh, str(EXPERIMENT))
        assert done.returncode != 0, done.stdout
        name = damaged.parent.name + damaged.name
        assert name in done.stdout or "hash mismatch" in done.stdout.lower(), done.stdout
        assert not (fresh.experiment / ".snakemake/metadata").exists()

        damaged.unlink(missing_ok=True)  # DVC itself removes it where it may
        made.run("dvc", "push", "dvc.yaml")
        done = make("pull", fresh, str(EXPERIMENT))
        assert done.returncode == 0, done.stdout
        assert NOTHING in fresh.snakemake("--dry-run").stdout


def test_what_is_quick_to_make_again_is_not_stored(recorded: Checkout):
    """By the objects that dvc.lock names."""
    stages = yaml.safe_load((recorded.experiment / "dvc.lock").read_text())["stages"]
    objects = store(recorded) / "files/md5"
    found = {
        out["path"]: (objects / out["md5"][:2] / out["md5"][2:]).exists()
        for stage in stages.values()
        for out in stage["outs"]
        if not out["path"].startswith("results")  # git's
    }
    assert len(found) > 15
    for path, is_stored in found.items():
        heavy = Path(path).parts[0] in NOT_STORED and Path(path).name != "record.json"
        assert is_stored != heavy, path
