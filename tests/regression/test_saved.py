"""Models in files: what is written is read again, and what was changed is refused."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from nll.regression.formula.regress import regress
from nll.regression.saved import Model, load

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame({"a": RNG.normal(size=80), "g": RNG.choice(["u", "v"], 80)})
TABLE["y"] = RNG.choice(["bus", "car", "walk"], 80)


@pytest.fixture(scope="module")
def model():
    return Model.of(regress("y ~ a * g", TABLE))


def test_a_model_comes_back(model, tmp_path):
    model.save(tmp_path / "m.json")
    again = load(tmp_path / "m.json")
    assert again.terms == model.terms
    assert (again.classes, again.log_score) == (model.classes, model.log_score)
    torch.testing.assert_close(again.coef, model.coef, rtol=0, atol=0)
    found, expected = (one.probabilities(TABLE) for one in (again, model))
    torch.testing.assert_close(found.interval, expected.interval, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nll": "other"}, "got another file"),
        ({"version": 2}, "expected a model of version 1, got version 2"),
        ({"coef": [1.0]}, r"expected coefficients of shape \(2, 4\) and their covariance"),
        ({"coef": [[1.0], []]}, "got one that cannot be read"),
        ({"second": [1.0, 2.0]}, "got one that cannot be read"),
        ({"baseline": 3}, "expected a baseline among at least 2 classes, got 3 of 3"),
        ({"baseline": "bus"}, "expected baseline of type int, got 'bus'"),
        ({"family": "gauss"}, "expected a family among softmax, bernoulli, .*, got 'gauss'"),
        ({"classes": [["bus"]]}, "expected classes of texts or numbers"),
        ({"terms": {}}, "got one without its 'formula'"),
    ],
)
def test_a_changed_file_is_refused(model, change, message, tmp_path):
    path = tmp_path / "m.json"
    model.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load(path)
