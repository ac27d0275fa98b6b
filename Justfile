# List the recipes.
default:
    @just --list --unsorted

# Everything that a reviewer runs, on a fresh machine too.
ci:
    .ci/run

# What to run every few minutes: form, lints of the library and the program, and the library's tests.
check:
    cargo fmt --check
    cargo clippy --locked --lib --bins -- -D warnings
    cargo test --locked --lib --quiet

# All tests, or those whose name contains a word: just test manifest
test *words:
    cargo test --locked {{words}}

# Form and lints, as in ci.
lint:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings

# Benchmarks, or the one of that name (tests/benches): just bench recipe
bench name="":
    cargo bench --locked {{ if name == "" { "" } else { "--bench " + name } }}

# Fuzz one target for some seconds (needs cargo-fuzz and a nightly compiler): just fuzz pkt_line 60
fuzz target seconds="60":
    cargo +nightly fuzz run {{target}} -- -max_total_time={{seconds}}

# The whole way on this machine: git's HTTP server, a mirror in a real S3 server, a clone of it. With --serve both stay.
quickstart *words:
    cargo run --locked --release --example quickstart -- {{words}}

# Man pages from the texts of --help, in target/man: man -l target/man/mirror-git-to-s3.1
man:
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)} \
        cargo run --locked --example man -- target/man

# The binary with no shared library: musl by rustup (rustup target add x86_64-unknown-linux-musl) or by Debian's packages, else glibc. Then it mirrors in an empty chroot. .ci/static says how.
static *way:
    #!/usr/bin/env bash
    set -euo pipefail
    binaries=$(.ci/static {{way}})
    ls -l $binaries
    native=$(grep "/$(uname -m)-" <<<"$binaries")
    MIRROR_TEST_STATIC_BINARY=$native cargo test --locked --test static_binary

# What a release consists of, in target/dist: static binaries, man pages, completions, a .deb, an SBOM, checksums. .ci/release says what it needs, and what whoever publishes it has to fill in.
release *way:
    .ci/release {{way}}

# The store's suite on a store of yours (s3://bucket/prefix), then a mirror of this repository to it, twice: the second run must find nothing new. Keys, AWS_ENDPOINT_URL_S3 and AWS_REGION come from the environment; MIRROR_TEST_S3_LACKS as in tests/all/store_conformance.rs.
test-s3 url:
    MIRROR_TEST_S3_URL={{url}}/conformance MIRROR_TEST_S3_ENDPOINT="${AWS_ENDPOINT_URL_S3:-}" \
        MIRROR_TEST_S3_REGION="${AWS_REGION:-us-east-1}" \
        cargo test --locked --test all store_conformance
    cargo build --locked --release
    git bundle create target/test-s3.bundle HEAD --all
    target/release/mirror-git-to-s3 --source bundle:target/test-s3.bundle --target {{url}} -v
    target/release/mirror-git-to-s3 --source bundle:target/test-s3.bundle --target {{url}} --json \
        | grep '"status":"unchanged"'
