"""launch/: lint, help, and that each --dry-run prints just what is run otherwise."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")])
OTHERS = ("check.sh", "common.sh", "gpu_check.sh", "quickstart.sh", "test.sh", "tpu_run.sh")
LAUNCHERS = [path for path in SCRIPTS if path.name not in OTHERS]
ODD = [
    "train",
    "--config=a",
    "--workdir",
    '/shared/it\'s a "run"',
    "--config.x=$(touch /tmp/no) `no` ${HOME} \\n & ; *",
]

#: A program that notes how it was called, says what it is told to say (a line a call; "!..." is an error, and where
#: "always" is said too, it stays), and fails where there is none. Nobody has to tell sleep and date anything.
RECORDER = """#!{python} -IS
import json, os, pathlib, sys
folder = pathlib.Path(os.environ["CALLS"])
with (folder / "calls").open("a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
text = sys.stdin.read() if os.path.basename(sys.argv[0]) == "kubectl" else ""
(folder / "stdin").write_text(text)
answers = folder / "answers"
if answers.exists() and os.path.basename(sys.argv[0]) != "sleep":
    left = json.loads(answers.read_text())
    for i, (wanted, answer, *always) in enumerate(left):
        if wanted in " ".join(sys.argv):
            if not always:
                del left[i]
            answers.write_text(json.dumps(left))
            sys.exit(answer[1:]) if answer.startswith("!") else print(answer)
            break
    else:
        print(0) if os.path.basename(sys.argv[0]) == "date" else sys.exit(1)
"""


def tool(name):
    return str(Path(sys.executable).with_name(name))


@pytest.fixture
def world(tmp_path):
    """world(script, *arguments, answers=...) -> the ended script, and the calls that it made."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("gcloud", "kubectl", "xpk", "srun", "scontrol", "sudo", "expressnet", "sleep", "date"):
        (programs / name).write_text(RECORDER.format(python=sys.executable))
        (programs / name).chmod(0o755)

    def run(script, *arguments, answers=None, **variables):
        (tmp_path / "calls").write_text("")
        if answers is not None:
            (tmp_path / "answers").write_text(json.dumps(answers))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "JAX_", "EXPRESSNET"))}
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        environment = {**kept, "PATH": path, "CALLS": str(tmp_path), **variables}
        command = ["bash", str(script) if isinstance(script, Path) else str(LAUNCH / script), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=240)
        return done, [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    command = [tool("shellcheck"), "--external-sources", "--source-path", ROOT, script]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_shellcheck_would_find_something(tmp_path):
    (tmp_path / "a.sh").write_text("#!/bin/bash\nrm $1\n")
    assert "SC2086" in subprocess.run([tool("shellcheck"), tmp_path / "a.sh"], capture_output=True, text=True).stdout


@pytest.mark.parametrize("script", LAUNCHERS, ids=lambda path: path.name)
def test_the_header_is_the_help_and_says_what_was_not_run(script):
    done = subprocess.run(["bash", script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    said = " ".join(done.stdout.split())
    assert "--dry-run" in said and "Needs" in said and re.search(r"Not yet run[: ]", said)
    assert "set -e" not in said and "#!" not in said
    text = script.read_text()
    assert len(text.splitlines()) <= 145 and max(map(len, text.splitlines())) <= 120


def test_hadolint_finds_nothing():
    (dockerfile,) = LAUNCH.rglob("Dockerfile")
    done = subprocess.run([tool("hadolint"), dockerfile], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    stages = dockerfile.read_text().split("\nFROM ")[1:]
    assert all(re.match(r"python:\d+\.\d+\.\d+-slim-\w+", stage) for stage in stages)
    assert "USER 10001:10001" in stages[-1] and 'ENTRYPOINT ["expressnet"]' in stages[-1]


def test_the_image_s_build_sees_what_the_package_needs_and_no_more():
    lines = (LAUNCH / "container" / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    seen = {rule[1:] for rule in rules if rule.startswith("!")}
    assert rules[0] == "*" and all((ROOT / name).exists() for name in seen)
    project = (ROOT / "pyproject.toml").read_text()
    (packages,) = re.findall(r"only-include = \[(.*)\]", project)
    assert seen == {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "launch/constraints.txt",
        *re.findall(r'"(\w+)"', packages),
    }


def printed(done):
    """The commands that a dry run has printed, as a shell would read them."""
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines() if line and not line.startswith("#")]


TPU = [
    "my-run",
    "--spot",
    "--image",
    "us-docker.pkg.dev/p/r/e:tpu",
    "--nfs",
    "10.0.0.2:/shared",
    "--zone",
    "us-east5-b",
]
VERBS = {"queue": 1, "create": 1, "status": 1, "delete": 1, "install": 1, "start": 1, "stop": 1, "follow": 1}


@pytest.mark.parametrize("verb", VERBS)
def test_tpu_vm_prints_what_it_runs(world, verb):
    dry, calls = world("tpu_vm.sh", verb, *TPU, "--dry-run", "--", *ODD)
    assert not calls
    done, calls = world("tpu_vm.sh", verb, *TPU, "--", *ODD)
    assert done.returncode == 0 and calls == printed(dry) and calls[0][:3] == ["gcloud", "compute", "tpus"]
    assert "my-run" in calls[0] and "--zone=us-east5-b" in calls[0]


def test_tpu_vm_starts_the_command_that_it_was_given(world, tmp_path):
    (call,) = world("tpu_vm.sh", "start", *TPU, "--", *ODD)[1]
    (remote,) = (word.removeprefix("--command=") for word in call if word.startswith("--command="))
    (tmp_path / "remote.sh").write_text(remote)
    _, calls = world(tmp_path / "remote.sh", answers=[["docker rm", ""], ["docker run", ""]])
    (docker,) = (words for words in calls if "run" in words)
    assert docker[docker.index("us-docker.pkg.dev/p/r/e:tpu") + 1 :] == [*ODD, "--distributed"]
    _, calls = world(tmp_path / "remote.sh", answers=[["docker inspect", "true"]])
    assert len(calls) == 1  # it runs already


NONE = ["describe", "!ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource 'my-run' was not found."]
OK = [[word, "", "always"] for word in ("create", "delete", "nfs-common", "docker run", "docker stop", "docker logs")]


def states(*names):
    """What gcloud describes in turn; a TPU that is not there is looked for in two places."""
    return [answer for name in names for answer in ([NONE, NONE] if name == "none" else [["describe", name]])]


def ends(*codes):
    """How trainings end in turn: each a code of all hosts, or one of each, in the order in which they ended."""
    found = []
    for each in codes:
        each = each if isinstance(each, tuple) else (each, each)
        lines = [f"2026-01-01T00:00:{9 - i}.{i}5Z {code}" for i, code in enumerate(reversed(each))]
        found += [["worker=0 --command=sudo docker wait", "?"], ["FinishedAt", "\n".join(["Updates!", *lines])]]
    return found


def steps(calls):
    """What was asked of gcloud, in short."""
    known = ("describe", "create", "delete", "nfs-common", "docker run", "FinishedAt", "docker wait", "stop", "logs")
    return [next(word for word in known if word in " ".join(call)) for call in calls if call[0] == "gcloud"]


@pytest.fixture
def tpu_run(world):
    """tpu_run(*answers) -> the ended `tpu_vm.sh run`, its steps, and the seconds that it would have slept."""

    def run(*answers):
        done, calls = world("tpu_vm.sh", "run", *TPU, "--", *ODD, answers=answers)
        return done, steps(calls), [int(call[1]) for call in calls if call[0] == "sleep"]

    return run


def test_tpu_vm_run_prints_what_it_runs_where_all_goes_well(world):
    dry, calls = world("tpu_vm.sh", "run", *TPU, "--dry-run", "--", *ODD)
    assert not calls
    answers = [*states("none", "ACTIVE"), *ends(0), *OK]
    done, calls = world("tpu_vm.sh", "run", *TPU, "--", *ODD, answers=answers)
    assert done.returncode == 0, done.stderr
    asked = [call for call in calls if call[0] == "gcloud"]
    assert steps(asked[:2]) == ["describe"] * 2 and asked[2:] == printed(dry)  # first it looks whether one is there


def test_tpu_vm_run_asks_for_another_tpu_after_a_preemption(tpu_run):
    seen = states("none", "WAITING_FOR_RESOURCES", "ACTIVE", "SUSPENDED", "none", *["ACTIVE"] * 4)
    done, found, _ = tpu_run(["docker wait", "!ssh: it is gone"], *seen, *ends(75, 137, 76, 0), *OK)
    assert done.returncode == 0, done.stderr
    assert found.count("docker run") == 5 and found.count("create") == 2 and found.count("stop") == 4
    assert found[-2:] == ["logs", "delete"] and found.count("delete") == 2


@pytest.mark.parametrize("minutes, goes_on", [(11, True), (9, False)])
def test_tpu_vm_run_goes_on_after_any_number_of_preemptions_if_it_trains_between_them(tpu_run, minutes, goes_on):
    seen = states(*["none", "ACTIVE", "SUSPENDED"] * 6, "none", "ACTIVE")
    times = [["date", str(60 * minutes * i)] for i in range(12)]  # of a start and an end, in turn
    done, found, _ = tpu_run(*[["docker wait", "!ssh: it is gone"]] * 6, *times, *seen, *ends(0), *OK)
    assert done.returncode == (0 if goes_on else 1)
    assert found.count("docker run") == (7 if goes_on else 5) and found[-1] == "delete"


@pytest.mark.parametrize("code", [1, 2, 126])
@pytest.mark.parametrize("others", ["same", "later"])
def test_tpu_vm_run_gives_up_where_starting_again_does_not_help(tpu_run, code, others):
    end = code if others == "same" else (0, code, 75, 134)
    done, found, _ = tpu_run(["docker logs", "why"], *states("ACTIVE"), *ends(end), *OK)
    assert done.returncode == code and found[-2:] == ["logs", "delete"] and "why" in done.stdout
    assert found.count("docker run") == 1 and "stop" not in found


def test_tpu_vm_run_starts_again_where_a_crash_made_others_fail(tpu_run):
    done, found, _ = tpu_run(*states("ACTIVE", "ACTIVE"), *ends((137, 1), 0), *OK)
    assert done.returncode == 0 and found.count("docker run") == 2


def test_tpu_vm_run_restarts_come_to_an_end(tpu_run):
    done, found, _ = tpu_run(["describe", "ACTIVE", "always"], *ends(*[75] * 21), *OK)
    assert done.returncode == 1 and "after 20 restarts" in done.stderr
    assert found.count("docker run") == 20 and found[-1] == "delete"


@pytest.mark.parametrize("broken", ["nfs-common", "docker run", "docker wait", "FinishedAt"])
def test_tpu_vm_run_gives_up_where_no_training_starts(tpu_run, broken):
    always = [["describe", "ACTIVE", "always"], ["docker wait", "?", "always"]]
    done, found, slept = tpu_run([broken, "!denied", "always"], *always, *OK)
    assert done.returncode == 1 and "failure 5 of 5" in done.stderr and "denied" in done.stderr
    assert found.count("nfs-common") == 5 and found[-1] == "delete" and slept == [60, 90, 120, 150, 180]


def test_tpu_vm_run_gives_up_where_every_tpu_fails(tpu_run):
    why = [["yaml(state)", "quota is exceeded"] for _ in range(9)]
    done, found, slept = tpu_run(*why, *states(*["none", "FAILED"] * 9), *OK)
    assert done.returncode == 1 and done.stderr.count("quota is exceeded") == 5 and "failure 5 of 5" in done.stderr
    assert found.count("create") == 5 and found[-1] == "delete" and sum(slept) > 600


def test_tpu_vm_run_gives_up_where_no_tpu_can_be_asked_for(tpu_run):
    done, found, _ = tpu_run(["create", "!no quota", "always"], [*NONE, "always"], *OK)
    assert done.returncode == 1 and found.count("create") == 5 and found[-1] == "delete"


def test_tpu_vm_run_goes_on_where_gcloud_fails_for_a_while(tpu_run):
    blip = ["describe", "!ERROR: Max retries exceeded"]
    seen = [*states("none"), *[blip] * 2, *states("ACTIVE"), *[blip] * 6, *states("ACTIVE")]
    done, found, _ = tpu_run(*seen, *ends(75, 0), *OK)
    assert done.returncode == 0, done.stderr
    assert found.count("create") == 1 and done.stderr.count("Max retries") == 1 + 3
    assert found[-2:] == ["logs", "delete"]


def test_tpu_vm_run_says_so_where_it_cannot_delete_the_tpu(tpu_run):
    done, found, _ = tpu_run(["delete", "!no network", "always"], *states("ACTIVE"), *ends(0), *OK)
    assert done.returncode == 1 and found.count("delete") == 20
    assert "tpu_vm.sh delete my-run --zone us-east5-b" in done.stderr.splitlines()[-1]


def test_tpu_vm_run_waits_for_the_other_hosts_and_stops_those_that_hang(world, tmp_path):
    dry, _ = world("tpu_vm.sh", "run", *TPU, "--dry-run", "--", *ODD)
    (call,) = (call for call in printed(dry) if "FinishedAt" in " ".join(call))
    (tmp_path / "remote.sh").write_text(call[-1].removeprefix("--command="))
    done, calls = world(tmp_path / "remote.sh", answers=[["docker wait", "75"], ["docker inspect", "2026 75"]])
    assert done.stdout == "2026 75\n" and not any("stop" in call for call in calls)
    done, calls = world(tmp_path / "remote.sh", answers=[["docker stop", "it"], ["docker inspect", "2026 137"]])
    assert done.stdout == "2026 137\n" and [call[1:3] for call in calls][1] == ["docker", "stop"]


XPK = ["my-run", "my-cluster", "v5litepod-16", "2", "gcr.io/p/e:tpu", "--", *ODD]


def test_xpk_prints_what_it_runs_and_its_command_survives_a_shell(world, tmp_path):
    dry, calls = world("gke/xpk.sh", "--dry-run", *XPK)
    assert not calls
    done, calls = world("gke/xpk.sh", *XPK)
    assert done.returncode == 0 and calls == printed(dry)
    (command,) = (word.removeprefix("--command=") for word in calls[0] if word.startswith("--command="))
    (tmp_path / "command.sh").write_text(command)
    assert world(tmp_path / "command.sh")[1] == [["expressnet", *ODD, "--distributed"]]


@pytest.mark.parametrize(
    "command, said",
    [
        (["tpu_vm.sh", "start", "My;run"], "not a name"),
        (["tpu_vm.sh", "explode", "a"], "not a verb"),
        (["tpu_vm.sh", "install", "a", "--image", "x"], "needs --nfs"),
        (["tpu_vm.sh", "start", "a", "--image", "x; rm"], "needs --image"),
        (["tpu_vm.sh", "start", "a", "--image", "x"], "come after --"),
        (["tpu_vm.sh", "queue", "a", "--zone", "$(x)"], "not a zone"),
        (["tpu_vm.sh", "queue", "a", "--zone"], "not a zone"),
        (["gke/xpk.sh", "a", "b c", *XPK[2:]], "not a name"),
        (["gke/xpk.sh", "a"], "give NAME"),
        (["gke/xpk.sh", *XPK[:6], "trian", *ODD[1:]], "train or evaluate, not 'trian'"),
        (["tpu_vm.sh", "run", *TPU, "--", *ODD, "--config"], "--config lacks its value"),
    ],
)
def test_mistakes_are_one_line(world, command, said):
    done, calls = world(*command)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not calls


#: A Python that has jax and no torch, whose parts end as they are told to, and which notes what it was asked for.
GPU_PYTHON = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
*"import jax"*) echo "0.0 [CudaDevice(id=0)]" ;;
*"import torch"*) exit 1 ;;
*selfcheck*) exit 3 ;;
*"train --config=a"*) exit 75 ;;
*" plan "*)
    echo "                      predicted   compiled   measured"
    echo "  memory of a device  1.00 GiB    2.00 GiB   3.00 GiB"
    echo "  GFLOP an image      1           1          -"
    echo "  MB moved an image   2           3          -"
    echo "  images/s, at most   9           8          7" ;;
