# `make run` and `make test` set up everything that they need, in a virtual environment of their own.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

# Test processes at once; 0: one, which `ARGS="--pdb"` needs
JOBS ?= 4

.PHONY: run test check format docs docs-serve clean help

help:            ## show what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

run: $(VENV)/.run  ## serve a gateway on port 10125; its test page is at http://127.0.0.1:10125/
	$(BIN)/wsgateway serve

test: $(VENV)/.test programs sdks  ## run the tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

.PHONY: test-lowest
test-lowest: $(VENV)-lowest/.test programs sdks  ## run the tests with the least version of each dependency
	$(VENV)-lowest/bin/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

check: $(VENV)/.test  ## lint and check types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.test  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs  ## build the documentation into build/site, with warnings as errors
	$(BIN)/python -m tools.docs build

docs-serve: $(VENV)/.docs  ## serve the documentation at http://localhost:8000/, and rebuild each page that changes
	$(BIN)/python -m tools.docs serve $(ARGS)

.PHONY: reference
reference: $(VENV)/.docs  ## write the generated parts of the documentation, such as the table of settings
	$(BIN)/python -m tools.reference

clean:           ## remove the virtual environment
	rm -rf $(VENV) $(VENV)-lowest tests/sdk/node_modules

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wsgateway needs Python 3.11 or newer: make PYTHON=python3.13 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[standard]'
	touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[standard,test,docs]'
	touch $@ $(VENV)/.run $(VENV)/.docs

$(VENV)/.docs: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

# uv finds out which versions those are: of what pyproject.toml names the least, of what these need the newest
$(VENV)-lowest/.test: $(BIN)/python pyproject.toml
	$(BIN)/python -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct -e '.[standard,ipc,redis,nats,test]'
	touch $@

# Debian packages that some tests need: a browser, proxies, brokers, Node. Where one is missing and cannot be installed, its
# tests are skipped, or fail if CI=true
PROGRAMS = chromium nginx caddy haproxy redis-server nats-server nodejs npm

.PHONY: programs
programs:
	@PATH="$$PATH:/usr/sbin:/sbin"; missing=; \
	for program in $(PROGRAMS); do \
	  if [ "$$program" = chromium ] && [ -n "$$CHROMIUM" ]; then continue; fi; \
	  command -v "$$program" >/dev/null || missing="$$missing $$program"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq; \
	  for program in $$missing; do \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$$program" >/dev/null \
	      || echo "$$program cannot be installed: its tests are skipped"; \
	  done; \
	else \
	  for program in $$missing; do echo "$$program is not installed: its tests are skipped"; done; \
	fi

# The SDKs for JavaScript that some tests use, in the versions of package-lock.json. Without npm, their tests are
# skipped, or fail if CI=true
SDKS = tests/sdk/node_modules/.package-lock.json

.PHONY: sdks
sdks: $(SDKS)

$(SDKS): tests/sdk/package-lock.json | programs
	@if command -v npm >/dev/null; then cd tests/sdk && npm ci --silent || echo "npm ci has failed: the tests of the SDKs for JavaScript are skipped"; \
	else echo "npm is not installed: the tests of the SDKs for JavaScript are skipped"; fi

# For a job that runs every week: the newest release of each SDK, which may have changed since the versions were chosen
.PHONY: test-newest-sdks
test-newest-sdks: $(VENV)/.test sdks  ## run the tests of the SDKs with the newest release of each
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade centrifuge-python cent
	cd tests/sdk && npm install --silent --no-save --no-package-lock centrifuge@latest
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile tests/sdk $(ARGS)
	rm -rf tests/sdk/node_modules

# Newer grpcio-tools make a module that requires a newer protobuf: that of 1.71 loads on 5.29 to 7
.PHONY: protobuf
protobuf:        ## generate the module for the messages of client.proto
	$(PYTHON) -m venv --clear $(VENV)-protobuf
	$(VENV)-protobuf/bin/python -m pip install --quiet --disable-pip-version-check 'grpcio-tools==1.71.2'
	$(VENV)-protobuf/bin/python -m grpc_tools.protoc -I. --python_out=. wsgateway/protocols/centrifuge/client.proto
	rm -rf $(VENV)-protobuf

.PHONY: screenshots
screenshots: $(VENV)/.test programs  ## take a picture of every page of the panel; ARGS="--docs" also those in docs/panel
	$(BIN)/python -m tools.screenshots $(ARGS)

.PHONY: bench
bench: $(VENV)/.bench  ## measure this machine: wsgateway beside what else does the job, in about two hours
	$(VENV)-bench/bin/python benchmarks/run.py $(ARGS)

.PHONY: bench-brokers
bench-brokers: $(VENV)/.bench  ## measure what a broker costs, beside what else sends through Redis
	$(VENV)-bench/bin/python benchmarks/brokers.py $(ARGS)

.PHONY: bench-sdks
bench-sdks: $(VENV)/.bench  ## measure what a client of the Centrifuge protocol costs beside a plain one
	$(VENV)-bench/bin/python benchmarks/sdks.py $(ARGS)

$(VENV)/.bench: $(BIN)/python pyproject.toml benchmarks/requirements.txt
	$(BIN)/python -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet --disable-pip-version-check -e '.[standard,ipc,redis,nats,jwt]' trustme -r benchmarks/requirements.txt
	touch $@

.PHONY: autobahn
autobahn: $(VENV)/.run  ## the Autobahn|Testsuite against both paths, in about two minutes; needs CPython 2.7
	PYTHON=$(BIN)/python benchmarks/autobahn.sh

.PHONY: soak
soak: $(VENV)/.test  ## load that lasts, in about six minutes; ARGS="--minutes 60", or ARGS="--wifi" for channels
	$(BIN)/python benchmarks/soak.py $(ARGS)

.PHONY: stress
stress: $(VENV)/.test programs  ## channels under stress: many scenarios that check themselves, in 90 s; ARGS="--seed 7"
	$(BIN)/python benchmarks/stress.py $(ARGS)
