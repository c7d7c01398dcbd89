"""launch/gke: the manifests against the schemas of Kubernetes and JobSet, and what submit.sh hands over."""

import os
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from expressnet_jax import cli

GKE = Path(__file__).resolve().parent.parent.parent / "launch" / "gke"
RUN = ["train", "--config=fer2013", "--workdir", "/shared/runs/a b", '--config.x="$(NAME)" \\n ${NAME} #: & é']
NAMED = ["--name", "my-run", "--image", "us-docker.pkg.dev/p/r/e@sha256:0f"]


def submit(*arguments, path=None):
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    return subprocess.run(["bash", GKE / "submit.sh", *arguments], capture_output=True, text=True, env=environment)


def manifest(*arguments):
    """The document that a dry run prints."""
    done = submit(*arguments, "--dry-run", "--", *RUN)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "kubectl create -f - <<'END'" and lines[-1] == "END"
    return yaml.safe_load("\n".join(lines[1:-1]))


def lost(document, known, path=""):
    """Where something of the document is not in `known`, which may have more: defaults."""
    if isinstance(document, dict) and isinstance(known, dict):
        return [found for key, value in document.items() for found in lost(value, known.get(key), f"{path}.{key}")]
    if isinstance(document, list) and isinstance(known, list) and len(document) == len(known):
        pairs = enumerate(zip(document, known, strict=True))
        return [found for i, (value, other) in pairs for found in lost(value, other, f"{path}[{i}]")]
    return [] if document == known else [path]


