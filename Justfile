# List the recipes.
default:
    @{{just_executable()}} --list --unsorted

# Everything that a reviewer runs; works on a fresh machine.
ci:
    .ci/run

# To run every few minutes: formatting, lints of the library and the program, and the library's tests.
check:
    cargo fmt --check
    cargo clippy --locked --lib --bins -- -D warnings
    cargo test --locked --lib --quiet

# All tests, or those whose name contains a word: just test manifest
test *words:
    cargo test --locked {{words}}

# Formatting and lints, as in ci.
lint:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings

# Benchmarks, or the one of that name (tests/benches): just bench recipe
bench name="":
    cargo bench --locked {{ if name == "" { "" } else { "--bench " + name } }}

# Fuzz one target for some seconds (needs cargo-fuzz and a nightly compiler): just fuzz pkt_line 60
fuzz target seconds="60":
    cargo +nightly fuzz run {{target}} -- -max_total_time={{seconds}}

# A mirror from end to end on this machine, with git's HTTP server and a real S3 server. With --serve both keep running.
quickstart *words:
    cargo run --locked --release --example quickstart -- {{words}}

# Man pages from the texts of --help, into target/man: man -l target/man/mirror-git-to-s3.1
man:
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)} \
        cargo run --locked --example man -- target/man

# A static binary: musl by rustup (rustup target add x86_64-unknown-linux-musl) or by Debian's packages, else glibc. Then test it in an empty chroot. See .ci/static.
static *way:
    #!/usr/bin/env bash
    set -euo pipefail
    binaries=$(.ci/static {{way}})
    ls -l $binaries
    native=$(grep "/$(uname -m)-" <<<"$binaries")
    MIRROR_TEST_STATIC_BINARY=$native cargo test --locked --test static_binary

# A release in target/dist: static binaries, man pages, completions, a .deb, an SBOM, checksums. See .ci/release for what it needs, and what to fill in before publishing.
release *way:
    .ci/release {{way}}

# Run the store tests on your own store (s3://bucket/prefix), then mirror this repository to it twice: the second run must find nothing new. Keys, AWS_ENDPOINT_URL_S3 and AWS_REGION come from the environment; MIRROR_TEST_S3_UNSUPPORTED as in tests/all/store_conformance.rs.
test-s3 url:
    MIRROR_TEST_S3_URL={{url}}/conformance MIRROR_TEST_S3_ENDPOINT="${AWS_ENDPOINT_URL_S3:-}" \
        MIRROR_TEST_S3_REGION="${AWS_REGION:-us-east-1}" \
        cargo test --locked --test all store_conformance
    cargo build --locked --release
    git bundle create target/test-s3.bundle HEAD --all
    target/release/mirror-git-to-s3 --source bundle:target/test-s3.bundle --target {{url}} -v
    target/release/mirror-git-to-s3 --source bundle:target/test-s3.bundle --target {{url}} --json \
        | grep '"status":"unchanged"'
