# An image with the static binary, CA roots, and nothing else:
#
#   docker build -t mirror-git-to-s3 .
#   docker run --rm -e AWS_ACCESS_KEY_ID -e AWS_SECRET_ACCESS_KEY mirror-git-to-s3 \
#       --source https://git.example.com/a.git --target s3://mirrors/a.git
#
# Another CA: mount it over /etc/ssl/certs/ca-certificates.crt, or name it with --ca-bundle. Private
# sources: mount a netrc and set NETRC.
FROM rust:1.95-alpine AS build
RUN apk add --no-cache ca-certificates musl-dev
WORKDIR /src
COPY . .
# Alpine's target is musl, which is linked statically.
RUN cargo build --locked --release --bin mirror-git-to-s3

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/release/mirror-git-to-s3 /mirror-git-to-s3
# An unprivileged user; a number, because there is no /etc/passwd.
USER 65532:65532
ENTRYPOINT ["/mirror-git-to-s3"]
