"""The network in plain PyTorch: what somebody would write instead. For speed alone, nothing is learnt.

    pip install torch
    expressnet bench step --config=fer2013_small --against "python tests/peers/pytorch.py"
    expressnet bench step --config=fer2013 --config.model.dtype=bfloat16 --config.batch_size=128 \
        --against "python tests/peers/pytorch.py --preset paper --device cuda --amp --compile"

Prints `infer images/s N` and, without --no-train, `train images/s N`: medians over --steps steps of --batch pictures.
"""

import argparse
import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

CLASSES, EXPERTS, SELECTED = 7, 4, 2


@dataclass(frozen=True)
class Sizes:
    """(filters, kernel, stride) of each convolution; (filters, blocks) of each stage; as in config/files.py."""

    side: int
    channels: int
    cnnfe1: tuple
    cnnfe2: tuple
    stem: tuple
    stages: tuple
    width: int
    unpooled: tuple = ()  # of cnnfe2's convolutions, from 1
    normalized: bool = False  # BatchNorm before the relu of the dense layers


PRESETS = {
    "small": Sizes(
        side=48, channels=1, stem=(16, 3), stages=((16, 1), (32, 1), (64, 1)), width=256, normalized=True,
        cnnfe1=((16, 9, 2), (32, 5, 1), (64, 3, 1), (128, 3, 1)),
        cnnfe2=((32, 3, 1), (64, 3, 1), (128, 3, 1), (256, 3, 1), (256, 3, 1)),
    ),
    "paper": Sizes(
        side=224, channels=3, stem=(64, 7), stages=((64, 3), (128, 4), (256, 6), (512, 3)), width=512,
        cnnfe1=((8, 75, 1), (16, 50, 1), (32, 25, 1), (64, 15, 1), (128, 9, 1), (256, 3, 1)),
        cnnfe2=((16, 15, 1), (32, 7, 1), (64, 5, 1), (128, 3, 1), (256, 3, 1)),
    ),
}  # fmt: skip


def norm(filters):
    return nn.BatchNorm2d(filters, eps=1e-3, momentum=0.1)


def convolution(channels, filters, kernel, stride):
    # PyTorch pads an even kernel on both sides alike only where it has no stride, which holds here.
    padding = kernel // 2 if kernel % 2 else "same"
    return nn.Conv2d(channels, filters, kernel, stride, padding)


def extractor(channels, spec, unpooled=()):
    layers = []
    for i, (filters, kernel, stride) in enumerate(spec, start=1):
        layers += [convolution(channels, filters, kernel, stride), nn.ReLU(), norm(filters)]
        layers += [nn.MaxPool2d(2)] * (i < len(spec) and i not in unpooled)
        channels = filters
    return nn.Sequential(*layers)


class Bottleneck(nn.Module):
    def __init__(self, channels, filters, stride, project):
        super().__init__()

        def conv(channels, filters, kernel, stride=1):
            return nn.Sequential(nn.Conv2d(channels, filters, kernel, stride, kernel // 2, bias=False), norm(filters))

        self.reduce, self.middle = conv(channels, filters, 1, stride), conv(filters, filters, 3)
        self.increase = conv(filters, 4 * filters, 1)
        self.shortcut = conv(channels, 4 * filters, 1, stride) if project else nn.Identity()

    def forward(self, x):
        y = functional.relu(self.middle(functional.relu(self.reduce(x))))
        return functional.relu(self.increase(y) + self.shortcut(x))


def resnet(sizes):
    stem, kernel = sizes.stem
    layers = [nn.Conv2d(sizes.channels, stem, kernel, 2, kernel // 2, bias=False), norm(stem), nn.ReLU()]
    layers += [nn.MaxPool2d(3, 2)]
    channels = stem
    for stage, (filters, blocks) in enumerate(sizes.stages):
        for block in range(blocks):
            layers.append(Bottleneck(channels, filters, 2 if block == 0 < stage else 1, block == 0))
            channels = 4 * filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def dense(channels, filters, normalized):
    if not normalized:
        return nn.Linear(channels, filters)
    norm = nn.BatchNorm1d(filters, eps=1e-3, momentum=0.1)
    return nn.Sequential(nn.Linear(channels, filters, bias=False), norm)


class Mixture(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gate, self.width = nn.Linear(width, EXPERTS), width
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(EXPERTS))

    def forward(self, x):
        gates, chosen = self.gate(x).softmax(-1).topk(SELECTED)
        answers = torch.stack([functional.relu(expert(x)) for expert in self.experts], 1)  # (B, E, F)
        picked = answers.gather(1, chosen[..., None].expand(-1, -1, self.width))  # (B, K, F)
        return (picked * gates[..., None]).sum(1)


class Network(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        first, last, width = sizes.cnnfe1[0], sizes.cnnfe1[-1], sizes.width
        self.cnnfe1 = extractor(sizes.channels, sizes.cnnfe1)
        self.cnnfe2 = extractor(sizes.channels, sizes.cnnfe2, sizes.unpooled)
        self.resnet = resnet(sizes)
        side = -(-sizes.side // first[2]) >> (len(sizes.cnnfe1) - 1)
        self.dense = dense(side * side * last[0], width, sizes.normalized)
        self.fuse = dense(sizes.cnnfe2[-1][0] + 4 * sizes.stages[-1][0], width, sizes.normalized)
        self.first, self.second, self.head = Mixture(width), Mixture(width), nn.Linear(2 * width, CLASSES)

    def forward(self, x):
        def drop(x):
            return functional.dropout(functional.relu(x), 0.3, self.training)

        large = drop(self.dense(self.cnnfe1(x).flatten(1)))
        fused = drop(self.fuse(torch.cat([self.cnnfe2(x).mean((2, 3)), self.resnet(x)], 1)))
        return self.head(torch.cat([self.first(large), self.second(fused)], 1))


def rate(function, options):
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    for _ in range(3):
        function()
    seconds = []
    for _ in range(options.steps):
        wait()
        began = time.perf_counter()
        function()
        wait()
        seconds.append(time.perf_counter() - began)
    return options.batch / statistics.median(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 by autocast")
    parser.add_argument("--no-train", action="store_true")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    sizes = PRESETS[options.preset]
    network = Network(sizes).to(options.device, memory_format=torch.channels_last)
    run = torch.compile(network) if options.compile else network
    x = torch.rand(options.batch, sizes.channels, sizes.side, sizes.side, device=options.device)
    x = x.to(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (options.batch,), device=options.device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=options.device == "cuda")
    precision = torch.autocast(options.device, torch.bfloat16, enabled=options.amp)

    def infer():
        with torch.inference_mode(), precision:
            run(x)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with precision:
            loss = functional.cross_entropy(run(x), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()

    network.eval()
    print(f"infer images/s {rate(infer, options):.1f}")
    if not options.no_train:
        network.train()
        print(f"train images/s {rate(step, options):.1f}")


if __name__ == "__main__":
    main()
