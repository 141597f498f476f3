# Arguments reach the program as they were typed, quotes and spaces included.
set positional-arguments

# List the recipes
default:
    @just --list

# Build the program
build:
    cargo build --release

# Run all tests
test:
    cargo test --release --workspace

# Make a folder of libtorch in the cache, for the CPU or for CUDA too
setup-libtorch KIND="cpu":
    @"${SHARELORA_PYTHON:-python3}" scripts/setup_libtorch.py "$1"

# Build the program with the libtorch backend, in target/libtorch: libtorch is LIBTORCH, or else the cache's
build-libtorch KIND="cpu": (_libtorch KIND "build")

# Run all tests with the libtorch backend
test-libtorch KIND="cpu": (_libtorch KIND "test")

# The library's place is written into the program, which then needs no LD_LIBRARY_PATH.
_libtorch KIND COMMAND:
    #!/usr/bin/env bash
    set -euo pipefail
    export LIBTORCH="${LIBTORCH:-$("${SHARELORA_PYTHON:-python3}" scripts/setup_libtorch.py "$1" --path)}"
    export RUSTFLAGS="${RUSTFLAGS:-} -C link-arg=-Wl,-rpath,$LIBTORCH/lib"
    cargo "$2" --release --workspace --features libtorch --target-dir target/libtorch
    [[ $2 != build ]] || echo "built: target/libtorch/release/sharelora --backend libtorch ..."

# Do all runs of an experiment that are not done, then write its report
sweep NAME *ARGS:
    cargo run --release -- sweep "$@"

# Show the runs of an experiment, what is done, and what each will need
plan NAME *ARGS:
    cargo run --release -- plan "$@"

# Count the trainable parameters of an experiment's methods
params NAME *ARGS:
    cargo run --release -- params "$@"

# Write the report of an experiment from its stored results
report NAME *ARGS:
    cargo run --release -- report "$@"

# Bring every file of an experiment to this machine
fetch NAME *ARGS:
    cargo run --release -- fetch "$@"

# Compare logits, losses and trained matrices with stored reference values
parity *PATHS:
    cargo run --release -- parity "$@"

# Show this machine, the caches, and which experiments can run without the network
doctor:
    cargo run --release -- doctor

# Grade saved answers again, or score any system's texts: `just score e2e --system FILE --references FILE`
score *ARGS:
    cargo run --release -- score "$@"

# Make all reports, the paper's tables and figures and the front page from stored results; `--dry-run` plans the paper's experiments
paper *ARGS:
    cargo run --release -- paper "$@"

# Fail where a committed report does not follow from its results, naming the file
check-reports:
    cargo run --release -- paper --check

# Compare two runs or two sweeps: `just compare EXPERIMENT/lora EXPERIMENT/share_a`
compare *ARGS:
    cargo run --release -- compare "$@"

# Ask all stored results: `just query 'SELECT run, held_out_loss FROM records'`
query *ARGS:
    cargo run --release -- query "$@"

# Write TensorBoard event files from stored steps
tensorboard *ARGS:
    cargo run --release -- tensorboard "$@"

# Singular values and principal angles of adapters: `just spectrum EXPERIMENT/LABEL...`
spectrum *ARGS:
    cargo run --release -- spectrum "$@"

# How the runs of a sweep stand; `--watch` follows it live
status *ARGS:
    cargo run --release -- status "$@"

# Do the failed runs of an experiment again
retry NAME *ARGS:
    cargo run --release -- retry "$@"

# Show what nothing cites, and remove it after a yes
gc *ARGS:
    cargo run --release -- gc "$@"

# Train the pocket models from nothing: all, or llama, roberta or gpt2
pretrain-pocket *ARGS:
    cargo run --release -- pretrain-pocket "$@"

# Measure `train`, `generate`, `load` or `machine`
bench WHAT *ARGS:
    cargo run --release -- bench "$@"

# Compare with PyTorch and PEFT; PYTHON has what scripts/peer_requirements.txt lists. Writes reports/performance
bench-peer PYTHON *ARGS:
    cargo run --release -- bench peer --python "$@"

# Format the code
fmt:
    cargo fmt --all

# Lint the code; a warning is an error
lint:
    cargo clippy --release --workspace --all-targets -- -D warnings

# Do what CI does
ci:
    bash .ci/run
