"""One step of training, a pure function from state and batch to state and sums, and the compiled programs of a run.

Legend: B global batch, A micro-batches, C colour channels, S picture side, E experts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from expressnet_jax.config import Clock, Config
from expressnet_jax.evaluation import answers as answering
from expressnet_jax.models import expressnet, preprocess
from expressnet_jax.moe import router
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import optimizer as optimizers
from expressnet_jax.runs import state as states
from expressnet_jax.runs.state import State
from expressnet_jax.train import augment

Metrics = dict[str, jax.Array]  # sums over examples or steps; "nonfinite" and "learning_rate" are the latest ones
Batch = dict[str, jax.Array]


class Programs(NamedTuple):
    """What runs on the devices; every part under `jax.set_mesh` of the mesh that it was made for."""

    optimizer: optax.GradientTransformation
    step: Any  # jitted (state, sums, batch) -> (state, sums); the state is donated
    zero_sums: Any  # jitted () -> the sums before an interval
    count: Any  # of `answering.counter`, for the validation


def programs(config: Config, clock: Clock, mesh: jax.sharding.Mesh) -> Programs:
    """The programs of a config on a mesh, for the loop, benchmarks and plans; nothing is compiled yet."""
    optimizer, rate = optimizers.create(config, clock), optimizers.schedule(config, clock)
    # Said here and not left to the compiler: what every process reads must lie whole on each of them.
    everywhere = meshes.replicated(mesh)
    shardings = (states.shardings(config, optimizer, mesh), everywhere)
    step = train_step(config, states.graph(config), optimizer, rate)
    return Programs(
        optimizer,
        jax.jit(step, donate_argnums=0, out_shardings=shardings),
        jax.jit(lambda: zero_sums(config), out_shardings=everywhere),
        answering.counter(config, mesh),
    )


def train_step(
    config: Config, graph: Any, optimizer: optax.GradientTransformation, rate: optax.Schedule
) -> Callable[..., Any]:
    """Makes `step(state, sums, batch) -> (state, sums)`; `rate` is the optimizer's schedule, to be recorded.

    Everything random is a function of (seed, step, example), so it depends on neither devices nor restarts. A
    non-finite gradient leaves parameters, statistics and optimizer as they were; the step still counts.
    """

    def step(state: State, sums: Metrics, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        images, targets = _inputs(config, batch, jax.random.fold_in(key, 0))
        examples = {"image": images, "target": targets, "label": batch["label"], "mask": batch["mask"]}
        a = config.optimizer.accumulate
        # (B, ...) -> (A, B/A, ...), every micro-batch taking from all devices, so that no picture changes its device.
        parts = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(len(x) // a, a, *x.shape[1:]), 0, 1), examples)
        gradients, stats, metrics = _gradients(config, graph, state, parts, jax.random.fold_in(key, 1))
        norm = optax.tree.norm(gradients)
        new = _update(config, optimizer, state, gradients, stats)
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
        skipped = jnp.stack([jnp.where(finite, 0, state.nonfinite[0] + 1), state.nonfinite[1] + ~finite])
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        kept = kept._replace(step=state.step + 1, nonfinite=skipped)
        metrics = jax.tree.map(lambda m: jnp.where(finite, m, jnp.zeros_like(m)), metrics)
        metrics |= {"gradient_norm": jnp.where(finite, norm, 0.0), "steps": finite.astype(jnp.float32)}
        latest = {"nonfinite": skipped, "learning_rate": jnp.asarray(rate(state.step), jnp.float32)}
        return kept, {name: sums[name] + value for name, value in metrics.items()} | latest

    return step


def zero_sums(config: Config) -> Metrics:
    """The sums before the first step of an interval."""
    e, classes = config.moe.num_experts, len(config.data.classes)
    scalars = ("loss", "auxiliary", "correct", "count", "gradient_norm", "steps")
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(scalars, ())
    for layer in expressnet.routed_layers(config):
        each = {"load": (e,), "first": (e,), "importance": (e,), "entropy": (), "dropped": (), "classes": (e, classes)}
        shapes |= {f"{layer}/{name}": shape for name, shape in each.items()}
    latest = {"nonfinite": jnp.zeros((2,), jnp.int32), "learning_rate": jnp.zeros(())}
    return {name: jnp.zeros(shape) for name, shape in shapes.items()} | latest


def _inputs(config: Config, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """uint8 pictures (B, H, W, C) to network inputs (B, S, S, 3), labels to smoothed targets (B, classes)."""
    images = preprocess.resize(batch["image"], config.model.image_size, antialias=config.preprocess.antialias)
    targets = batch["votes"] if "votes" in batch else jax.nn.one_hot(batch["label"], len(config.data.classes))
    images, targets = augment.augment(images, targets, batch["index"], key, config.augment)
    return preprocess.normalize(images, config.preprocess), optax.smooth_labels(targets, config.label_smoothing)


def _gradients(config: Config, graph: Any, state: State, parts: Batch, key: jax.Array) -> tuple[Any, Any, Metrics]:
    """Mean gradient over the micro-batches, BatchNorm statistics after the last one, metric sums."""
    count = parts["label"].shape[0]
    balancing = any(getattr(config.moe, name) for name in router.LOSSES)

    def forward(params: Any, stats: Any, part: Batch, number: jax.Array) -> tuple[expressnet.Output, Any]:
        model = nnx.merge(graph, params, stats)
        rngs = nnx.Rngs(dropout=jax.random.fold_in(key, number))
        output = model(part["image"], part["mask"], train=True, rngs=rngs)
        return output, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    def loss(params: Any, stats: Any, part: Batch, number: jax.Array, routed: Any) -> tuple[jax.Array, Any]:
        output, stats = forward(params, stats, part, number)
        losses = optax.softmax_cross_entropy(output.logits, part["target"])
        own = {layer: routing.sums for layer, routing in output.routing.items()}
        auxiliary = sum((_auxiliary(config, own[layer], routed, layer, count) for layer in own), start=jnp.zeros(()))
        metrics = {"loss": losses.sum(), "auxiliary": auxiliary / count, **_counts(config, part, output)}
        return losses.mean() + auxiliary, (stats, metrics)

    def routing_of_all(stats: Any) -> Any:
        """The router's sums over all micro-batches, by one more forward pass of each."""

        def add(stats: Any, part_and_number: Any) -> tuple[Any, Any]:
            output, stats = forward(state.params, stats, *part_and_number)
            return stats, {layer: routing.sums for layer, routing in output.routing.items()}

        return jax.tree.map(lambda s: s.sum(0), jax.lax.scan(add, stats, (parts, jnp.arange(count)))[1])

    differentiate = jax.grad(loss, has_aux=True)
    if count == 1:
        only = jax.tree.map(lambda v: v[0], parts)
        gradients, (stats, metrics) = differentiate(state.params, state.batch_stats, only, 0, None)
        return gradients, stats, metrics
    routed = routing_of_all(state.batch_stats) if balancing else None

    def add(carry: Any, part_and_number: Any) -> tuple[Any, Metrics]:
        total, stats = carry
        gradients, (stats, metrics) = differentiate(state.params, stats, *part_and_number, routed)
        return (jax.tree.map(jnp.add, total, gradients), stats), metrics

    start = (jax.tree.map(jnp.zeros_like, state.params), state.batch_stats)
    (total, stats), metrics = jax.lax.scan(add, start, (parts, jnp.arange(count)))
    return jax.tree.map(lambda g: g / count, total), stats, jax.tree.map(lambda m: m.sum(0), metrics)


