# List the recipes.
default:
    @just --list --unsorted

# Everything that a reviewer runs, on a fresh machine too.
ci:
    .ci/run

# All tests, or those whose name contains a word: just test manifest
test *words:
    cargo test --locked {{words}}

# Form and lints, as in ci.
lint:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings

# Benchmarks, or those whose name contains a word (tests/benches).
bench *words:
    cargo bench --locked {{words}}

# Fuzz one target for some seconds (needs cargo-fuzz and a nightly compiler): just fuzz packet 60
fuzz target seconds="60":
    cargo +nightly fuzz run {{target}} -- -max_total_time={{seconds}}

# The whole way on this machine: git's HTTP server, a mirror in a real S3 server, a clone of it. With --serve both stay.
quickstart *words:
    cargo run --locked --release --example quickstart -- {{words}}

# The binary with no shared library, in target/static: musl if rustup has it (rustup target add x86_64-unknown-linux-musl), else glibc.
static:
    #!/usr/bin/env bash
    set -euo pipefail
    host=$(rustc -vV | sed -n 's/^host: //p')
    musl=${host%%-*}-unknown-linux-musl
    target=$host
    [ -d "$(rustc --print sysroot)/lib/rustlib/$musl" ] && target=$musl
    RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release \
        --target "$target" --target-dir target/static
    binary=target/static/$target/release/mirror-git-to-s3
    if ldd "$binary" 2>/dev/null | grep '=>'; then echo 'it wants shared libraries'; exit 1; fi
    ls -l "$binary"

# The store's suite on a store of yours (s3://bucket/prefix), then a mirror of this repository to it, twice: the second run must find nothing new. Keys, AWS_ENDPOINT_URL_S3 and AWS_REGION come from the environment; MIRROR_TEST_S3_LACKS as in tests/store_conformance.rs.
test-s3 url:
    MIRROR_TEST_S3_URL={{url}}/conformance MIRROR_TEST_S3_ENDPOINT="${AWS_ENDPOINT_URL_S3:-}" \
        MIRROR_TEST_S3_REGION="${AWS_REGION:-us-east-1}" \
        cargo test --locked --test store_conformance
    cargo build --locked --release
    git bundle create target/test-s3.bundle HEAD --all
    target/release/mirror-git-to-s3 --source bundle:target/test-s3.bundle --target {{url}} -v
    target/release/mirror-git-to-s3 --source bundle:target/test-s3.bundle --target {{url}} --json \
        | grep '"status":"unchanged"'
