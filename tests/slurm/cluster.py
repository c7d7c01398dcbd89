"""A Slurm of one node for the tests: its daemons, its keys and its logs in one folder of its own.

Slurm in earnest, because what the launch script relies on (who gets which signal at the time limit, what requeueing an
array's task does) is Slurm's doing, and a stand-in for it would only repeat what we believe. Nothing of the machine's
own Slurm is used or changed: every daemon listens on localhost, at a port that was free, and reads no file in /etc.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd")

#: The node has more CPUs than the machine, so that all tasks of an array run at once. Short times, because each is one
#: that a test would wait for: `KillWait` from the time limit's SIGTERM to its SIGKILL (Slurm's default is 30 s too),
#: `cred_expire` how long a job that was queued again waits (120 s), `sched_interval` until it is looked at (60 s).
#: Neither cgroups nor accounting: a container has no right to the first, and the second needs a database.
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait={kill_wait}
MinJobAge=3600
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PlugStackConfig={folder}/no-plugins
NodeName={host} NodeAddr=127.0.0.1 CPUs=32 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here, or nothing."""
    if not all(shutil.which(name, path=_path()) for name in PROGRAMS):
        return "slurm-wlm is not installed"
    return "" if os.geteuid() == 0 else "the daemons of Slurm start jobs as root alone"


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def until(condition: Callable[[], object], seconds: float, what: Callable[[], str]) -> None:
    """Waits for `condition`; after so many seconds it fails with what `what` says."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what()}"
        time.sleep(0.25)


class Cluster:
    """`with Cluster() as cluster`: started on entry; when it is left, all its jobs and daemons are gone."""

    def __init__(self, kill_wait: int = 30):
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path is at most 107 letters
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.kill_wait = kill_wait
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))},
            "PATH": _path(),
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }

    def __enter__(self) -> "Cluster":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if (self.folder / "slurm.conf").exists() and len(self.daemons) == len(PROGRAMS):
            self._end_jobs()
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_jobs(self) -> None:
        """SIGKILL to all that jobs have started; the daemons would leave it running."""
        self.ask("scancel", "--user=root", "--state=PENDING", check=False)
        self.ask("scancel", "--user=root", "--signal=KILL", "--full", check=False)
        deadline = time.monotonic() + 20
        while self.ask("squeue", "--noheader", check=False).strip() and time.monotonic() < deadline:
            time.sleep(0.5)

    def _start(self) -> None:
        host = socket.gethostname().partition(".")[0]
        ports = dict(zip(("controller", "node"), _free_ports(2), strict=True))
        text = CONFIGURATION.format(host=host, folder=self.folder, kill_wait=self.kill_wait, **ports)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "no-plugins").touch()
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        self.folder.chmod(0o755)  # for munged, which wants its socket to be within everyone's reach
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(64))
        files = {"socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "munged.seed", "key-file": key.name}
        options = [f"--{option}={self.folder / name}" for option, name in files.items()]
        self._daemon("munged", "--foreground", "--force", f"--log-file={self.folder}/munged.log", *options)
        self._wait(lambda: (self.folder / "munge.socket").exists())
        self._daemon("slurmctld", "-D", "-i", "-f", self.environment["SLURM_CONF"])
        self._daemon("slurmd", "-D", "-f", self.environment["SLURM_CONF"])
        self._wait(lambda: self.ask("sinfo", "--noheader", "--format=%t", check=False).strip() == "idle")

    def _daemon(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as log:
            command = [name, *arguments]
            # A session of its own: Ctrl-C in pytest is for pytest, which then ends the daemons in order.
            self.daemons.append(
                subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
            )

    def _wait(self, condition: Callable[[], object]) -> None:
        until(lambda: condition() or any(d.poll() is not None for d in self.daemons), 60, self.logs)
        assert all(daemon.poll() is None for daemon in self.daemons), self.logs()

    def logs(self) -> str:
        """The ends of the daemons' own logs, for who has to find out why a test has failed."""
        found = sorted({*self.folder.glob("*.out"), *self.folder.glob("*.log")})
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-3000:]}" for path in found)

    def ask(self, *command: object, check: bool = True, **variables: str) -> str:
        """What a command of Slurm prints."""
        words = [str(word) for word in command]
        done = subprocess.run(words, env={**self.environment, **variables}, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def submit(self, *words: object, **variables: str) -> str:
        """`sbatch WORDS`: the job's number."""
        return self.ask("sbatch", "--parsable", *words, **variables).strip()

    def jobs(self, number: str) -> list[dict[str, str]]:
        """What Slurm says of a job, or of each task of an array, by its own names: JobState, ExitCode, Restarts."""
        lines = self.ask("scontrol", "show", "job", "--oneliner", number).splitlines()
        return [dict(word.partition("=")[::2] for word in line.split() if "=" in word) for line in lines if line]

    def ended(self, number: str, seconds: float) -> list[dict[str, str]]:
        """The same, once nothing of the job is running, queued or ending."""
        going = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "CONFIGURING", "SUSPENDED", "SIGNALING")

        def over() -> bool:
            return not any(job["JobState"] in going for job in self.jobs(number))

        until(over, seconds, lambda: f"{self.jobs(number)}\n{self.logs()}")
        return self.jobs(number)


def _free_ports(count: int) -> list[int]:
    """Ports of localhost that nobody has, all different since all are held until the last is found."""
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()
