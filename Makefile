# Everything here needs Python >= 3.11, git and make; the rest is set up in .venv by itself.
# `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# On a machine that others use as well, a test of real processes may miss a deadline: it has a second
# try, as long as such are few.  The summary names it with its traceback: there is a reason to find.
SECOND_TRY := --reruns 1 --max-suite-reruns 3 --rerun-show-tracebacks
PYTEST := $(BIN)/python -m pytest $(SECOND_TRY)
# Test processes that run at the same time; the local executor's tests start real trainers.
JOBS ?= 2
# Of those that wait more than they work.
WAITING_JOBS ?= 3

# The demo keeps its state apart from the user's own, so that it can be repeated and removed.
DEMO_HOME ?= $(CURDIR)/.zeus/demo
DEMO_REPORT ?= $(CURDIR)/build/demo/report.html
DEMO_RECURRENCES ?= 12
DEMO_CONTROL ?= 4
SEED ?= 1

.PHONY: help
help: ## This list
	@grep -hE '^[a-z0-9 -]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'

# ---- Set-up ------------------------------------------------------------------

.PHONY: setup
setup: $(VENV)/.ready ## Environment in .venv, locked by hash, and the simulated GPU's library

$(VENV)/.ready: pyproject.toml requirements/bootstrap.txt requirements/dev.txt tools/setup.sh
	@tools/setup.sh
	@touch $@

.PHONY: lock
lock: setup ## Renew requirements/*.txt from pyproject.toml (hashes, no addresses)
	@tools/lock.sh

# ---- Use it ------------------------------------------------------------------

.PHONY: demo
demo: setup ## A recurring training job, optimized before your eyes: no cluster, no GPU needed
	@mkdir -p $(dir $(DEMO_REPORT))
	@$(BIN)/zeusctl run examples/digits/zeusjob.yaml --home $(DEMO_HOME) \
		--gpu simulated --seed $(SEED) --recurrences $(DEMO_RECURRENCES) --control $(DEMO_CONTROL) \
		--report $(DEMO_REPORT)
	@echo
	@echo "Look further:   .venv/bin/zeusctl explain digits --home $(DEMO_HOME)"
	@echo "                (or status, history, report, replay)"
	@echo "Start afresh:   make demo-clean"

.PHONY: demo-clean
demo-clean: ## Forget what the demo has learned
	@rm -rf $(DEMO_HOME) $(dir $(DEMO_REPORT))

# ---- Check it ----------------------------------------------------------------

.PHONY: test
test: lint test-unit test-faults test-peers test-cluster test-chart test-observability test-e2e ## Everything that this machine can run
	@echo
	@echo "Passed: lint, unit, faults, peers, cluster, chart, observability, e2e."

.PHONY: test-full
test-full: lint test-unit test-faults test-peers test-cluster-full test-chart test-observability test-images-full test-full-cluster test-install test-e2e ## The same, and what takes long: two Kubernetes, outages of a minute
	@echo
	@echo "Passed: lint, unit, faults, peers, chart, observability, images, full cluster, install, e2e; cluster on each of Kubernetes $(KUBERNETES)."

.PHONY: lint
lint: setup ## Style, types, import contracts, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	tools/check_generated.sh

.PHONY: test-unit
test-unit: setup ## Behaviour of each part, on real PostgreSQL, real torch and simulated GPUs
	$(PYTEST) -n $(JOBS) --dist loadfile tests/unit

.PHONY: coverage
coverage: setup ## Which lines and branches test-unit does not reach (half as long again)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(SECOND_TRY) -n $(JOBS) --dist loadfile tests/unit
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report

# Of what schemathesis makes of a document, xdist's workers report nothing, be it good or bad.
SCHEMATHESIS := tests/faults/agent/test_agent_openapi.py

.PHONY: test-faults
test-faults: setup ## Kill it at every step: nothing is lost, nothing counts twice, limits come back
	$(PYTEST) -n $(JOBS) --dist loadfile --ignore $(SCHEMATHESIS) tests/faults
	$(PYTEST) $(SCHEMATHESIS)

.PHONY: test-peers
test-peers: setup ## Unmodified Zeus, zeusd and nvidia-ml-py on the simulated GPU (needs Rust; minutes, once)
	$(PYTEST) tests/peers

.PHONY: test-cluster
test-cluster: setup binaries ## The operator on a real API server and the real controllers
	$(PYTEST) -n $(WAITING_JOBS) --dist loadfile tests/cluster

# The newest and the oldest that are supported; tests/cluster/binaries has a folder for each.
KUBERNETES := 1.37 1.34

