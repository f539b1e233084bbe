# A thin driver over tools/setup, the CMake presets and ctest. `make help` lists the targets.
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
CUDA ?= 0
SETUP_FLAGS := $(if $(filter 1,$(CUDA)),--cuda)
RELEASE := build/release
NINJA := ninja -C $(RELEASE) -j $(JOBS) --quiet
PYTHON := .deps/venv/bin/python
DEMO_PROMPT := a small red circle moves slowly to the upper left on a plain background

.NOTPARALLEL:  # ninja spreads the work; two at once would fight for memory
.PHONY: help setup build test test-slow demo bench check format wheel install clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup:  ## what this machine lacks: Debian packages, .deps/venv (CUDA=1: with torch's CUDA libraries)
	@tools/setup $(SETUP_FLAGS)

build: $(RELEASE)/build.ninja  ## everything, preset release, into build/release
	@$(NINJA)

test: setup-dev build  ## every quick test, and one line of counts
	@$(PYTHON) tools/run_tests $(RELEASE) --exclude 'slow|gpu'

test-slow: setup-dev build  ## the slow tests, before a release
	@$(PYTHON) tools/run_tests $(RELEASE) --only slow --exclude gpu
	@tools/check_sanitizers tsan
	@tools/check_arm64

demo: $(RELEASE)/build.ninja  ## from nothing to out/demo.mp4 and its contact sheet
	@$(NINJA) fastwan fastwan_lib
	@mkdir -p out
	@$(RELEASE)/bin/fastwan generate -m models/tiny-shapes -p "$(DEMO_PROMPT)" --seed 7 --overwrite \
	  -o out/demo.mp4 --contact-sheet 4x4

bench: setup-dev build  ## our speed against diffusers on this machine, as JSON
	@$(PYTHON) benchmarks/run.py

check: setup-dev $(RELEASE)/build.ninja  ## format, layers, goldens, docs, sanitizers
	@tools/check_format
	@tools/check_layers
	@tools/check_goldens
	@tools/check_sanitizers
	@$(NINJA) fastwan fastwan_lib
	@tools/doc_blocks

format: setup-dev  ## clang-format on every C++ and CUDA file
	@tools/check_format --fix

wheel: setup-dev build  ## out/wheel/*.whl: the program and its torch operators, for pip
	@tools/make_wheel $(RELEASE) out/wheel

install: build  ## PREFIX=<folder>: the program and its libraries, without torch and CUDA
	@tools/bundle $(RELEASE) $(PREFIX)

clean:  ## remove build/ and out/; .deps stays
	rm -rf build out

setup-dev:
	@tools/setup --dev $(SETUP_FLAGS)
.PHONY: setup-dev

$(RELEASE)/build.ninja: CMakePresets.json | setup
	@cmake --preset release --log-level=WARNING >/dev/null