def check_jobset(document):
    """Types and required fields by JobSet's model; what the model does not know is lost by it, and so found here."""
    assert not lost(document, JobsetV1alpha2JobSet.from_dict(document).to_dict())
    assert document["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and document["kind"] == "JobSet"
    for rule in document["spec"]["failurePolicy"]["rules"]:
        assert rule["action"] in ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts")
    for job in document["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}
        for version in ("1.33", "1.37"):
            kubernetes_validate.validate(whole, version, strict=True)


def container(document):
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    (found,) = job["template"]["spec"]["containers"]
    return job, job["template"]["spec"], found


KINDS = {
    "one slice": ["tpu", *NAMED, "--topology", "4x4"],
    "three slices": ["tpu", *NAMED, "--topology", "2x2x2", "--slices", "3", "--accelerator", "tpu-v5p-slice"],
    "GPUs": ["gpu", *NAMED, "--nodes", "4", "--queue", "team-a"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifest_fits_the_schemas(kind):
    check_jobset(manifest(*KINDS[kind]))


def test_the_schemas_find_mistakes():
    def broken(change):
        document = manifest(*KINDS["one slice"])
        change(document["spec"], *container(document))
        with pytest.raises((AssertionError, ValueError, kubernetes_validate.ValidationError)):
            check_jobset(document)

    broken(lambda spec, *_: spec["failurePolicy"].update(maxRestart=3))
    broken(lambda spec, *_: spec["failurePolicy"].update(maxRestarts="3"))
    broken(lambda spec, *_: spec["replicatedJobs"][0].update(replica=1))
    broken(lambda _, job, *__: job.update(backofLimit=0))
    broken(lambda _, job, *__: job["podFailurePolicy"]["rules"][0].pop("action"))
    broken(lambda _, __, pod, ___: pod.update(terminationGracePeriod=1))
    broken(lambda *parts: parts[-1]["volumeMounts"][0].pop("mountPath"))
    broken(lambda *parts: parts[-1].update(arg=["train"]))


def test_the_volume_fits_the_schema():
    kubernetes_validate.validate(yaml.safe_load((GKE / "volume.yaml").read_text()), "1.33", strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_what_every_manifest_must_say(kind):
    document = manifest(*KINDS[kind])
    job, pod, main = container(document)
    assert document["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == ("team-a" if kind == "GPUs" else "default")
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and {1, 2} <= set(rule["onExitCodes"]["values"]) and job["backoffLimit"] == 0
    assert not {75, 76, 134, 137, 139, 143} & set(rule["onExitCodes"]["values"])  # these start all pods again
    assert rule["onExitCodes"]["containerName"] == main["name"]
    assert document["spec"]["failurePolicy"]["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"]
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 120
    assert pod["securityContext"]["runAsNonRoot"] and not main["securityContext"]["allowPrivilegeEscalation"]
    assert main["volumeMounts"][0]["mountPath"] == "/shared"
    # Kubernetes turns $$( into $( and puts variables in for $(NAME); nothing of the kind may be left in the arguments.
    assert [word.replace("$$(", "$(") for word in main["args"]] == [*RUN, "--distributed"]
    assert not any("$(" in word.replace("$$(", "") for word in main["args"])


def test_a_slice_has_a_pod_for_each_host():
    job, pod, main = container(manifest(*KINDS["three slices"]))
    assert job["completions"] == 2 and main["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "2x2x2"
    assert manifest(*KINDS["three slices"])["spec"]["replicatedJobs"][0]["replicas"] == 3
    assert container(manifest("tpu", *NAMED, "--topology", "2x4", "--chips", "8"))[0]["completions"] == 1


def test_gpu_pods_find_the_first_one():
    document = manifest(*KINDS["GPUs"])
    job, _, main = container(document)
    variables = {entry["name"]: entry for entry in main["env"]}
    name, group = document["metadata"]["name"], document["spec"]["replicatedJobs"][0]["name"]
    host, _, port = variables["JAX_COORDINATOR_ADDRESS"]["value"].partition(":")
    assert (
        host == f"{name}-{group}-0-0.{name}"
    )  # <jobset>-<replicated job>-<job>-<pod>.<jobset>, the names JobSet gives
    assert int(port) in [entry["containerPort"] for entry in main["ports"]]
    assert variables["JAX_NUM_PROCESSES"]["value"] == str(job["completions"]) == "4"
    field = variables["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert field == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert main["resources"]["limits"] == {"nvidia.com/gpu": 8}


def test_gpu_pods_find_the_driver_or_fail():
    variables = {entry["name"]: entry.get("value") for entry in container(manifest(*KINDS["GPUs"]))[2]["env"]}
    assert variables["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64" and variables["JAX_PLATFORMS"] == "cuda,cpu"


def _checked(*words):
    done = submit("tpu", *NAMED, "--dry-run", "--", *words)
    assert done.returncode == 0 or (done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout)
    return done.stderr


@pytest.mark.parametrize(
    "words, said",
    [
        (["trian", *RUN[1:]], "the command is train or evaluate, not 'trian'"),
        (["data", "prepare", "fer2013"], "not 'data'"),
        ([*RUN, "fer2013"], "train takes no 'fer2013'"),
        ([*RUN, "--workdri", "/shared/b"], "train takes no '--workdri'"),
        ([*RUN, "--workdir.x=/shared/b"], "train takes no '--workdir.x=/shared/b'"),
        ([*RUN, "--robustness"], "train takes no '--robustness'"),
        ([*RUN, "--json=yes"], "train takes no '--json=yes'"),
        ([*RUN, "--"], "train takes no '--'"),
        ([*RUN, "-h"], "train takes no '-h'"),
        ([*RUN, "--config.batch_size", "--json"], "--config.batch_size lacks its value"),
        ([*RUN, "--data_dir"], "--data_dir lacks its value"),
        (["train", "--config.batch_size=8", "--workdir=/shared/a"], "train needs --config"),
        (["train", "--config=fer2013"], "train needs --workdir"),
        (["evaluate", "--split", "test"], "evaluate needs --workdir"),
        (["train", "--config=fer2013", "--workdir", "runs/a"], "'runs/a' is not in /shared"),
        (["train", "--config=fer2013", "--workdir=/shared/"], "'/shared/' is not in /shared"),
    ],
)
def test_a_mistyped_command_is_not_submitted(words, said):
    assert said in _checked(*words)


def test_the_commands_that_expressnet_takes_are_submitted():
    """Every option of its parser, in each form; one that is added there and not in launch/check.sh is found here."""
    for command in ("train", "evaluate"):
        (commands,) = (action.choices for action in cli.parser()._actions if action.dest == "command")
        words = [command, "--workdir=/shared/a", *["--config=fer2013"] * (command == "train")]
        options = [o for o in commands[command]._actions if o.dest not in ("help", "distributed", "config", "workdir")]
        assert len(options) >= 2
        for option in options:
            forms = [["VALUE"], []] if option.nargs is None else [[]]
            for form in forms:
                joined = "=VALUE" if option.nargs is None and not form else ""
                given = [f"{option.option_strings[0]}{joined}", *form]
                assert not _checked(*words, *given), given
    assert not _checked(
        "train", "--config", "fer2013", "--workdir", "/shared/a", "--config.a.b", "-1", "--config.c=d e"
    )


def test_what_is_submitted_is_what_a_dry_run_prints(tmp_path):
    stand_in = tmp_path / "kubectl"
    stand_in.write_text(f'#!/usr/bin/env bash\necho "$*" >"{tmp_path}/call"\ncat >"{tmp_path}/document"\n')
    stand_in.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    dry = submit(*KINDS["GPUs"], "--dry-run", "--", *RUN, path=path)
    assert not (tmp_path / "call").exists()
    done = submit(*KINDS["GPUs"], "--", *RUN, path=path)
    assert done.returncode == 0 and (tmp_path / "call").read_text() == "create -f -\n"
    assert (tmp_path / "document").read_text().splitlines() == dry.stdout.splitlines()[1:-1]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["cpu", *NAMED], "tpu or gpu"),
        (["tpu", "--name", "a\n  b: c", *NAMED[2:]], "is not a name"),
        (["tpu", "--name", "Upper", *NAMED[2:]], "is not a name"),
        (["tpu", "--name", "a" * 41, *NAMED[2:]], "longer than 40"),
        (["tpu", *NAMED[:3], "x: y"], "is not a image"),
        (["tpu", *NAMED, "--topology", "16"], "is not a topology"),
        (["tpu", *NAMED, "--topology", "3x3"], "not hosts of 4 chips"),
        (["tpu", *NAMED, "--nodes", "2"], "tpu takes no '--nodes'"),
        (["gpu", *NAMED, "--restarts"], "lacks its value"),
        (["gpu", *NAMED, "--restarts", "-1"], "is not a restarts"),
        (["gpu", *NAMED, "--queue", "a, b: c"], "is not a queue"),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    done = submit(*arguments, *([] if arguments[-1] == "--restarts" else ["--", *RUN]))
    assert done.returncode == 2 and said in done.stderr and not done.stdout
    assert done.stderr.count("submit.sh: ") == 1
