PYTHON ?= python3
PORT ?= 8000
CORPUS ?=
MODEL ?= tiny
BIN = .venv/bin

.PHONY: demo test test-cluster test-deploy fuzz check bench clean

# Index a corpus (drawn here unless CORPUS names a folder) and serve it: the main job, without torch.
demo: .venv/cpu
	$(BIN)/crossmodal demo --port $(PORT) --model $(MODEL) $(if $(CORPUS),--corpus "$(CORPUS)")

# In two processes: what training imports would stay in memory for the rest.
COVERAGE = $(foreach package,corpus crossmodal dual_encoder indexer service training vector_index,--cov=$(package))
test: .venv/dev /usr/bin/chromium /usr/bin/redis-server
	$(BIN)/python -m pytest $(COVERAGE) --cov-report= --ignore=tests/training --ignore-glob='tests/indexer/test_ray_*.py'
	$(BIN)/python -m pytest $(COVERAGE) --cov-append --cov-report=term tests/training

# Indexes on a Ray cluster of two nodes on this machine, and kills its workers and one of its nodes: two minutes.
test-cluster: .venv/dev
	$(BIN)/python -m pytest tests/indexer/test_ray_*.py

# Builds the images and breaks replicas behind a balancer, with a real Docker engine: as root, in about 20 minutes.
test-deploy: .venv/deploy /usr/bin/wrk
	$(BIN)/python -m pytest -o addopts= --import-mode=importlib -ra -s tests/deploy

# A minute each of input that coverage leads (atheris): pictures, filters, manifests. Ends at the first finding.
FUZZ_SECONDS ?= 60
fuzz: .venv/fuzz
	for target in image filter manifest; do $(BIN)/python -m tests.fuzz $$target --seconds $(FUZZ_SECONDS) || exit 1; done

# Every benchmark, about half an hour; docs/benchmarks.md is made from what they find.
bench: .venv/dev /usr/bin/wrk
	$(BIN)/python -m benchmarks

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	docker/supply_chain.sh licences vulnerabilities

clean:
	rm -rf .venv .demo build dist *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/cpu: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cpu]'
	touch $@

.venv/dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cpu,ray,train,dev]'
	touch $@ .venv/cpu

.venv/deploy: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cpu,dev,deploy]'
	touch $@

.venv/fuzz: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cpu,dev,fuzz]'
	touch $@

# The load generator of the benchmarks and the deployment tests.
/usr/bin/wrk:
	apt-get update -qq && apt-get install -y -qq wrk

# The end-to-end tests drive a real browser.
/usr/bin/chromium:
	apt-get update -qq && apt-get install -y -qq chromium

# The tests of shared rate limits stop and start a real one.
/usr/bin/redis-server:
	apt-get update -qq && apt-get install -y -qq redis-server
