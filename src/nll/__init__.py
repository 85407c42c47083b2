"""Maximum likelihood: the negative log-likelihood as a loss and as an estimator."""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nll._version import __version__

if TYPE_CHECKING:
    from nll.data.observations import censored, truncated
    from nll.data.stream import Stream
    from nll.data.weights import importance, sampling
    from nll.derivation import Derivation, derive
    from nll.estimation.fit import fit
    from nll.estimation.likelihood import Likelihood
    from nll.estimation.result import Fit
    from nll.families.compound import shifted, zero_inflated
    from nll.families.distributions import GeneralizedExtremeValue, InverseGaussian, SkewNormal
    from nll.families.mixture import mixture
    from nll.losses.dispatch import check_labels, use_backend
    from nll.losses.explain import Explanation, explain
    from nll.losses.functional import cross_entropy, linear_cross_entropy, log_softmax, nll_loss
    from nll.losses.layer.kl_divergence import linear_kl_divergence
    from nll.losses.modules import CrossEntropyLoss, LinearCrossEntropyLoss, LogSoftmax, NLLLoss
    from nll.losses.sampled import sampled_cross_entropy
    from nll.losses.token_statistics import (
        Estimate,
        TokenStatistics,
        accuracy,
        perplexity,
        token_statistics,
    )
    from nll.regression.choice.data import choices_long
    from nll.regression.choice.estimator import ConditionalLogit
    from nll.regression.softmax.estimator import SoftmaxRegression
    from nll.selection.compare import Comparison, compare
    from nll.selection.goodness_of_fit import GoodnessOfFit, goodness_of_fit
    from nll.selection.most_likely import Choice, most_likely

__all__ = [
    "Choice",
    "Comparison",
    "ConditionalLogit",
    "CrossEntropyLoss",
    "Derivation",
    "Estimate",
    "Explanation",
    "Fit",
    "GeneralizedExtremeValue",
    "GoodnessOfFit",
    "InverseGaussian",
    "Likelihood",
    "LinearCrossEntropyLoss",
    "LogSoftmax",
    "NLLLoss",
    "SkewNormal",
    "SoftmaxRegression",
    "Stream",
    "TokenStatistics",
    "__version__",
    "accuracy",
    "censored",
    "check_labels",
    "choices_long",
    "compare",
    "cross_entropy",
    "derive",
    "explain",
    "fit",
    "goodness_of_fit",
    "importance",
    "linear_cross_entropy",
    "linear_kl_divergence",
    "log_softmax",
    "mixture",
    "most_likely",
    "nll_loss",
    "perplexity",
    "sampled_cross_entropy",
    "sampling",
    "shifted",
    "token_statistics",
    "truncated",
    "use_backend",
    "zero_inflated",
]

# The module of each name, imported when the name is first asked for.
_HOME = {
    "Choice": "nll.selection.most_likely",
    "Comparison": "nll.selection.compare",
    "ConditionalLogit": "nll.regression.choice.estimator",
    "CrossEntropyLoss": "nll.losses.modules",
    "Derivation": "nll.derivation",
    "Estimate": "nll.losses.token_statistics",
    "Explanation": "nll.losses.explain",
    "Fit": "nll.estimation.result",
    "GeneralizedExtremeValue": "nll.families.distributions",
    "GoodnessOfFit": "nll.selection.goodness_of_fit",
    "InverseGaussian": "nll.families.distributions",
    "Likelihood": "nll.estimation.likelihood",
    "LinearCrossEntropyLoss": "nll.losses.modules",
    "LogSoftmax": "nll.losses.modules",
    "NLLLoss": "nll.losses.modules",
    "SkewNormal": "nll.families.distributions",
    "SoftmaxRegression": "nll.regression.softmax.estimator",
    "Stream": "nll.data.stream",
    "TokenStatistics": "nll.losses.token_statistics",
    "accuracy": "nll.losses.token_statistics",
    "censored": "nll.data.observations",
    "check_labels": "nll.losses.dispatch",
    "choices_long": "nll.regression.choice.data",
    "compare": "nll.selection.compare",
    "cross_entropy": "nll.losses.functional",
    "derive": "nll.derivation",
    "explain": "nll.losses.explain",
    "fit": "nll.estimation.fit",
    "goodness_of_fit": "nll.selection.goodness_of_fit",
    "importance": "nll.data.weights",
    "linear_cross_entropy": "nll.losses.functional",
    "linear_kl_divergence": "nll.losses.layer.kl_divergence",
    "log_softmax": "nll.losses.functional",
    "mixture": "nll.families.mixture",
    "most_likely": "nll.selection.most_likely",
    "nll_loss": "nll.losses.functional",
    "perplexity": "nll.losses.token_statistics",
    "sampled_cross_entropy": "nll.losses.sampled",
    "sampling": "nll.data.weights",
    "shifted": "nll.families.compound",
    "token_statistics": "nll.losses.token_statistics",
    "truncated": "nll.data.observations",
    "use_backend": "nll.losses.dispatch",
    "zero_inflated": "nll.families.compound",
}

# What installs the packages that some modules need.
_EXTRAS = {"nll.derivation": "derive", "nll.regression": "regression"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nll' has no attribute {name!r}")
    home = _HOME[name]
    try:
        value = getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(".".join(home.split(".")[:2]))
        needed = str(error.name).partition(".")[0]
        if extra is None or needed == "nll":
            raise
        raise ModuleNotFoundError(
            f"nll.{name} needs {needed}, which is not installed: pip install 'nll[{extra}]'",
            name=error.name,
        ) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


def _is_command() -> bool:
    """Whether this process is the command: `nll`, or `python -m nll`.

    With `-m`, `sys.argv` begins with "-m" until the module runs, and the module's name stands in
    the same place of `sys.orig_argv`.
    """
    arguments = getattr(sys, "argv", None) or [""]
    if arguments[0] == "-m":
        return sys.orig_argv[-len(arguments) :][:1] == ["nll"]
    return Path(arguments[0]).stem == "nll"


# A program read by torch.export.load needs the operators torch.ops.nll, which the losses' modules
# register: `import nll` imports these. The command shows its help without PyTorch.
if not _is_command():
    for _name, _home in _HOME.items():
        if _home.startswith("nll.losses."):
            __getattr__(_name)
