"""Choices among alternatives, real and drawn."""

import numpy as np
import statsmodels.api as sm

COLUMNS = ["individual", "alt", "choice", "gc", "ttme", "hinc_air"]
LONG = {"case": "individual", "alternative": "alt"}


def travel():
    """Greene's travel mode: 210 cases, four alternatives."""
    table = sm.datasets.modechoice.load_pandas().data
    table["alt"] = table["mode"].map({1.0: "air", 2.0: "train", 3.0: "bus", 4.0: "car"})
    table["hinc_air"] = table.hinc * (table.alt == "air")
    return table[COLUMNS]


def draw(n=400, alternatives=4, q=3, seed=0, share=0.8):
    """Cases with some of the alternatives each."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, alternatives, q)) * 10.0 ** np.arange(q) + 3.0
    available = rng.random((n, alternatives)) < share
    available[np.arange(n), rng.integers(0, alternatives, n)] = True
    scores = x @ (rng.normal(size=q) / 10.0 ** np.arange(q)) + rng.gumbel(size=(n, alternatives))
    return x, np.where(available, scores, -np.inf).argmax(1), available


def longer(x, y, available):
    case, alternative = np.nonzero(available)
    return x[available], (y[case] == alternative).astype(int), case, alternative
