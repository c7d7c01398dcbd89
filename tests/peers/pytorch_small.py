"""The network of fer2013_small in plain PyTorch: what somebody would write instead. For speed alone, nothing is learnt.

    pip install torch
    expressnet bench step --config=fer2013_small --against "python tests/peers/pytorch_small.py"

Prints `infer images/s N` and, without --no-train, `train images/s N`: medians over --steps steps of --batch pictures.
"""

import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

# (filters, kernel, stride) of each convolution; (filters, blocks) of each stage of the ResNet; as in config/files.py.
CNNFE1 = [(32, 9, 2), (64, 5, 1), (128, 3, 1), (128, 3, 1)]
CNNFE2 = [(32, 5, 2), (64, 3, 1), (128, 3, 1), (256, 3, 1)]
STEM, STAGES = 32, [(32, 1), (64, 1), (128, 1)]
SIDE, CLASSES, WIDTH, EXPERTS, SELECTED = 48, 7, 256, 4, 2


def norm(filters):
    return nn.BatchNorm2d(filters, eps=1e-3, momentum=0.1)


def extractor(spec):
    layers, channels = [], 1
    for i, (filters, kernel, stride) in enumerate(spec):
        layers += [nn.Conv2d(channels, filters, kernel, stride, kernel // 2), nn.ReLU(), norm(filters)]
        layers += [nn.MaxPool2d(2)] * (i < len(spec) - 1)
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


def resnet():
    layers = [nn.Conv2d(1, STEM, 3, 2, 1, bias=False), norm(STEM), nn.ReLU(), nn.MaxPool2d(3, 2)]
    channels = STEM
    for stage, (filters, blocks) in enumerate(STAGES):
        for block in range(blocks):
            layers.append(Bottleneck(channels, filters, 2 if block == 0 < stage else 1, block == 0))
            channels = 4 * filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS))

    def forward(self, x):
        gates, chosen = self.gate(x).softmax(-1).topk(SELECTED)
        answers = torch.stack([functional.relu(expert(x)) for expert in self.experts], 1)  # (B, E, F)
        picked = answers.gather(1, chosen[..., None].expand(-1, -1, WIDTH))  # (B, K, F)
        return (picked * gates[..., None]).sum(1)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnnfe1, self.cnnfe2, self.resnet = extractor(CNNFE1), extractor(CNNFE2), resnet()
        side = -(-SIDE // CNNFE1[0][2]) >> (len(CNNFE1) - 1)
        self.dense = nn.Linear(side * side * CNNFE1[-1][0], WIDTH)
        self.fuse = nn.Linear(CNNFE2[-1][0] + 4 * STAGES[-1][0], WIDTH)
        self.first, self.second, self.head = Mixture(), Mixture(), nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, x):
        def drop(x):
            return functional.dropout(functional.relu(x), 0.3, self.training)

        large = drop(self.dense(self.cnnfe1(x).flatten(1)))
        fused = drop(self.fuse(torch.cat([self.cnnfe2(x).mean((2, 3)), self.resnet(x)], 1)))
        return self.head(torch.cat([self.first(large), self.second(fused)], 1))


def rate(function, steps, batch):
    for _ in range(3):
        function()
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return batch / statistics.median(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--no-train", action="store_true")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    options = parser.parse_args()
    torch.manual_seed(0)
    network = Network().to(memory_format=torch.channels_last)
    run = torch.compile(network) if options.compile else network
    x = torch.rand(options.batch, 1, SIDE, SIDE).to(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (options.batch,))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)

    def infer():
        with torch.inference_mode():
            run(x)

    def step():
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(run(x), labels, label_smoothing=0.1).backward()
        optimizer.step()

    network.eval()
    print(f"infer images/s {rate(infer, options.steps, options.batch):.1f}")
    if not options.no_train:
        network.train()
        print(f"train images/s {rate(step, options.steps, options.batch):.1f}")


if __name__ == "__main__":
    main()
