"""Cross entropy over a sample of the classes, for catalogues too large for all of them.

The sum over the classes in l = log sum_c exp(z_c) - z_y is replaced by an estimate without bias:
exp(z_y), which is known, plus exp(z_c) / e_c over the sampled classes c other than y, where e_c is
how often c is expected in the sample. So the scores of the sample are lowered by log e_c ("logQ
correction"), the label's is not, and a sampled class that is the label counts for nothing (Bengio
and Senecal 2003; Jean et al. 2015, section 3). The logarithm of the estimate is biased by O(1 / m)
for m samples, and exact when every class is drawn once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nll.losses.matmul import linear


def draw(
    classes: int,
    count: int,
    probabilities: Tensor | None,
    generator: torch.Generator | None,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Classes, and the logarithm of how often each is expected: without replacement if all are
    equally likely.
    """
    if probabilities is None:
        chosen = torch.randperm(classes, generator=generator, device=device)[:count]
        return chosen, torch.log(
            torch.full((count,), count / classes, dtype=torch.float64, device=device)
        )
    share = probabilities.double() / probabilities.double().sum()
    # By inversion: torch.multinomial takes 2^24 classes at most.
    at = torch.rand(count, dtype=torch.float64, generator=generator, device=device)
    chosen = torch.searchsorted(share.cumsum(0), at, right=True).clamp(max=classes - 1)
    return chosen, torch.log(count * share[chosen])


def scores(
    input: Tensor, head: Tensor, bias: Tensor | None, chosen: Tensor, sparse: bool
) -> Tensor:
    """The scores (N, m) of the chosen classes."""
    return linear(
        input, F.embedding(chosen, head, sparse=sparse), None if bias is None else bias[chosen]
    )


def label_scores(
    input: Tensor, head: Tensor, bias: Tensor | None, label: Tensor, sparse: bool
) -> Tensor:
    """The score (N) of each row's own class."""
    rows = F.embedding(label, head, sparse=sparse)
    if input.dtype is torch.float16:  # not before its gradient is known to fit
        input, rows, bias = input.float(), rows.float(), None if bias is None else bias.float()
    z = (input * rows).sum(1, dtype=torch.promote_types(input.dtype, torch.float32))
    return z if bias is None else z + bias[label]
