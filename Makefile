# Two commands carry the project: `make book` and `make test`. Both make what they need, from Python 3.11 or newer,
# make and git.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODULE_TESTS := $(wildcard tests/test_noise*.py tests/test_theory_*.py) $(addprefix tests/test_, guards.py \
    curvature.py strength.py landscapes.py dynamics.py pacbayes.py)
CHAPTERS_NEED := ipykernel nbconvert scikit-learn accelerate transformers lightning pytorch-optimizer
# In any locale: Python reads the path of this folder, which may not be ASCII, in the encoding of the locale.
ifneq ($(filter C.UTF-8 C.utf8,$(shell locale -a)),)
export LC_ALL := C.UTF-8
endif
# A shell may forbid Python to keep what it compiled: each of the many processes would compile all of torch anew.
unexport PYTHONDONTWRITEBYTECODE
FIRST_PAGE := _build/html/index.html
SOURCES := _config.yml _toc.yml $(wildcard book/*.md book/*.ipynb book/results/runtimes.json _static/*) $(wildcard tools/*.py) redirects.yml

.PHONY: book pdf test check chapter rehearsal mutants notebooks runtimes bench lowest newest lock repository clean

# Builds the pages from the executed notebooks.
book: $(FIRST_PAGE)
	@echo "The book's first page: $(CURDIR)/$(FIRST_PAGE)"

$(FIRST_PAGE): $(VENV)/.ready $(SOURCES)
	$(BIN)/python tools/build_book.py
	$(BIN)/python tools/redirects.py $(@D)

# The built book as one file for paper. A minute or two.
pdf: book
	$(BIN)/python tools/pdf.py

# Re-executes all chapters, and runs the unit tests and the guards of the book.
test: $(VENV)/.ready
	$(BIN)/python -m pytest

# The tests of what was changed, NAMES="intro noise ...": chapters, and files of the module.
check: $(VENV)/.ready
	$(BIN)/python tools/check.py $(NAMES)

# Runs every chapter as in Colab, alone in an empty folder, with the module installed from a repository. Minutes.
rehearsal: $(VENV)/.ready
	ANTIPGD_REHEARSE=all $(BIN)/python -m pytest tests/test_colab.py --dist load

# Changes the statements, and sees whether their checks notice, NAMES="valley_theorem ..." or all chapters. Minutes.
mutants: $(VENV)/.ready
	$(BIN)/python tools/mutants.py $(NAMES)

# Begins a chapter: make chapter NAME=my_chapter
chapter: $(VENV)/.ready
	$(BIN)/python tools/new_chapter.py $(NAME)

# Executes the chapters, NAMES="intro ..." or all of them, and writes their notebooks.
notebooks: $(VENV)/.ready
	$(BIN)/python tools/notebooks.py $(NAMES)

# Measures what the chapters take, NAMES="intro ..." or all of them, for the cards at the head of their pages. Minutes.
runtimes: $(VENV)/.ready
	$(BIN)/python tools/runtimes.py $(NAMES)

# Measures speed on one core, some minutes: the engine, the noise, its peers, the network, its curvature. Beside JAX,
# too, where it is installed: .venv/bin/uv pip install -e '.[bench]'
bench: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/noise.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/peers.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/vision.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/vision.py --width 64 --turns 3 --compiled --precision bfloat16
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/curvature.py

# Runs the module's own tests and all chapters, whose checks have to hold, with the oldest libraries that pyproject.toml
# admits, or with the newest that there are. Minutes.
lowest newest: $(VENV)/.ready
	$(BIN)/uv venv --quiet --clear .venv-$@
	$(BIN)/uv pip install --quiet --python .venv-$@ --resolution $(if $(filter lowest,$@),lowest-direct,highest) ".[vision]"
	$(BIN)/uv pip install --quiet --python .venv-$@ pytest hypothesis sympy setuptools $(CHAPTERS_NEED)
	.venv-$@/bin/python -m pytest --noconftest --override-ini addopts= $(MODULE_TESTS)
	.venv-$@/bin/python -m nbconvert --to notebook --execute --output-dir _build/$@ book/*.ipynb

# Writes the tried version of everything; keeps those that still fit. Delete requirements.lock first to renew them all.
lock: $(VENV)/.ready
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --extra book \
	    --custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

# Changes the repository's address everywhere: make repository URL=https://github.com/NAME/REPOSITORY
repository: $(VENV)/.ready
	$(BIN)/python tools/set_repository.py $(URL)

clean:
	rm -rf _build

$(VENV)/.ready: $(VENV)/.locked pyproject.toml tools/check_environment.py
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	$(BIN)/python tools/check_environment.py
	@touch $@

# From nothing, so that it never holds more than the lock.
$(VENV)/.locked: requirements.lock
	$(PYTHON) tools/check_environment.py python
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet $$(grep '^uv==' requirements.lock)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.lock
	@touch $@
