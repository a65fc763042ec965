# Pulsering: every verb a contributor or the CI needs. `make` lists them.
#
# All of them work in .venv, which `setup` makes; nothing is installed anywhere else.

VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check --quiet
KERNELS := $(shell find client server -name '*.pyx')
HEADERS := $(shell find client server -name '*.pxd')
# client/pulsering/_kernel.pyx -> pulsering._kernel
MODULES := $(subst /,.,$(basename $(foreach kernel,$(KERNELS),$(shell echo $(kernel) | cut -d/ -f2-))))

export PATH := $(CURDIR)/$(BIN):$(PATH)
# Also pins the isolated environments in which the kernels are built.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help prerequisites setup demo example bench publish test check format coverage sanitize sim sim-planted chaos
.PHONY: fuzz docs clean
.PHONY: check-lint check-format check-types check-stubs check-imports check-cython

help: ## list these verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

prerequisites:
	@sh scripts/find-python > /dev/null

setup: $(VENV)/.kernels ## make .venv with Pulsering and its tools; does nothing when nothing changed

# The interpreter inside is asked, not only looked at: an upgrade of the system's Python leaves a dead link.
$(VENV)/.installed: pyproject.toml hatch_build.py constraints.txt scripts/find-python
	@python=$$(sh scripts/find-python) && \
	if ! $(BIN)/python -m pip --version > /dev/null 2>&1; then \
		echo "setup: making $(VENV) with $$python"; "$$python" -m venv --clear $(VENV); \
	fi
	@echo "setup: building Pulsering and installing its tools (about a minute the first time)"
	@$(PIP) install --editable '.[dev]'
	@touch $@

$(VENV)/.kernels: $(VENV)/.installed $(KERNELS) $(HEADERS)
	@$(BIN)/python hatch_build.py > $(VENV)/kernels.log 2>&1 || { cat $(VENV)/kernels.log >&2; exit 1; }
	@touch $@

demo: setup ## play a day of presence on three local nodes, kill one, judge every answer (ARGS=--help)
	@$(BIN)/pulsering demo $(ARGS)

example: setup ## an API server with a page of friends, on a throw-away cluster: open the URL in two tabs (ARGS=--help)
	@$(BIN)/python -m examples.api_server.dev $(ARGS)

# Everything that a run of figures leaves behind; the figures in documents come from it by `publish`.
FIGURES := build/bench
bench: setup ## compare with Redis, Valkey, memcached, PostgreSQL and a dictionary: build/bench/ (ARGS=--help)
	@mkdir -p $(FIGURES)
	@$(BIN)/pulsering bench compare --json --report $(FIGURES)/report.html --table $(FIGURES)/table.md $(ARGS) \
		> $(FIGURES)/results.json.new && mv $(FIGURES)/results.json.new $(FIGURES)/results.json
	@$(BIN)/pulsering bench sweep --report $(FIGURES)/sweep.html --chart $(FIGURES)/sweep.svg
	@$(BIN)/pulsering size --profile $(FIGURES)/results.json > $(FIGURES)/size.txt
	@cat $(FIGURES)/table.md && echo "figures, report and sizing are in $(FIGURES)/"

publish: ## put the figures of the last `make bench` into README.md and docs/
	@$(BIN)/python -m pulsering_bench.publish $(FIGURES)/results.json README.md docs/performance.md docs/scale.md

test: check ## everything: check, then unit, property and end-to-end tests (ARGS='-k word' picks)
	@$(BIN)/python -m pytest $(ARGS)

check: check-lint check-format check-types check-stubs check-imports check-cython ## lint, format, types, stubs, direction of imports (make -k check: all, failures or not)

check-lint: setup
	ruff check --quiet

check-format: setup
	ruff format --check --quiet

check-types: setup
	mypy --no-error-summary

check-stubs: setup
	@for module in $(MODULES); do echo "stubtest $$module"; python -m mypy.stubtest $$module \
		> $(VENV)/stubtest.log 2>&1 || { cat $(VENV)/stubtest.log >&2; exit 1; }; done

check-imports: setup
	@echo lint-imports; lint-imports > $(VENV)/imports.log 2>&1 || { cat $(VENV)/imports.log >&2; exit 1; }

check-cython: setup
	cython-lint --max-line-length 110 $(KERNELS) $(HEADERS)