.PHONY: test-cluster-full
test-cluster-full: setup ## Cluster tests on each Kubernetes in turn, outages of a minute included
	@for minor in $(KUBERNETES); do \
		export ZEUS_TEST_KUBERNETES=$$minor ZEUS_TEST_FULL=1; \
		echo "--- Kubernetes $$minor ---"; \
		$(BIN)/python -m tests.cluster.support.binaries > /dev/null; \
		$(PYTEST) -n $(WAITING_JOBS) --dist loadfile tests/cluster || exit 1; \
	done

.PHONY: test-chart
test-chart: setup binaries ## The Helm chart: rendered in every way, installed on a real API server
	$(PYTEST) -n $(JOBS) --dist loadfile tests/chart

.PHONY: test-observability
test-observability: setup binaries ## Rules, alerts and dashboards on a real Prometheus with real data
	$(PYTEST) -n $(JOBS) --dist loadfile tests/observability

.PHONY: test-full-cluster
test-full-cluster: setup binaries ## Real nodes: kubelet, containerd, pods with simulated GPUs (needs root)
	tools/system_packages.sh
	$(BIN)/python -m tests.full_cluster.programs > /dev/null
	$(PYTEST) tests/full_cluster --ignore tests/full_cluster/install

.PHONY: test-install
test-install: setup binaries ## From images to savings: the chart on the full cluster, real pods train (needs root)
	tools/system_packages.sh
	$(BIN)/python -m tests.full_cluster.programs > /dev/null
	$(PYTEST) tests/full_cluster/install

# Modules with the same values stand beside each other: they share a release.
OF_EACH_CHANGE := $(addprefix tests/full_cluster/install/,test_ends_of_releases.py \
	test_ends_of_runs.py test_from_images_to_savings.py test_gpus_of_others.py)

.PHONY: test-pods
test-pods: setup binaries ## Of test-install what each change must pass: runs in real pods and their ends (needs root)
	tools/system_packages.sh
	$(BIN)/python -m tests.full_cluster.programs > /dev/null
	$(PYTEST) --durations=15 $(OF_EACH_CHANGE)

.PHONY: test-images test-images-full
test-images: setup ## The images, each run as a cluster runs it (needs root and buildah)
	tools/system_packages.sh
	$(PYTEST) tests/images
test-images-full: setup
	tools/system_packages.sh
	CI=true ZEUS_TEST_FULL=1 $(PYTEST) tests/images

.PHONY: test-gpu
test-gpu: setup ## What a real GPU tells agent and runtime; reads only (skipped where there is none)
	$(PYTEST) -rs tests/gpu

.PHONY: test-e2e
test-e2e: setup ## The program as its user runs it, on one machine
	$(PYTEST) -n $(JOBS) --dist loadfile tests/e2e

# ---- A real Kubernetes ---------------------------------------------------------

.PHONY: binaries
binaries: setup ## Build the Kubernetes that the tests run against (needs Go; minutes, once)
	$(BIN)/python -m tests.cluster.support.binaries

.PHONY: build-ahead
build-ahead: setup ## All that tests need besides Python's packages, images included (needs root for them)
	$(BIN)/python -m tests.build_ahead

.PHONY: full-cluster full-cluster-down
full-cluster: setup ## A cluster with two nodes and simulated GPUs to try things, until Ctrl-C (needs root)
	@$(BIN)/python -m tests.full_cluster up
full-cluster-down: setup ## End it, and what is left of one that was killed
	@$(BIN)/python -m tests.full_cluster down

.PHONY: images
images: setup ## The container images, as OCI archives in build/images (needs root and buildah)
	$(BIN)/python -m tools.images build

.PHONY: cluster
cluster: setup ## A control plane to look at, until Ctrl-C; prints its kubeconfig
	@$(BIN)/python -m tests.cluster.support.foreground

# ---- Measure and publish -----------------------------------------------------

.PHONY: bench
bench: setup ## Measure every figure that the docs claim (minutes)
	tools/bench.sh

.PHONY: docs
docs: setup ## Renew the generated reference pages
	$(BIN)/python -m zeus_operator.api.docs --write
	$(BIN)/python -m zeus_agent.openapi --write
	$(BIN)/python -m tools.chart_values --write
	$(BIN)/python -m tools.metrics_reference --write
	$(BIN)/python -m tools.dashboards --write

.PHONY: clean
clean: ## Remove everything that make has built, the environment and the demo included
	@rm -rf $(VENV) build .zeus .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
