# Everything runs in .venv, made on first use. `make demo` and `make test` are all a newcomer needs.

PYTHON ?= python3
OUTPUT ?= demo-output
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LINTERS := $(VENV)/.linters
CMAKE := $(VENV)/.cmake
SOURCES := pyproject.toml CMakeLists.txt constraints.txt README.md \
           $(shell find csrc python -name '*.cpp' -o -name '*.hpp' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh' -o -name '*.py' -o -name '*.pyi')
NATIVE = $(shell find csrc -name '*.?pp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h')

.PHONY: demo test slow lint sanitize sanitize-address sanitize-thread definitions format clean check-tools

demo: $(INSTALLED)
	$(BIN)/fastrebasin demo --output $(OUTPUT)

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(INSTALLED) $(LINTERS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(NATIVE)
	$(BIN)/python .ci/budget.py

# The native tests under the sanitizers of addresses and undefined behaviour, and those of threads,
# a CPU's and a GPU's, under the sanitizer of threads; and whether what has one name is one thing.
sanitize: sanitize-address sanitize-thread definitions

sanitize-address: SANITIZERS := address,undefined
sanitize-address: TARGET := all
sanitize-thread: SANITIZERS := thread
sanitize-thread: TARGET := race_tests
SANITIZE_FLAGS := -O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=all -D_GLIBCXX_ASSERTIONS
# Older thread sanitizers stop with "unexpected memory mapping" where addresses are very random.
LESS_RANDOM := $(shell setarch "$$(uname -m)" -R true 2>/dev/null && echo 'setarch "$$(uname -m)" -R')

sanitize-address sanitize-thread: $(CMAKE)
	$(BIN)/python -m cmake -S . -B build/$@ -G 'Unix Makefiles' --log-level=WARNING \
	  -DFASTREBASIN_TESTS=ON -DFASTREBASIN_WERROR=ON \
	  -DCMAKE_CXX_FLAGS='$(SANITIZE_FLAGS) -fsanitize=$(SANITIZERS)' \
	  -DCMAKE_CTEST_ARGUMENTS='--output-on-failure;-j2;-L;$(TARGET)'
	$(BIN)/python -m cmake --build build/$@ --parallel 2 --target $(TARGET)
	$(LESS_RANDOM) $(BIN)/python -m cmake --build build/$@ --target test

# Two types of one name in different files would be mixed up by the linker, which sees none of it
# unless it knows types. Compilers other than GCC don't tell.
DEFINITIONS_FLAGS := -O1 -flto=2 -Wodr -Werror=odr -Wlto-type-mismatch -Werror=lto-type-mismatch

definitions: $(CMAKE)
	$(BIN)/python -m cmake -S . -B build/$@ -G 'Unix Makefiles' --log-level=WARNING \
	  -DFASTREBASIN_TESTS=ON -DCMAKE_CXX_FLAGS='$(DEFINITIONS_FLAGS)'
	$(BIN)/python -m cmake --build build/$@ --parallel 2

format: $(LINTERS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE)

clean:
	rm -rf $(VENV) build demo-output

$(INSTALLED): $(SOURCES) | check-tools $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt '.[demo,test]'
	touch $@

$(LINTERS): pyproject.toml | $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt '.[lint]'
	touch $@

$(CMAKE): | check-tools $(BIN)/python
	$(BIN)/python -m pip install --quiet 'cmake==4.4.4'
	touch $@

$(BIN)/python: | check-tools
	$(PYTHON) -m venv $(VENV)

# One message that names everything missing, before anything is downloaded.
check-tools:
	@missing=; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	  || missing="$$missing\n  Python 3.10 or newer as $(PYTHON) (or: make PYTHON=/path/to/python3)"; \
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || missing="$$missing\n  Python's venv and pip modules (Debian, Ubuntu: apt install python3-venv)"; \
	command -v "$${CXX:-c++}" >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 \
	  || command -v clang++ >/dev/null 2>&1 \
	  || missing="$$missing\n  a C++17 compiler: c++, g++ or clang++ (Debian, Ubuntu: apt install g++)"; \
	if [ -n "$$missing" ]; then printf "To build fastrebasin, this is missing:$$missing\n" >&2; exit 1; fi
