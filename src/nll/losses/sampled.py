"""Cross entropy over a sample of the classes, for catalogues too large for all of them.

The sum over the classes in l = log sum_c exp(z_c) - z_y is replaced by an unbiased estimate: the
known exp(z_y), plus exp(z_c) / e_c over the sampled classes c other than y, where e_c is the
expected number of times that c is in the sample. So the logits of the sample are lowered by log e_c
("logQ correction"), the label's is not, and a sampled class that is the label is excluded (Bengio
and Senecal 2003; Jean et al. 2015, section 3). The bias of the logarithm is O(1 / m) for m samples,
and 0 when every class is drawn once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nll import _torch
from nll.kernels import reference
from nll.losses import arguments
from nll.losses.functional import cross_entropy
from nll.losses.layer.block_sizes import sum_dtype
from nll.losses.layer.matmul import autocast, linear


def sampled_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    num_samples: int,
    *,
    sampling_probabilities: Tensor | None = None,
    linear_bias: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    temperature: float = 1.0,
    softcap: float | None = None,
    row_weights: Tensor | None = None,
    sparse: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the cross entropy of a linear layer's logits, with the sum over classes estimated from
    a sample that all rows share.

    The logits of sampled classes are corrected by the logarithm of each one's expected count; a
    sampled class that is a row's label is excluded in that row. The bias of the gradient falls as
    1 / num_samples; with every class sampled once the loss is exact.

    Args:
        input: (..., F).
        linear_weight: (C, F); only the rows of labels and sampled classes are read.
        target: labels (...), int64 or uint8.
        num_samples: number of classes to draw, at most C for the uniform sample.
        sampling_probabilities: (C), not negative; classes are drawn with replacement. None:
            uniformly, without replacement.
        linear_bias: (C).
        reduction, ignore_index, temperature, softcap, row_weights: as for `cross_entropy`.
        sparse: whether the gradient with respect to linear_weight is sparse, as for
            torch.nn.Embedding.
        generator: source of the random numbers.

    Returns: the loss in float32 for float16 and bfloat16 inputs.

    Raises: as `linear_cross_entropy`.

    Example:
        >>> hidden, head = torch.zeros(2, 8), torch.zeros(1000, 8)
        >>> nll.sampled_cross_entropy(hidden, head, torch.tensor([1, 2]), num_samples=1000)
        tensor(6.9078)
    """
    reduction = arguments.reduction(reduction, None, None)
    arguments.cross_entropy_options(temperature=temperature, softcap=softcap)
    input, linear_weight, linear_bias = autocast(input, linear_weight, linear_bias)
    rows = arguments.linear(input, linear_weight, linear_bias, None)
    classes = linear_weight.shape[0]
    arguments.sample(num_samples, sampling_probabilities, classes)
    labels = arguments.row_labels(target, rows, ignore_index).reshape(-1)
    if _torch.readable(target):
        error = arguments.label_error(target, classes, ignore_index)
        if error is not None:
            raise error
    weights = arguments.row_weights(row_weights, rows)
    x, kept = _torch.matrix(input), labels != ignore_index
    label = labels.masked_fill(~kept | (labels < 0) | (labels >= classes), 0)
    sample, log_expected = draw(
        classes, num_samples, sampling_probabilities, generator, input.device
    )
    of_label = label_logits(x, linear_weight, linear_bias, label, sparse)
    of_label = reference.scaled_logits(of_label, temperature, softcap)
    others = sample_logits(x, linear_weight, linear_bias, sample, sparse)
    others = reference.scaled_logits(others, temperature, softcap)
    others = others - log_expected.to(others.dtype)
    others = others.masked_fill(sample == label.unsqueeze(1), -torch.inf)
    first = torch.zeros_like(label).masked_fill(~kept, -100)  # the label's logit comes first
    logits = torch.cat([of_label.unsqueeze(1), others], 1)
    flat = None if weights is None else weights.reshape(-1)
    loss = cross_entropy(logits, first, reduction=reduction, row_weights=flat)
    return loss.reshape(rows) if reduction == "none" else loss


def draw(
    classes: int,
    count: int,
    probabilities: Tensor | None,
    generator: torch.Generator | None,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Return classes and the logarithm of each one's expected count: without replacement if all are
    equally likely.
    """
    if probabilities is None:
        sample = torch.randperm(classes, generator=generator, device=device)[:count]
        expected = torch.full((count,), count / classes, dtype=torch.float64, device=device)
        return sample, expected.log()
    share = probabilities.double() / probabilities.double().sum()
    # By inversion: torch.multinomial takes 2^24 classes at most.
    uniform = torch.rand(count, dtype=torch.float64, generator=generator, device=device)
    sample = torch.searchsorted(share.cumsum(0), uniform, right=True).clamp(max=classes - 1)
    return sample, torch.log(count * share[sample])


def sample_logits(
    input: Tensor, head: Tensor, bias: Tensor | None, sample: Tensor, sparse: bool
) -> Tensor:
    rows = F.embedding(sample, head, sparse=sparse)
    return linear(input, rows, None if bias is None else bias[sample])


def label_logits(
    input: Tensor, head: Tensor, bias: Tensor | None, label: Tensor, sparse: bool
) -> Tensor:
    rows = F.embedding(label, head, sparse=sparse)
    if input.dtype is torch.float16:  # the gradient may not fit float16 before it is scaled
        input, rows, bias = input.float(), rows.float(), None if bias is None else bias.float()
    z = (input * rows).sum(1, dtype=sum_dtype(input))
    return z if bias is None else z + bias[label]
