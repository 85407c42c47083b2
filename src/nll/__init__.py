"""Maximum likelihood: the negative log-likelihood as a loss and as an estimator."""

from typing import TYPE_CHECKING, Any

from nll._version import __version__
from nll.data.observations import censored, truncated
from nll.data.stream import Stream
from nll.data.weights import importance, sampling
from nll.estimation.fit import fit
from nll.estimation.likelihood import Likelihood
from nll.estimation.result import Fit
from nll.families.compound import shifted, zero_inflated
from nll.families.distributions import GeneralizedExtremeValue, InverseGaussian, SkewNormal
from nll.families.mixture import mixture
from nll.losses.dispatch import check_labels, use_backend
from nll.losses.explain import Explanation, explain
from nll.losses.functional import cross_entropy, linear_cross_entropy, log_softmax, nll_loss
from nll.losses.kl_divergence import linear_kl_divergence
from nll.losses.modules import CrossEntropyLoss, LinearCrossEntropyLoss, LogSoftmax, NLLLoss
from nll.losses.sampled import sampled_cross_entropy
from nll.losses.token_statistics import (
    Estimate,
    TokenStatistics,
    accuracy,
    perplexity,
    token_statistics,
)
from nll.selection.compare import Comparison, compare
from nll.selection.goodness_of_fit import GoodnessOfFit, goodness_of_fit
from nll.selection.most_likely import Choice, most_likely

if TYPE_CHECKING:
    from nll.derivation import Derivation, derive
    from nll.regression.choice.data import choices_long
    from nll.regression.choice.estimator import ConditionalLogit
    from nll.regression.softmax.estimator import SoftmaxRegression

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

# Names that need an optional package, imported when they are first asked for.
_LAZY = {
    "ConditionalLogit": ("nll.regression.choice.estimator", "regression"),
    "Derivation": ("nll.derivation", "derive"),
    "SoftmaxRegression": ("nll.regression.softmax.estimator", "regression"),
    "choices_long": ("nll.regression.choice.data", "regression"),
    "derive": ("nll.derivation", "derive"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'nll' has no attribute {name!r}")
    from importlib import import_module

    module, extra = _LAZY[name]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        needed = str(error.name).partition(".")[0]
        raise ModuleNotFoundError(
            f"nll.{name} needs {needed}, which is not installed: pip install 'nll[{extra}]'",
            name=error.name,
        ) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
