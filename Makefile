# The verbs of the project; `make help` lists them. Everything else is CMake (CMakePresets.json).
SHELL := /bin/bash
BUILD := build

.PHONY: help deps configure build run test lint bench bench-vmm conformance soak fuzz lab lab-shell install clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  \1\t/' | expand -t 16

deps: ## install the Debian packages that building and testing need (fast when nothing is missing)
	@tools/install-packages

configure: deps
	@[ -f $(BUILD)/build.ninja ] || cmake --preset release >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@rm -f $(BUILD).log

build: configure ## build everything; programs land in build/bin
	@ninja -C $(BUILD)

run: configure ## the main job: a real program in a sandbox, and proof that its kernel is not the host's
	@ninja -C $(BUILD) bin/casemate bin/casemate-anchor bin/casemate-sentry bin/casemate-files bin/casemate-sockets
	@tools/show-main-job $(BUILD)/bin/casemate

test: build ## every test that can run here; ends with "N passed, N failed, N skipped"
	@tests/run --build $(BUILD)

lint: build ## formatting and static analysis of what changed
	@tools/lint $(BUILD)

bench: build ## figures beside native, runc, crun and runsc; make bench QUICK=1 for under 3 minutes
	@bench/run $(if $(QUICK),--quick)

bench-vmm: build ## the monitor beside QEMU's microvm machine, in the lab, by instruction count (some minutes)
	@bench/vmm/run --build $(BUILD)

soak: build ## 200 container cycles, 100 kill -9 and what they leave behind; 10 minutes of a bad network
	@tests/lifecycle/run --build $(BUILD) --long
	@tests/network/soak --build $(BUILD) --seconds 600

conformance: build ## other people's suites: the OCI runtime tools' programs, critest under containerd
	@tests/conformance/run --build $(BUILD)

cpython: build ## CPython's own tests of sockets, ssl, http and asyncio, inside a sandbox
	@tests/cpython/run --build $(BUILD)

fuzz: deps ## every fuzz target for SECONDS_EACH seconds (default 30)
	@cmake --preset fuzz >/dev/null && ninja -C $(BUILD)/fuzz && tools/run-fuzzers $(BUILD)/fuzz $(or $(SECONDS_EACH),30)

lab: deps ## run CMD='...' in the lab: another kernel (emulated), pure cgroup v2, a real KVM; see lab/README.md
	@$(if $(strip $(CMD)),:,echo "make lab: say what to run: make lab CMD='build/bin/casemate check'" >&2; exit 2)
	@lab/run -- '$(subst ','\'',$(CMD))'

lab-shell: deps ## a shell in the lab
	@lab/run

install: build ## install programs, man pages and completion below PREFIX (/usr/local)
	@cmake --install $(BUILD) --prefix $(or $(PREFIX),/usr/local)

clean: ## remove what was built
	@rm -rf $(BUILD)