esac
"""


def test_the_first_minutes_on_a_gpu_go_on_after_a_failure_and_leave_out_what_has_passed(tmp_path):
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(GPU_PYTHON)
    python.chmod(0o755)
    environment = os.environ | {"PYTHON": str(python), "CALLS": str(calls), "CONFIGS": "a b.py", "DATA_DIR": "/d d"}
    printed = ""
    for times in (1, 2):
        command = ["bash", str(LAUNCH / "gpu_check.sh"), "out put", "1"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and not done.stderr, done.stderr
        printed = printed or done.stdout
        lines = (tmp_path / "out put" / "summary.txt").read_text().splitlines()
        said = [re.sub(r" in \d+ s$", "", line).replace(str(python), "PYTHON") for line in lines]
        assert said[-3:-1] == ["step: not run, PYTHON has no torch", "train_a: stopped after its time"] or times == 2
        asked = calls.read_text().splitlines()
        assert sum("tests/golden" in call for call in asked) == 1
        assert sum("--selfcheck" in call for call in asked) == times
        trained = f"--workdir {tmp_path}/out put/runs/b --data_dir /d d"
        assert sum(call.endswith(trained) for call in asked) == 1
    assert said[:6] == ["plan: passed", "golden: passed", "experts: failed (exit code 3)",
                        "step: not run, PYTHON has no torch", "train_a: stopped after its time",
                        "train_b: passed"]  # fmt: skip
    assert re.search(r"\n +predicted +compiled +measured\n  memory of a device .*\n.*\n.*\n  images/s", printed)
    done = subprocess.run(["bash", str(LAUNCH / "gpu_check.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("usage: ")
