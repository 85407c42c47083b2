"""Train a small GPT on the first 42 chapters of Moby-Dick, its output layer and loss in one call
that holds no scores.

    python examples/gpt.py              # 200 steps, then the perplexity of text that it has not
    seen python examples/gpt.py --compare    # the same steps with PyTorch's loss: curves and peak
    memory, in fresh processes

Words and punctuation marks are the tokens, some 9 700 of them. The model is GPT-2's in small:
blocks of attention and of a two-layer perceptron, each after a normalisation and added to its
input; the head is the table of the tokens.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nll

TEXT = Path(__file__).parent / "moby-dick.txt"
WIDTH, HEADS, DEPTH, LENGTH, BATCH = 64, 4, 2, 128, 8
# bytes for the output layer and its loss; the scores of a batch would take 40 MB in float32
MEMORY = 4_000_000


def tokens_of(text: str) -> tuple[Tensor, list[str]]:
    """The numbers of the text's words and marks, and what each number stands for."""
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    vocabulary = sorted(set(words))
    number = {word: i for i, word in enumerate(vocabulary)}
    return torch.tensor([number[word] for word in words]), vocabulary


class Block(nn.Module):
    """x + attention(x), then x + perceptron(x)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query_key_value, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = self.query_key_value(self.norm_1(x)).chunk(3, -1)
        by_head = [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts]
        seen = F.scaled_dot_product_attention(*by_head, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.perceptron(self.norm_2(x))


class GPT(nn.Module):
    """Tokens (batch, length) to the features (batch, length, WIDTH) from which the next token is
    guessed.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        nn.init.normal_(self.token.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.blocks(self.token(tokens) + self.position.weight[: tokens.shape[1]]))


def fused(features: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    return nll.linear_cross_entropy(features, head, labels, max_memory=MEMORY)


def pytorch(features: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(features, head).flatten(0, 1), labels.flatten())


def pytorch_in_blocks(features: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """The same loss summed over 100 rows at a time: what rounding alone may do to a training
    run.
    """
    rows = zip(features.flatten(0, 1).split(100), labels.flatten().split(100), strict=True)
    return (
        sum(F.cross_entropy(F.linear(x, head), y, reduction="sum") for x, y in rows)
        / labels.numel()
    )  # type: ignore[return-value]


LOSSES = {"nll": fused, "pytorch": pytorch, "pytorch in blocks": pytorch_in_blocks}


def batches(tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Random pieces of the text, and what follows each token."""
    draw = torch.Generator().manual_seed(0)
    while True:
        start = torch.randint(len(tokens) - LENGTH, (BATCH, 1), generator=draw)
        at = start + torch.arange(LENGTH)
        yield tokens[at], tokens[at + 1]


def train(
    loss_of, steps: int, dtype: torch.dtype, tokens: Tensor, vocabulary: int
) -> tuple[GPT, list[float]]:
    """A model from random weights, the same for every loss, and its loss at each step."""
    torch.manual_seed(0)
    model = GPT(vocabulary).to(dtype)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for (inputs, labels), _ in zip(batches(tokens), range(steps), strict=False):
        loss = loss_of(model(inputs), model.token.weight, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return model, losses


@torch.no_grad()
def perplexity(model: GPT, tokens: Tensor) -> nll.Estimate:
    """Of text in pieces; their tokens depend on each other, so the error is that of a sample of
    pieces.
    """
    pieces = tokens[: (len(tokens) - 1) // LENGTH * LENGTH + 1]
    inputs, labels = pieces[:-1].view(-1, LENGTH), pieces[1:].view(-1, LENGTH)
    found = (
        nll.token_statistics(model(x), y, linear_weight=model.token.weight, max_memory=MEMORY)
        for x, y in zip(inputs.split(BATCH), labels.split(BATCH), strict=True)
    )
    return nll.perplexity(found, clusters="sequence")


def peak() -> int:
    """Bytes of this process that were resident at most; the system counts in 1024, macOS in
    bytes.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def measured(name: str, steps: int, dtype: str) -> dict:
    """Losses and memory of a run in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--loss",
        name,
        "--steps",
        str(steps),
        "--dtype",
        dtype,
        "--json",
    ]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def compare(steps: int) -> None:
    for dtype in ("float64", "float32"):
        runs = {name: measured(name, steps, dtype) for name in LOSSES}
        truth = runs["pytorch"]["losses"]
        print(f"{dtype}, {steps} steps: loss {truth[0]:.4f} to {truth[-1]:.4f}")
        for name, run in runs.items():
            furthest = max(abs(a - b) for a, b in zip(run["losses"], truth, strict=True))
            print(
                f"  {name:18} furthest from pytorch's {furthest:.1e}, peak "
                f"{run['peak'] / 1e6:.0f} MB"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--loss", choices=LOSSES, default="nll")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--json", action="store_true", help="print losses and peak memory only")
    options = parser.parse_args()
    if options.compare:
        return compare(options.steps)
    tokens, vocabulary = tokens_of(TEXT.read_text(encoding="utf-8"))
    seen, unseen = tokens[: len(tokens) * 9 // 10], tokens[len(tokens) * 9 // 10 :]
    model, losses = train(
        LOSSES[options.loss], options.steps, getattr(torch, options.dtype), seen, len(vocabulary)
    )
    if options.json:
        return print(json.dumps({"losses": losses, "peak": peak()}))
    for step in range(0, options.steps, 20):
        print(f"step {step:4}  loss {losses[step]:.4f}")
    found = perplexity(model, unseen)
    print(
        f"unseen text: perplexity {found.value:.1f} +- {found.standard_error:.1f} (of "
        f"{len(vocabulary)} tokens)"
    )


if __name__ == "__main__":
    main()