def _auxiliary(config: Config, own: router.Sums, routed: dict[str, router.Sums] | None, layer: str, count: int) -> Any:
    """The auxiliary loss of a layer over the whole batch, differentiable in the sums `own` of one of its micro-batches.

    The loss is a function of sums over the whole batch, `routed`; so with respect to a micro-batch's part of them it
    has the slopes found there, times `count`, since gradients are averaged over the micro-batches.
    """
    if routed is None:  # the part is the whole
        return router.weighted_loss(own, config.moe)
    value, slopes = jax.value_and_grad(router.weighted_loss)(jax.lax.stop_gradient(routed[layer]), config.moe)
    moved = sum(jax.tree.leaves(jax.tree.map(lambda slope, part: (slope * part).sum(), slopes, own)), jnp.zeros(()))
    return value + count * (moved - jax.lax.stop_gradient(moved))


def _counts(config: Config, part: Batch, output: expressnet.Output) -> Metrics:
    """Sums over a micro-batch that are only recorded."""
    counts = {
        "correct": (output.logits.argmax(-1) == part["label"]).sum().astype(jnp.float32),
        "count": jnp.asarray(part["label"].shape[0], jnp.float32),
    }
    classes = jax.nn.one_hot(part["label"], len(config.data.classes))  # (B, classes)
    for layer, routing in output.routing.items():
        selected = router.spread(routing.chosen, jnp.ones_like(routing.gates), config.moe.num_experts)  # (B, E)
        first, sums = jax.nn.one_hot(routing.chosen[:, 0], config.moe.num_experts).sum(0), routing.sums
        counts |= {
            f"{layer}/load": sums.load, f"{layer}/first": first, f"{layer}/importance": sums.importance,
            f"{layer}/entropy": sums.entropy, f"{layer}/dropped": sums.dropped,
            f"{layer}/classes": jnp.einsum("be,bc->ec", selected, classes),
        }  # fmt: skip
    return counts


def _update(config: Config, optimizer: optax.GradientTransformation, state: State, gradients: Any, stats: Any) -> State:
    if config.mesh.shard_optimizer:
        gradients = meshes.split_over_data(gradients)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema:
        # Early on the average follows quickly, or it would remember the random start for 1 / (1 - decay) steps.
        decay = jnp.minimum(config.ema.decay, (1 + state.step) / (10 + state.step))
        ema = optax.incremental_update({"params": params, "batch_stats": stats}, ema, 1 - decay)
    return state._replace(params=params, batch_stats=stats, opt_state=opt_state, ema=ema)
