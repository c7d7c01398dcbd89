"""launch/slurm.sbatch outside Slurm: what each array task runs, and after which exit codes the job is queued again;
and its headers."""

import argparse
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "launch" / "slurm.sbatch"

#: As srun does: runs every task, ends those that are left when one fails, and returns the highest code of all.
SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$CALLS"
while [ "$1" != bash ]; do shift; done
for code in $CODES; do CODE=$code "$@"; done
for code in $CODES; do if [ "$code" != 0 ]; then exit 143; fi; done
"""


@pytest.fixture
def world(tmp_path):
    """world(*arguments, codes=exit code of each task) -> the ended script, and what was called."""
    programs = {
        "srun": SRUN,
        "expressnet": '#!/usr/bin/env bash\nprintf "expressnet" >>"$CALLS"\nprintf " %q" "$@" >>"$CALLS"\n'
        'echo >>"$CALLS"\nexit "$CODE"\n',
        "scontrol": '#!/usr/bin/env bash\necho "scontrol $*" >>"$CALLS"\necho "JobId=7 ${STATE-} End="\n',
        "scancel": '#!/usr/bin/env bash\necho "scancel $*" >>"$CALLS"\n',
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)

    def run(*arguments, codes=(0, 0), **variables):
        (tmp_path / "calls").write_text("")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "JAX_", "EXPRESSNET"))}
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        told = {"CALLS": str(tmp_path / "calls"), "CODES": " ".join(map(str, codes))}
        done = subprocess.run(
            ["bash", SCRIPT, *arguments],
            env={**kept, "PATH": path, **told, **variables},
            capture_output=True,
            text=True,
        )
        return done, (tmp_path / "calls").read_text().splitlines()

    return run


def train(tmp_path):
    return ["train", "--config=x", "--workdir", str(tmp_path / "a run"), '--config.note=it\'s "odd" $(x)']


def commands(calls):
    return [shlex.split(line)[1:] for line in calls if line.startswith("expressnet ")]


def test_every_task_runs_the_command(world, tmp_path):
    done, calls = world(*train(tmp_path), SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="8")
    assert done.returncode == 0, done.stderr
    assert commands(calls) == [[*train(tmp_path), "--distributed"]] * 2
    assert "--kill-on-bad-exit=1" in calls[0] and "--cpus-per-task=8" in calls[0]  # srun does not take it from the job
    assert not any(call.startswith("scontrol") for call in calls)
    assert [path.name for path in tmp_path.iterdir() if "exit" in path.name] == []


@pytest.mark.parametrize(
    "codes, restarts, result, again",
    [
        ((75, 75), 0, 75, True),
        ((0, 75), 40, 75, True),  # a preemption is no failure, however often
        ((75, 143), 0, 75, True),  # 143 was ended by srun, because of the first
        ((1, 143), 0, 1, False),
        ((2, 75), 0, 2, False),
        ((137, 143), 0, 137, True),
        ((139, 1), 2, 139, True),
        ((137, 143), 40, 137, True),  # nor does one of them make a crash worse
        ((127, 127), 0, 127, False),
        ((76, 143), 0, 76, True),  # it hung
    ],
)
def test_the_first_failure_decides_whether_the_job_is_queued_again(world, tmp_path, codes, restarts, result, again):
    count = {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
    done, calls = world(*train(tmp_path), codes=codes, SLURM_JOB_ID="7", **count)
    assert done.returncode == result and f"job 7 ended with exit code {result}" in done.stdout
    assert ([call for call in calls if call.startswith("scontrol")] == ["scontrol requeue 7"]) == again


@pytest.mark.parametrize(
    "codes, again",
    [
        ([137, 139, 134, 137], [True, True, True, False]),
        ([75, 75, 75, 75, 137, 137, 137, 137], [True] * 7 + [False]),
        ([137, 137, 137, 75, 137, 137, 137, 137], [True] * 7 + [False]),  # in a row
        ([137, 137, 0], [True, True, False]),
        ([137, 137, 1], [True, True, False]),
        ([76, 137, 76, 76], [True, True, True, False]),
    ],
)
def test_crashes_are_counted_apart_from_other_restarts(world, tmp_path, codes, again):
    (tmp_path / "a run.crashes").write_text("3\n")  # left behind by an earlier job
    queued = []
    for restarts, code in enumerate(codes):
        count = {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
        _, calls = world(*train(tmp_path), codes=(code, 143 if code else 0), SLURM_JOB_ID="7", **count)
        queued.append("scontrol requeue 7" in calls)
    assert queued == again
    assert not (tmp_path / "a run.crashes").exists()


@pytest.mark.parametrize("task", ["0", "3"])
def test_a_task_of_an_array_is_queued_again_alone(world, tmp_path, task):
    (tmp_path / "sweep").write_text("\n" * 4)
    numbers = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": task}  # as its last task is told
    done, calls = world("--sweep", str(tmp_path / "sweep"), *train(tmp_path), codes=(75, 75), **numbers)
    assert calls[-1] == f"scontrol requeue 9_{task}" and f"job 9_{task} ended with exit code 75" in done.stdout


#: A step during which the batch shell gets SIGTERM, and which ends, as it is told to, some time after that.
SIGNALLED = """#!/usr/bin/env bash
kill -TERM $PPID
sleep 0.5
if [ -n "${CODES-}" ]; then echo "$CODES" >"$NOTE"; fi
exit "${CODES:-137}"
"""
LIMIT = "JobState=COMPLETING Reason=TimeLimit"
PASSED_ON = ["scancel --signal=TERM 7", "scontrol requeue 7"]


@pytest.mark.parametrize(
    "state, codes, checkpoint, crashes, asked, said",
    [
        (LIMIT, "", "8", None, ["scontrol requeue 7"], "newest checkpoint: 8 (start 2), to be queued again"),
        (LIMIT, "75", "8", None, ["scontrol requeue 7"], "newest checkpoint: 8 (start 2), to be queued again"),
        (
            LIMIT,
            "",
            "4",
            "2",
            ["scontrol requeue 7"],
            "newest checkpoint: 4 (start 2), crash 2 of 4, to be queued again",
        ),
        ("JobState=COMPLETING Reason=None", "75", "8", None, [], "was cancelled, or queued again by others"),
        ("", "75", "8", None, [], "was cancelled"),  # Slurm does not answer
        ("JobState=RUNNING Reason=None", "75", "8", None, PASSED_ON, "ended with exit code 75"),
        ("JobState=SIGNALING Reason=None", "75", "8", None, PASSED_ON, "ended with exit code 75"),  # still being told
    ],
)
def test_what_a_signal_to_the_shell_means(world, tmp_path, state, codes, checkpoint, crashes, asked, said):
    newest = tmp_path / "a run" / "checkpoints" / checkpoint
    (tmp_path / "bin" / "srun").write_text(SIGNALLED.replace("kill", f"mkdir -p '{newest}'\nkill"))
    (tmp_path / "a run" / "checkpoints" / "4").mkdir(parents=True)
    (tmp_path / "a run.crashes").write_text("1\n")
    told = {"STATE": state, "NOTE": str(tmp_path / "a run.exit_codes"), "CODES": codes}
    done, calls = world(*train(tmp_path), SLURM_JOB_ID="7", SLURM_RESTART_COUNT="2", **told)
    assert [call for call in calls if " show " not in call] == asked, done.stderr
    assert said in done.stdout and done.stdout.count("slurm.sbatch: ") == 1 and done.returncode != 0
    left = tmp_path / "a run.crashes"
    assert (left.read_text().strip() if left.exists() else None) == crashes


def test_a_step_that_never_started_is_told_by_srun_alone(world, tmp_path):
    (tmp_path / "bin" / "srun").write_text("#!/usr/bin/env bash\nexit 1\n")
    (tmp_path / "a run.exit_codes").write_text("75\n")  # left behind by a job that was killed
    done, calls = world(*train(tmp_path), SLURM_JOB_ID="7")
    assert done.returncode == 1 and calls == []


SWEEP = "--config.seed=1 --config.moe.num_experts=4\n\n--config.seed=$(touch,no)"


def test_an_array_task_takes_its_line_and_its_own_folder(world, tmp_path):
    (tmp_path / "sweep").write_text(SWEEP)
    arguments = ["--sweep", str(tmp_path / "sweep"), *train(tmp_path)]
    own = [["--config.seed=1", "--config.moe.num_experts=4"], [], ["--config.seed=$(touch,no)"]]
    for index, words in enumerate(own):
        _, calls = world(*arguments, SLURM_JOB_ID="9", SLURM_ARRAY_TASK_ID=str(index))
        expected = [*train(tmp_path), *words, "--distributed"]
        expected[3] += f"/{index}"
        assert commands(calls) == [expected] * 2
    equals = ["--sweep", str(tmp_path / "sweep"), "train", f"--workdir={tmp_path}/b/"]
    _, calls = world(*equals, SLURM_JOB_ID="9", SLURM_ARRAY_TASK_ID="1")
    assert commands(calls)[0] == ["train", f"--workdir={tmp_path}/b/1", "--distributed"]


def test_a_dry_run_prints_the_headers_and_what_srun_is_given(world, tmp_path):
    (tmp_path / "sweep").write_text(SWEEP)
    arguments = ["--sweep", str(tmp_path / "sweep"), *train(tmp_path)]
    done, calls = world("--dry-run", *arguments)
    lines = done.stdout.splitlines()
    headers = [line for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert done.returncode == 0 and not calls and lines[: len(headers)] == headers
    (tmp_path / "bin" / "srun").write_text(
        "#!/usr/bin/env python3\nimport json, os, sys\n"
        'open(os.environ["CALLS"], "a").write(json.dumps([os.environ["JAX_PLATFORMS"], *sys.argv[1:]]))\n'
    )
    (cpus,) = (line.partition("=")[2] for line in headers if "--cpus-per-task" in line)
    platforms, *commands = lines[len(headers) :]
    for index, line in enumerate(commands):
        job = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": str(index), "SLURM_CPUS_PER_TASK": cpus}
        _, calls = world(*arguments, **job)
        told, *given = json.loads(calls[0])
        assert shlex.split(line) == ["srun", *given] and platforms == f"export JAX_PLATFORMS={told}"
    assert len(commands) == 3 and cpus != "1"


@pytest.mark.parametrize("own, told", [(None, "cuda,cpu"), ("cpu", "cpu"), ("", "")])
def test_a_gpu_that_is_missing_is_an_error_unless_cpus_are_asked_for(world, tmp_path, own, told):
    (tmp_path / "bin" / "expressnet").write_text('#!/usr/bin/env bash\necho "told $JAX_PLATFORMS" >>"$CALLS"\n')
    _, calls = world(*train(tmp_path), SLURM_JOB_ID="7", **({} if own is None else {"JAX_PLATFORMS": own}))
    assert calls[1:] == [f"told {told}"] * 2


@pytest.mark.parametrize(
    "arguments, variables, said",
    [
        (["train", "--workdir", "w"], {}, "this is for sbatch"),
        (["train"], {"SLURM_JOB_ID": "1"}, "no --workdir"),
        (["--dry-run", "trian", "--workdir", "w"], {}, "train or evaluate, not 'trian'"),
        (["train", "--workdir", "w"], {"SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "0"}, "an array needs --sweep"),
        (
            ["--sweep", "SWEEP", "train", "--workdir", "w"],
            {"SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "5"},
            "no line 5",
        ),
        (["--dry-run", "--sweep", "SWEEP", "train", "--workdir", "w"], {}, "'rm' is not --config.KEY=VALUE"),
    ],
)
def test_mistakes_are_one_line(world, tmp_path, arguments, variables, said):
    (tmp_path / "sweep").write_text("--config.seed=1 rm -rf\n")
    arguments = [str(tmp_path / "sweep") if word == "SWEEP" else word for word in arguments]
    done, calls = world(*arguments, **variables)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1 and not calls


def slurm_parser():
    """The options of sbatch that a header here may use, with the forms that its manual gives for their values."""

    def form(pattern):
        def check(text):
            if not re.fullmatch(pattern, text):
                raise argparse.ArgumentTypeError(f"{text!r} is not {pattern}")
            return text

        return check

    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    number, name = form(r"[1-9]\d*"), form(r"[\w.-]+")
    parser.add_argument("--job-name", type=name)
    parser.add_argument("--partition", type=name)
    parser.add_argument("--nodes", type=form(r"[1-9]\d*(-[1-9]\d*)?"))
    parser.add_argument("--ntasks-per-node", type=number)
    parser.add_argument("--cpus-per-task", type=number)
    parser.add_argument("--gpus-per-node", type=form(r"([a-z]\w*:)?\d+"))
    parser.add_argument("--time", type=form(r"(\d+-)?\d+(:[0-5]\d){0,2}|\d+"))
    parser.add_argument("--signal", type=form(r"([RB]{1,2}:)?(TERM|USR1|USR2|INT|\d+)(@\d{1,5})?"))
    parser.add_argument("--open-mode", choices=("append", "truncate"))
    parser.add_argument("--output", type=form(r"([\w./-]|%[AaJjNnstux%])+"))
    parser.add_argument("--requeue", action="store_true")
    return parser


def test_slurm_reads_the_headers():
    lines = SCRIPT.read_text().splitlines()
    assert lines[0].startswith("#!")  # sbatch refuses a script without
    headers = [line for line in lines if line.startswith("#SBATCH")]
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert headers == [line for line in lines[:first_command] if line.startswith("#SBATCH")]  # later ones are not read
    found = slurm_parser().parse_args([word for line in headers for word in shlex.split(line)[1:]])
    assert found.ntasks_per_node == found.gpus_per_node  # one process a GPU
    assert found.signal == "TERM@120" and found.requeue and found.open_mode == "append"
    assert not any("gpus-per-task" in line or "gpu-bind" in line for line in headers)


@pytest.mark.parametrize("line", ["--nodes=two", "--time=24h", "--signal=TERM:120", "--requeu", "--output=%q.log"])
def test_the_parser_of_headers_knows_mistakes(line):
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        slurm_parser().parse_args([line])
