# A virtual environment with pinned packages is made on first use and renewed when a requirements file changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test coverage check bench bench-redis bench-speech samples audio prove clean

run: $(VENV)/run.done
	@$(BIN)/python server.py

test: $(VENV)/dev.done
	@$(BIN)/python -m pytest -n auto --dist worksteal

coverage: $(VENV)/dev.done
	@$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term

check: $(VENV)/dev.done
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy .

bench: $(VENV)/dev.done
	@$(BIN)/python -m bench.http_bench

bench-redis: $(VENV)/dev.done
	@$(BIN)/python -m bench.redis_bench

bench-speech: $(VENV)/dev.done
	@$(BIN)/python -m bench.speech --picture docs/how-clearly.svg

samples: $(VENV)/dev.done
	@$(BIN)/python -m bench.speech.samples samples

# make audio LANG=de [OUT=audio] [APP="Example"] [FORCE=1]: a starter set for AUDIO_DIR. The shell has a LANG, too.
audio: $(VENV)/dev.done
	@$(BIN)/python -m bench.speech.recordings "$(if $(filter command line,$(origin LANG)),$(LANG))" "$(or $(OUT),audio)" \
		$(if $(APP),--app "$(APP)") $(if $(FORCE),--force)

prove: $(VENV)/dev.done
	@$(BIN)/python -m bench.prove

clean:
	rm -rf $(VENV) .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/run.done: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("voice-otp needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing packages into $(VENV): once, about a minute ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/dev.done: requirements-dev.txt $(VENV)/run.done
	@echo "Installing test and check tools into $(VENV) (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
