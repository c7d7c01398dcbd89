"""The best weights of a run: for evaluation, or as the start of another one, with more experts where asked.

Legend: D in, E experts.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_pipelines.common.errors import DataError
from expressnet_jax.checkpoint import weight_import
from expressnet_jax.checkpoint.manager import CheckpointError, Manager
from expressnet_jax.checkpoint.weight_files import Imported
from expressnet_jax.config import Clock, Config
from expressnet_jax.models import canonical, expressnet
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import folder as run_folder
from expressnet_jax.runs import optimizer as optimizers
from expressnet_jax.runs import state as states


def restore_best(
    config: Config, workdir: Path, mesh: jax.sharding.Mesh, *, step: int | None = None
) -> tuple[states.State, int]:
    """The state of a run's best checkpoint on this mesh, and its step; or of the checkpoint at `step`."""
    with Manager(workdir / run_folder.CHECKPOINTS, read_only=True) as manager:
        best = manager.best_step() if step is None else step
        if best is None:
            raise CheckpointError(f"{workdir} has no checkpoint yet")
        if best not in manager.steps():
            there = ", ".join(map(str, manager.steps()))
            raise CheckpointError(f"{workdir} has no checkpoint of step {best}; it has {there}")
        # The clock shapes no array: any number of examples gives the optimizer the same state.
        optimizer = optimizers.create(config, Clock(config.batch_size, config.batch_size, 1))
        abstract = states.abstract(config, optimizer, mesh)
        return states.State(**manager.restore(best, abstract._asdict())), best


def expected_config(config: Config, workdir: Path) -> Config:
    """`config` with the preprocessing that the weights of `init.weights` and `init.backbone` expect.

    An existing run keeps the preprocessing that it began with. Raises WeightsError where a file cannot be read.
    """
    if not (config.init.weights or config.init.backbone) or not config.init.preprocess:
        return config
    if (workdir / "config.json").exists():
        return dataclasses.replace(config, preprocess=run_folder.read_config(workdir).preprocess)
    preprocess = config.preprocess
    for imported in _imported(config):
        preprocess = dataclasses.replace(preprocess, **imported.preprocessing)
    return dataclasses.replace(config, preprocess=preprocess)


def initial_model(config: Config) -> tuple[expressnet.ExpressNet | None, list[str]]:
    """The network that a new run starts from where `config.init` names one, with lines for the user; else (None, []).

    Raises DataError or WeightsError where the weights do not fit.
    """
    if config.init.run:
        return model_from_run(config), []
    files = _imported(config)
    if not files:
        return None, []
    model, lines = expressnet.create(config, config.seed), []
    for imported in files:
        report = weight_import.apply(model, imported, strict=config.init.strict)
        lines += [report.describe(), weight_import.mismatch(imported, config.preprocess)]
    return model, [line for line in lines if line]


def _imported(config: Config) -> list[Imported]:
    parts = ((config.init.weights, False), (config.init.backbone, True))
    return [weight_import.load(Path(file).expanduser(), config, backbone=part) for file, part in parts if file]


def from_model(model: nnx.Module, state: states.State) -> states.State:
    """`state` with the weights of a network, each where it lies in `state`."""
    made = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
    new = {key: nnx.to_pure_dict(nnx.state(model, kind)) for key, kind in made.items()}
    old = {key: getattr(state, key) for key in made}
    placed = jax.tree.map(lambda new, old: jax.device_put(np.asarray(new), old.sharding), new, old)
    return state._replace(**placed, ema=jax.tree.map(jnp.copy, placed) if state.ema else {})


def model_from_run(config: Config) -> expressnet.ExpressNet:
    """The network of `config` with the weights of the best checkpoint in the folder `config.init.run`.

    Raises DataError where the two networks differ in more than the number of experts, which may only grow.
    """
    folder = Path(config.init.run).expanduser()
    source = run_folder.read_config(folder)
    if source.model.parts != config.model.parts:
        raise DataError(
            f"init.run={folder} has the parts {', '.join(source.model.parts)}, and this network "
            f"{', '.join(config.model.parts)}; a run starts from one with the same parts (model.network, model.without)"
        )
    before, after = source.moe.num_experts, config.moe.num_experts
    if before > after:
        raise DataError(f"init.run={folder} has {before} experts, more than moe.num_experts={after}; none is removed")
    restored, _ = restore_best(source, folder, meshes.for_evaluation(source))
    named = canonical.to_canonical(nnx.merge(states.graph(source), *states.weights(restored)))
    rng = np.random.default_rng(config.seed)
    for layer in expressnet.routed_layers(config):
        named = grown(named, layer, before, after, config.init.perturbation, rng)
    model = expressnet.create(config)
    try:
        canonical.from_canonical(model, named)
    except canonical.NamesError as error:
        raise DataError(f"init.run={folder} does not fit this network: {error}") from None
    return model


def grown(
    named: dict[str, np.ndarray], layer: str, before: int, after: int, perturbation: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Canonical weights of a layer with `after` experts from one with `before`.

    Expert e is a copy of expert e % before, and so is its column (D,) of the router; copies are perturbed, so that they
    diverge. The softmax now shares its probability among copies: outputs are not the same until it is trained again.
    """
    result = dict(named)
    for e in range(before, after):
        prefix = f"{layer}/expert{e % before}/"
        for name in [name for name in named if name.startswith(prefix)]:
            result[name.replace(prefix, f"{layer}/expert{e}/")] = _perturbed(named[name], perturbation, rng)
    source = np.arange(after) % before
    for name in (f"{layer}/gate/kernel", f"{layer}/gate/bias", f"{layer}/selection_bias"):
        if name in named:
            value = named[name][..., source]
            value[..., before:] = _perturbed(value[..., before:], perturbation, rng)
            result[name] = value
    return result


def _perturbed(value: np.ndarray, perturbation: float, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(value.shape) * (perturbation * value.std() if value.size else 0.0)
    return (value + noise).astype(value.dtype)