format: setup ## rewrite the sources as `check` wants them
	ruff check --fix-only --quiet
	ruff format --quiet

# A copy, so that slow, traced kernels never take the place of the real ones. PYTHONPATH comes before the
# editable install; nodes that the tests start inherit it.
COPY := build/coverage
coverage: setup ## line coverage of Python and the Cython kernels, nodes included: a report and htmlcov/
	@rm -rf $(COPY) htmlcov && mkdir -p $(COPY)
	@tar -cf - --exclude='*.so' --exclude='*.c' --exclude=__pycache__ --exclude=./build --exclude=./.venv \
		--exclude=./.git --exclude='./.*_cache' . | tar -xf - -C $(COPY)
	@cd $(COPY) && PULSERING_KERNEL=debug $(CURDIR)/$(BIN)/python hatch_build.py > build.log 2>&1 \
		|| { cat build.log >&2; exit 1; }
	@cd $(COPY) && export COVERAGE_RCFILE=$(CURDIR)/$(COPY)/tests/coverage.ini && \
		export PYTHONPATH=$(CURDIR)/$(COPY)/client:$(CURDIR)/$(COPY)/server:$(CURDIR)/$(COPY)/bench && \
		coverage run -m pytest -p no:cacheprovider $(ARGS) && \
		coverage combine --quiet && coverage html --quiet && coverage report

SANITIZED := build/sanitize
sanitize: setup ## the table's tests on a kernel built with ASan and UBSan, invariants on
	@rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	@tar -cf - --exclude='*.so' --exclude='*.c' --exclude=__pycache__ --exclude=./build --exclude=./.venv \
		--exclude=./.git --exclude='./.*_cache' . | tar -xf - -C $(SANITIZED)
	@cd $(SANITIZED) && PULSERING_KERNEL=sanitize $(CURDIR)/$(BIN)/python hatch_build.py > build.log 2>&1 \
		|| { cat build.log >&2; exit 1; }
	@cd $(SANITIZED) && export ASAN_OPTIONS=detect_leaks=0 && \
		export PYTHONPATH=$(CURDIR)/$(SANITIZED)/client:$(CURDIR)/$(SANITIZED)/server:$(CURDIR)/$(SANITIZED)/bench && \
		LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		$(CURDIR)/$(BIN)/python -m pytest -p no:cacheprovider --timeout 900 $(or $(ARGS),tests/unit/test_table.py tests/unit/test_watch_set.py \
		tests/property/test_table_twins.py tests/property/test_watch_twins.py tests/property/test_datapath.py tests/fuzz)

SEEDS :=
sim: setup ## histories of ten minutes on a virtual clock and network, every answer judged (SEEDS=500, ARGS=--help)
	@cd tests && $(CURDIR)/$(BIN)/python -m sim --seeds $(or $(SEEDS),100) $(ARGS)

sim-planted: setup ## prove the simulator: each of its planted bugs must be found within SEEDS=1000
	@cd tests && $(CURDIR)/$(BIN)/python -m sim --planted --seeds $(or $(SEEDS),1000) $(ARGS)

SEED :=
chaos: setup ## about six minutes of real faults on real nodes, every answer judged (SEED=2, ARGS=--help)
	@cd tests && $(CURDIR)/$(BIN)/python -m chaos $(if $(SEED),--seed $(SEED)) $(ARGS)

fuzz: setup ## what strangers' bytes meet: atheris for two minutes, then 10^7 damaged frames (ARGS=--help)
	@$(BIN)/python -c 'import atheris' 2> /dev/null || $(PIP) install --editable '.[dev,fuzz]'
	@cd tests && $(CURDIR)/$(BIN)/python -m fuzz $(ARGS)

# What builds them is installed when it is wanted, without Pulsering being built anew for it.
docs: setup ## the documents as a site, strictly: build/site/index.html
	@$(BIN)/python -c 'import material' 2> /dev/null || $(PIP) install $$($(BIN)/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict && echo "docs: build/site/index.html"

clean: ## remove everything that the other verbs made, .venv included
	@rm -rf $(VENV) build dist htmlcov .coverage* .hypothesis .benchmarks .mypy_cache .ruff_cache \
		.pytest_cache .import_linter_cache
	@find client server bench tests examples \( -name '*.so' -o -name '*.c' -o -name __pycache__ \) -prune \
		-exec rm -rf {} +
