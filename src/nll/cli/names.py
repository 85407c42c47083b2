"""The families by the names that the command takes, in the order of its help."""

REGRESSIONS = ("softmax", "bernoulli", "poisson", "normal", "negative_binomial")
DISTRIBUTIONS = (
    *("bernoulli", "geometric", "poisson", "categorical", "normal", "log_normal", "exponential"),
    *("laplace", "uniform", "gamma", "inverse_gamma", "chi2", "beta", "kumaraswamy", "student_t"),
    *("cauchy", "gumbel", "generalized_extreme_value", "skew_normal", "von_mises", "weibull"),
    *("half_cauchy", "half_normal", "pareto", "inverse_gaussian", "fisher_snedecor"),
    *("continuous_bernoulli", "negative_binomial", "shifted_gamma", "shifted_weibull"),
    *("shifted_log_normal", "shifted_inverse_gaussian", "shifted_inverse_gamma"),
    *("zero_inflated_poisson", "zero_inflated_negative_binomial", "zero_inflated_geometric"),
    "normal_mixture",
)
DERIVATIONS = (
    *("bernoulli", "binomial", "geometric", "poisson", "exponential", "normal", "log_normal"),
    *("half_normal", "inverse_gaussian", "laplace", "uniform", "pareto", "gamma", "inverse_gamma"),
    *("chi2", "beta", "weibull", "gumbel", "cauchy", "half_cauchy", "student_t"),
    *("negative_binomial", "von_mises", "kumaraswamy", "generalized_extreme_value", "skew_normal"),
    "categorical",
)
