# Two commands on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: run test test-slow test-all test-device lint types imports clean

run: $(VENV)/.run
	$(BIN)/nll fit examples/anes96.csv "PID ~ logpopul + selfLR + age + educ + income" --report report.html

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

test-all: test test-slow

# The losses on a CUDA device, slow tests too, in processes side by side. $(PYTHON) is taken as it
# is, with PyTorch, pytest and pytest-xdist: nothing is installed or built, as where the device is
# there may be no network. NLL_TEST_DEVICE=cpu runs the same under Triton's interpreter.
NLL_TEST_DEVICE ?= cuda
test-device: export NLL_TEST_DEVICE := $(NLL_TEST_DEVICE)
test-device: export PYTHONPATH := $(CURDIR)/src:$(PYTHONPATH)
test-device: export TORCHINDUCTOR_COMPILE_THREADS := 1
test-device:
	$(PYTHON) -m pytest -n auto --dist worksteal -k "not benchmark" tests/losses/test_functional.py \
		tests/losses/test_special_values.py tests/losses/test_torch_cases.py \
		tests/losses/test_derivatives.py tests/losses/test_compiled.py tests/kernels/test_triton.py

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(VENV)/.test
	$(BIN)/lint-imports

$(VENV)/.run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[cli]"
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist report.html
