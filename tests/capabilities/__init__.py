# Copyright (c) 2026 Bareforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Capabilities that cannot lie.

A platform declares in code what it can do. A test or a step of molecule that shows it says so, and says what it ran against.
This package compares the two, looks whether what is marked was really run, and writes the documentation's table from both.
"""
