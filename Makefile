# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

PYTHON := .venv/bin/python
STAGES := $(PYTHON) tests/tools/run_stages.py
NAME ?=
SCENARIO ?= kvm

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do printf '%-18s %s\n' "$$target" "$$text"; done

.PHONY: setup
setup: ## Make .venv: newest Python, ansible-core, test tools
	@python3 tests/tools/setup_environment.py

.PHONY: prerequisites
prerequisites: setup
	@$(PYTHON) tests/lab prerequisites --install

.PHONY: demo
demo: prerequisites ## From a fresh server to a hardened KVM host with virtual machines
	@$(PYTHON) tests/tools/demo.py

.PHONY: test
test: prerequisites ## All that CI runs
	@$(STAGES)

.PHONY: lint
lint: setup ## Style, types, licences, forbidden phrases
	@$(STAGES) lint

.PHONY: unit
unit: setup ## Unit, property, contract and fault tests; those of module_utils on Python 3.9 too
	@$(STAGES) unit

.PHONY: contract
contract: setup ## The suite that every platform runs
	@$(STAGES) contract

.PHONY: sanity
sanity: setup ## ansible-test sanity
	@$(STAGES) sanity

.PHONY: build
build: setup ## Build the artefact, install it elsewhere and use it from there
	@$(STAGES) build

.PHONY: real
real: prerequisites ## Tests of platforms against a real host of the lab
	@$(STAGES) real

.PHONY: molecule
molecule: prerequisites ## One scenario: make molecule SCENARIO=kvm
	@$(STAGES) molecule:$(SCENARIO)

.PHONY: scenarios
scenarios: ## List the scenarios of molecule
	@for scenario in molecule/*/molecule.yml; do basename "$$(dirname "$$scenario")"; done

.PHONY: bench
bench: prerequisites ## Measure the ratios of docs/benchmarks.md: make bench NAME=converged-host
	@PYTHONPATH=tests:collections $(PYTHON) -m benchmarks $(NAME)

.PHONY: docs
docs: setup ## Write the generated documentation anew
	@PYTHONPATH=tests:collections $(PYTHON) -m capabilities table

.PHONY: clean
clean: ## Stop every server of the lab and remove what was made, except cached images
	@python3 tests/tools/clean.py

.PHONY: clean-cache
clean-cache: clean ## Remove cached images too
	@python3 tests/tools/clean.py --cache
