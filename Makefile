# Two commands, each printing the plain commands it runs:
#   make run     a recording through a file of 4 kbit/s and back, into out/    (INPUT=my.wav BITRATE=1.5 for others)
#   make test    lint, types and tests, in an environment of its own
.PHONY: run test
.DELETE_ON_ERROR:

INPUT ?= examples/speech.flac
BITRATE ?= 4
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
NAME = $(shell basename "$(INPUT)" | sed 's/\.[^.]*$$//')-$(BITRATE)kbps
SOURCES = $(shell find src -type f ! -path '*/__pycache__/*')

run: .venv/installed
	mkdir -p out
	.venv/bin/spectok roundtrip "$(INPUT)" "out/$(NAME).wav" --bitrate $(BITRATE) --keep "out/$(NAME).stk" --force

test: .venv-test/installed
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy
	.venv-test/bin/pytest

# Rerunning is quick: an environment is made anew only when what it was made from has changed.
.venv/installed: pyproject.toml $(SOURCES)
	$(or $(PYTHON),$(error Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3)) -m venv .venv
	.venv/bin/pip install .
	@touch $@

.venv-test/installed: pyproject.toml
	$(or $(PYTHON),$(error Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3)) -m venv .venv-test
	.venv-test/bin/pip install -e ".[train,plot,test]"
	@touch $@
