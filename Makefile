# Every command of the template repository; `make` alone lists them.
# They need Python 3.11 or newer, git and make; the rest they set up themselves.

# What is given to make is text: recipes read "$$DEST", and make expands no `$(...)` in it.
$(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),\
	$(eval override $(name) := $$(value $(name)))$(eval export $(name))))

# uv from the PATH, else a private one that `make` fetches with pip.
UV := $(if $(shell command -v uv 2>/dev/null),uv,.tools/bin/uv)
RUN := $(UV) run --quiet
# With ARGS as further arguments.
WITH_ARGS := sh template/ops/with-args.sh

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

##@ Use the template

.PHONY: help new
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

new: $(UV) ## Write a new service to DEST=../my-service (ARGS="--defaults" asks nothing)
	@test -n "$$DEST" || { echo "where to? for example: make new DEST=../my-service" >&2; exit 1; }
	@$(WITH_ARGS) $(RUN) --no-default-groups new.py "$$DEST"

.PHONY: web web-image web-build
web: web-build ## Serve a page that previews services at http://localhost:8000 (PORT=8000)
	@echo "the page: http://localhost:$${PORT:-8000}"
	@$(UV) run --directory build/web python -m start_page

web-image: web-build ## Build the page's image (IMAGE=start-page)
	@$(MAKE) -C build/web lock build

web-build: $(UV)
	@mkdir -p build/web && find build/web -mindepth 1 -maxdepth 1 ! -name .uv ! -name .venv ! -name uv.lock -exec rm -r {} +
	@$(RUN) --no-default-groups web/build.py build/web $${ORIGIN+"$$ORIGIN"}

##@ Work on the template

.PHONY: check test test-all bench
check: $(UV) ## Check the style of the template's own code
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) shellcheck -x .ci/run .ci/prepare .ci/tag-releases tests/standins/*.sh template/ops/with-args.sh

test: $(UV) ## Run the tests (ARGS="tests/test_copy.py"); what needs Docker is skipped without it
	$(WITH_ARGS) $(RUN) pytest

test-all: ## Run the tests, and fail if no Docker engine responds
	REQUIRE_DOCKER=1 $(MAKE) test

bench: $(UV) ## Measure against a bare application, and write benchmarks/README.md (ARGS="throughput")
	for part in $${ARGS:-image throughput metrics items jobs update}; do $(RUN) --group bench "benchmarks/$$part.py" || exit 1; done

.PHONY: uv
uv:

.tools/bin/uv:
	@command -v python3 >/dev/null || { echo "python3 is not installed: see https://www.python.org/downloads/" >&2; exit 1; }
	python3 -m venv .tools && .tools/bin/pip install --quiet uv
