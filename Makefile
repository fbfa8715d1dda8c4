# One command each, on a fresh Debian or Ubuntu with python3 >= 3.10 (and its venv module), a C++ compiler and make:
#   make demo    train, unlearn and check a real model on real data
#   make test    the tests
#   make bench   the benchmarks, about ten minutes
#   make unlearning-degree   the study in docs/unlearning-degree.md, about ten minutes
#   make compare   all methods side by side, docs/compare.md, six to fifteen minutes
#   make compare-cifar10 CIFAR10=FOLDER   the same on 10,000 images of CIFAR-10, about two hours
#   make compare-cifar10-class CIFAR10=FOLDER   a class of it alone, the nearest methods, half an hour
#   make check-cuda   what can be held of the CUDA kernels without a GPU
# TORCH_SPEC picks the torch to install, e.g. make test TORCH_SPEC="torch==2.13.0".

PYTHON ?= python3
VENV ?= .venv
TORCH_SPEC ?= torch>=2.11
FGUNLEARN_CUDA ?= AUTO
# Development builds are for one architecture; without this, a wheel is for all of them.
CUDA_ARCHITECTURES ?= 90
BENCHES ?= select bracket score perturb update streaming distributed

BIN := $(VENV)/bin
SOURCES := $(shell find csrc cmake python benchmarks -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cmake' -o -name '*.py' -o -path '*/template/*' \) -not -path '*/build/*' 2>/dev/null) CMakeLists.txt pyproject.toml
CXX_SOURCES := $(shell find csrc tests/cuda -name '*.cpp' -o -name '*.h' -o -name '*.cu')
# Another torch or CUDA setting is another installation: the stamps carry both.
TAG := $(shell printf '%s' '$(TORCH_SPEC)-$(FGUNLEARN_CUDA)' | tr -c 'A-Za-z0-9.' '_')

.PHONY: demo test bench unlearning-degree compare compare-cifar10 compare-cifar10-class check-cuda lint format clean install
.DELETE_ON_ERROR:

install: $(VENV)/installed-$(TAG)

demo: install
	$(BIN)/fgunlearn demo $(ARGS)

test: install
	$(BIN)/python -m pytest $(ARGS)

bench: install
	@mkdir -p benchmarks/results
	@for name in $(BENCHES); do \
	  $(BIN)/fgunlearn bench $$name --json benchmarks/results/$$name.json $(ARGS) || exit 1; \
	done

unlearning-degree: install
	$(BIN)/fgunlearn spdgan study --out docs/results $(ARGS)
	$(BIN)/python scripts/degree_page.py

# The others' options were tuned on that data, on a seed that is not reported: see docs/compare.md.
CIFAR10_METHODS := retrain finetune:lr=0.1 gradient_ascent:lr=6e-05 neggrad_plus:beta=0.99,lr=0.05 random_label:lr=0.01 \
  salun:lr=0.02 ssd:alpha=8 scrub:lr=0.002 l1_sparse:gamma=0.0002,lr=0.05 fisher_forget:strength=0.0003 \
  topk randomk random_topk topk:recipe=perturb_repair random_topk:recipe=forget_term

compare-cifar10: install
	@test -n "$(CIFAR10)" || { echo "make: name the folder of CIFAR-10, as torchvision's or of npz files: CIFAR10=FOLDER" >&2; exit 1; }
	$(BIN)/fgunlearn compare --data cifar10:$(CIFAR10) --limit 10000 --epochs 15 --steps 200 --scenario random:0.1 \
	  --scenario class:3 $(foreach method,$(CIFAR10_METHODS),--methods $(method)) --out docs/results/compare-cifar10 $(ARGS)
	$(BIN)/python scripts/comparison_page.py

# The methods that come nearest on a class, with the code as it is now.
compare-cifar10-class: install
	@test -n "$(CIFAR10)" || { echo "make: name the folder of CIFAR-10, as torchvision's or of npz files: CIFAR10=FOLDER" >&2; exit 1; }
	$(BIN)/fgunlearn compare --data cifar10:$(CIFAR10) --limit 10000 --epochs 15 --steps 200 --scenario class:3 \
	  $(foreach method,$(filter retrain l1_sparse:% salun:% topk randomk random_topk,$(CIFAR10_METHODS)),--methods $(method)) \
	  --out docs/results/compare-cifar10-class $(ARGS)
	$(BIN)/python scripts/comparison_page.py

compare: install
	$(BIN)/fgunlearn compare --sweep --out docs/results/compare-digits $(ARGS)
	$(BIN)/python scripts/comparison_page.py

check-cuda: $(VENV)/dependencies-$(TAG)
	PYTHON=$(BIN)/python scripts/check_cuda.sh

lint: $(VENV)/dependencies-$(TAG)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)

format: $(VENV)/dependencies-$(TAG)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

clean:
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; install Python >= 3.10, or set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: $(PYTHON) is older than 3.10; set PYTHON= to a newer one" >&2; exit 1; }
	@command -v $(or $(CXX),c++) >/dev/null || { echo "make: no C++ compiler; on Debian or Ubuntu: apt install g++" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "make: no venv module; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }

$(VENV)/dependencies-$(TAG): $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH_SPEC)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  "scikit-build-core>=0.10" "pybind11>=2.13" "cmake>=3.24" "ninja>=1.11" \
	  "numpy>=1.24" "safetensors>=0.4.3" "rich>=13" "typer>=0.12" "scikit-learn>=1.3" "pillow>=10" "matplotlib>=3.8" "jinja2>=3.1" \
	  "cryptography>=42" \
	  "nvidia-cuda-cccl>=13.2" "pytest>=8" "hypothesis>=6" "ruff>=0.6" "mypy>=1.11" "clang-format>=18" \
	  "transformers>=5" "accelerate>=1.1" "lightning>=2.3"
	@rm -f $(VENV)/dependencies-* $(VENV)/installed-*
	@touch $@

# Without build isolation: an isolated build would download a torch of its own.
$(VENV)/installed-$(TAG): $(VENV)/dependencies-$(TAG) $(SOURCES)
	SKBUILD_CMAKE_DEFINE="FGUNLEARN_CUDA=$(FGUNLEARN_CUDA);CMAKE_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)" \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall .
	@touch $@
