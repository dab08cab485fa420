# SPDX-FileCopyrightText: 2026 Bareforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

.PHONY: setup
setup: ## Make .venv (Python, ansible-core, test tools)
	@python3 tests/tools/setup_environment.py
