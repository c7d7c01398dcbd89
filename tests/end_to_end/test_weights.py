"""Training that starts from a file of weights."""

import json

import numpy as np
from safetensors.numpy import save_file

from expressnet_jax.config import files as config_files
from expressnet_jax.models import canonical, expressnet
from tests.conftest import TINY
from tests.conftest import expressnet as run


def test_a_run_starts_from_a_file_sets_preprocessing_and_refuses_what_does_not_fit(tmp_path, data_dir):
    config = config_files.load(TINY)
    named = canonical.to_canonical(expressnet.create(config, 7))
    backbone = {name: np.ascontiguousarray(value) for name, value in named.items() if name.startswith("resnet/")}
    expected = {"color_order": "rgb", "normalize": "standard", "mean": 0.5, "std": 0.25, "antialias": False}
    about = {"about": json.dumps({"preprocess": expected})}
    save_file(backbone, tmp_path / "resnet.safetensors", metadata=about)
    command = ["train", f"--config={TINY}", "--data_dir", data_dir, "--config.total=1steps",
               "--config.optimizer.learning_rate=1e-12", "--config.ema.decay=0.0"]  # fmt: skip
    start = f"--config.init.backbone={tmp_path / 'resnet.safetensors'}"
    done = run(*command, start, "--workdir", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    assert f"{len(backbone)} arrays loaded" in done.stderr
    found = json.loads(run("inspect", tmp_path / "run", "--json").stdout)
    assert found["preprocessing"]["normalize"] == "standard"
    again = run(*command, start, "--workdir", tmp_path / "run", "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["result"] == "finished after 1 step", again.stderr

    broken = dict(backbone)
    del broken["resnet/conv1/kernel"]
    save_file(broken, tmp_path / "broken.safetensors", metadata=about)
    (tmp_path / "garbage.h5").write_bytes(b"garbage" * 99)
    for name, words in (("broken.safetensors", "resnet/conv1/kernel"), ("garbage.h5", "garbage.h5")):
        refused = run(*command, f"--config.init.backbone={tmp_path / name}", "--workdir", tmp_path / "none")
        assert refused.returncode == 1 and words in refused.stderr, refused.stderr
        assert refused.stderr.count("\n") == 1 and not (tmp_path / "none").exists()
