# `make run` brings Tandem up, `make test` checks everything. Both set up what they need.

PYTHON := $(shell for p in python3.12 python3.11 python3; do $$p -c 'import sys, venv, ensurepip; \
	sys.exit(not (3,11) <= sys.version_info[:2] < (3,13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
FREE_KB := 4000000
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
export OMP_NUM_THREADS ?= 2
# Many tests wait for a browser or a process, so one more runs than there are cores.
SIDE_BY_SIDE = -n $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1))) --dist loadfile \
	--no-loadscope-reorder

.PHONY: setup run test lint proof clean
setup: .venv/.ready

# Without .ready the environment is half built and is made anew; with it, it is brought up to date.
.venv/.ready: pyproject.toml constraints.txt
ifeq ($(PYTHON),)
	@echo "Tandem needs Python 3.11 or 3.12 with its venv module; found" \
		"$$(python3 --version 2>/dev/null || echo no python3)." >&2; exit 1
endif
	@test "$$(df -Pk . | awk 'NR==2 {print $$4}')" -ge $(FREE_KB) || \
		{ echo "The disk has less than 4 GB free, which the virtual environment needs." >&2; exit 1; }
	@test -f .venv/.ready || $(PYTHON) -m venv --clear .venv
	@rm -f .venv/.ready
	@echo "Installing the pinned parts (a few minutes the first time) …"
	@{ $(PIP) torch && $(PIP) -e '.[test]'; } || \
		{ echo "The pinned parts could not be installed; pip says above why." >&2; exit 1; }
	@touch .venv/.ready

run: setup
	@exec $(BIN)/python -m annotation_app.processes.start

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy annotation_app reward rlhf_loop demo
	$(BIN)/lint-imports
	@var=$$(mktemp -d) && trap 'rm -rf "$$var"' EXIT && \
		TANDEM_VAR="$$var" $(BIN)/python manage.py makemigrations --check --dry-run

test: lint
	@$(BIN)/python -m tests.chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.on_postgresql $(SIDE_BY_SIDE) -m "not browser" \
		tests/annotation_app
	@$(BIN)/python -m tests.chromium --summary

# The long proofs; their dated figures stand in EXPERIMENTS.md.
proof: setup
	$(BIN)/python -m tests.annotators_at_once
	$(BIN)/python -m tests.kill_reward_training
	$(BIN)/python -m tests.kill_round

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
