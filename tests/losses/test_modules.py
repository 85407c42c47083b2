"""The losses as modules: PyTorch's type, state and looks; every option reaches the function."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

import nll

X = torch.linspace(-2.0, 2.0, 15).view(3, 5).sin()
Y = torch.tensor([1, 0, 3])
WEIGHT = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5])
ALLOWED = torch.tensor([True, True, False, True, True])

NAMES = ["LogSoftmax", "NLLLoss", "CrossEntropyLoss"]
FUNCTIONS = {"NLLLoss": nll.nll_loss, "CrossEntropyLoss": nll.cross_entropy}

# Each of these changes the loss of X against Y.
OPTIONS = [
    ("NLLLoss", {"weight": WEIGHT}),
    ("NLLLoss", {"ignore_index": 0}),
    ("NLLLoss", {"reduction": "none"}),
    ("CrossEntropyLoss", {"weight": WEIGHT}),
    ("CrossEntropyLoss", {"ignore_index": 0}),
    ("CrossEntropyLoss", {"reduction": "sum"}),
    ("CrossEntropyLoss", {"label_smoothing": 0.1}),
    ("CrossEntropyLoss", {"temperature": 0.5}),
    ("CrossEntropyLoss", {"softcap": 0.7}),
    ("CrossEntropyLoss", {"z_loss": 0.1}),
    ("CrossEntropyLoss", {"allowed_classes": ALLOWED}),
]


@pytest.mark.parametrize("name", NAMES)
def test_is_a_module_of_pytorch_s_own_type(name):
    assert isinstance(getattr(nll, name)(), getattr(nn, name))


@pytest.mark.parametrize("name", NAMES)
def test_arguments_stand_where_pytorch_has_them(name):
    def signature(module):
        return [(p.name, p.default, p.kind) for p in inspect.signature(module).parameters.values()]

    ours, theirs = signature(getattr(nll, name)), signature(getattr(nn, name))
    assert ours[: len(theirs)] == theirs
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for _, _, kind in ours[len(theirs) :])


@pytest.mark.parametrize("name", NAMES)
def test_looks_like_pytorch_s(name):
    arguments = {"dim": 1} if name == "LogSoftmax" else {}
    assert repr(getattr(nll, name)(**arguments)) == repr(getattr(nn, name)(**arguments))


def test_every_option_of_the_function_is_one_of_the_module_or_of_the_call():
    function = set(inspect.signature(nll.cross_entropy).parameters)
    module = set(inspect.signature(nll.CrossEntropyLoss).parameters)
    call = set(inspect.signature(nll.CrossEntropyLoss.forward).parameters) - {"self"}
    assert module | call == function


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda value: str(value)[:40])
def test_options_reach_the_function(name, options):
    loss = getattr(nll, name)(**options)(X, Y)
    torch.testing.assert_close(loss, FUNCTIONS[name](X, Y, **options), rtol=0.0, atol=0.0)
    plain = FUNCTIONS[name](X, Y)
    assert loss.shape != plain.shape or loss != plain


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_log_softmax_holds_its_dimension(dim):
    assert torch.equal(nll.LogSoftmax(dim)(X), nll.log_softmax(X, dim))


def test_row_weights_come_with_the_call():
    module, weights = nll.CrossEntropyLoss(reduction="none"), torch.tensor([0.0, 1.0, 2.0])
    expected = nll.cross_entropy(X, Y, reduction="none") * weights
    torch.testing.assert_close(module(X, Y, weights), expected)
    torch.testing.assert_close(module(X, Y, row_weights=weights), expected)


def test_probabilities_are_targets_too():
    q = X.softmax(1)
    assert torch.equal(nll.CrossEntropyLoss()(X, q), nll.cross_entropy(X, q))


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_copy_gives_the_same_loss(clone, name, options):
    module = getattr(nll, name)(**options)
    assert torch.equal(clone(module)(X, Y), module(X, Y))


def test_a_deep_copy_shares_no_memory():
    module = nll.CrossEntropyLoss(WEIGHT.clone(), allowed_classes=ALLOWED.clone())
    other = copy.deepcopy(module)
    other.weight.zero_()
    other.allowed_classes.zero_()
    assert torch.equal(module.weight, WEIGHT)
    assert torch.equal(module.allowed_classes, ALLOWED)


def test_state_goes_to_a_file_and_back():
    module = nll.CrossEntropyLoss(WEIGHT, allowed_classes=ALLOWED)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    fresh = nll.CrossEntropyLoss(torch.ones(5), allowed_classes=torch.ones(5, dtype=torch.bool))
    fresh.load_state_dict(torch.load(file))
    assert torch.equal(fresh(X, Y), module(X, Y))


@pytest.mark.parametrize("name", ["NLLLoss", "CrossEntropyLoss"])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["no weights", "weights"])
def test_state_is_exchanged_with_pytorch_s_module(name, weight):
    ours, theirs = (getattr(namespace, name)(weight) for namespace in (nll, nn))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_to_a_dtype_converts_the_weights_and_leaves_the_mask(dtype):
    module = nll.CrossEntropyLoss(WEIGHT, allowed_classes=ALLOWED).to(dtype)
    assert (module.weight.dtype, module.allowed_classes.dtype) == (dtype, torch.bool)
    expected = nll.cross_entropy(X.to(dtype), Y, WEIGHT.to(dtype), allowed_classes=ALLOWED)
    assert torch.equal(module(X.to(dtype), Y), expected)


def test_to_a_device_takes_weights_and_mask_along():
    module = nll.CrossEntropyLoss(WEIGHT, allowed_classes=ALLOWED).to("meta")
    assert (module.weight.device.type, module.allowed_classes.device.type) == ("meta", "meta")


def test_no_parameters_to_train():
    assert list(nll.CrossEntropyLoss(WEIGHT, allowed_classes=ALLOWED).parameters()) == []


@pytest.mark.parametrize("name", ["NLLLoss", "CrossEntropyLoss"])
@pytest.mark.parametrize(
    "flags", [{"size_average": False}, {"reduce": False}, {"size_average": True}], ids=str
)
def test_deprecated_flags_warn_when_the_module_is_made_and_only_then(name, flags):
    made = []
    for namespace in (nll, nn):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            module = getattr(namespace, name)(**flags)
        made.append(
            (module.reduction, [(warning.category, str(warning.message)) for warning in caught])
        )
        module(X, Y)  # a warning here would be an error
    assert made[0] == made[1]


@pytest.mark.parametrize("shape", [(), (4,), (3, 4), (2, 3, 4), (2, 2, 3, 2)], ids=str)
def test_log_softmax_without_a_dimension_chooses_and_warns_as_pytorch_does(shape):
    x = torch.arange(1.0, 1.0 + torch.Size(shape).numel()).view(shape).cos()
    results = []
    for namespace in (nll, nn):
        with pytest.warns(UserWarning, match="Implicit dimension choice") as caught:
            value = namespace.LogSoftmax()(x)
        results.append((value, [str(warning.message) for warning in caught]))
    (ours, our_messages), (theirs, their_messages) = results
    assert our_messages == their_messages
    assert torch.equal(ours, theirs)


def test_the_warning_points_at_the_call():
    with pytest.warns(UserWarning, match="Implicit dimension choice") as caught:
        nll.LogSoftmax()(X)
    assert caught[0].filename == __file__


def test_a_module_trains_inside_a_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nll.LogSoftmax(dim=1))
    criterion = nll.NLLLoss()
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        losses.append(criterion(model(X), Y))
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.5 * losses[0]


def test_the_options_of_a_module_show():
    module = nll.CrossEntropyLoss(
        ignore_index=0, z_loss=1e-4, allowed_classes=torch.ones(5, dtype=torch.bool)
    )
    assert repr(module) == (
        "CrossEntropyLoss(ignore_index=0, z_loss=0.0001, allowed_classes=(tensor of (5,)))"
    )
    assert repr(nll.CrossEntropyLoss()) == "CrossEntropyLoss()"
    assert repr(nll.NLLLoss(torch.ones(3), reduction="sum")) == (
        "NLLLoss(weight=(tensor of (3,)), reduction='sum')"
    )


@pytest.mark.parametrize("name", [*NAMES, "LinearCrossEntropyLoss"])
def test_every_option_shows(name):
    """Each argument of the constructor that differs from its default."""
    needed = {"in_features": 4, "num_classes": 5} if name == "LinearCrossEntropyLoss" else {}
    other = {
        "dim": 1,
        "weight": torch.ones(5),
        "ignore_index": 3,
        "reduction": "sum",
        "label_smoothing": 0.2,
        "temperature": 0.5,
        "softcap": 3.0,
        "z_loss": 0.1,
        "allowed_classes": torch.ones(5, dtype=torch.bool),
        "inplace_backward": True,
        "max_memory": 1000,
    }
    module = getattr(nll, name)
    options = [option for option in inspect.signature(module).parameters if option in other]
    assert options
    for option in options:
        assert f"{option}=" in repr(module(**needed, **{option: other[option]}))
