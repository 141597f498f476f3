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

# Train the pocket model of the quickstart from nothing
pretrain-pocket:
    cargo run --release -- pretrain-pocket

# Format the code
fmt:
    cargo fmt --all

# Lint the code; a warning is an error
lint:
    cargo clippy --release --workspace --all-targets -- -D warnings

# Do what CI does
ci:
    bash .ci/run
