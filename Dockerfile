# A hub on a PostgreSQL that runs elsewhere: give DATABASE_URL and RECADO_JWT_SECRET.
#   docker build -t recado .
#   docker run --rm -p 8080:8080 -e DATABASE_URL=postgres://… -e RECADO_JWT_SECRET=… recado
#
# The base images are pinned to exact versions. To pin them to their content as well, give their digests
# (docker buildx imagetools inspect debian:12.12-slim):
#   docker build --build-arg RUST_IMAGE=rust@sha256:… --build-arg DEBIAN_IMAGE=debian@sha256:… -t recado .
ARG RUST_IMAGE=rust:1.95.0-slim-bookworm
ARG DEBIAN_IMAGE=debian:12.12-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /src
# .dockerignore lets in what is built and nothing else: no .git, no .env, and no rust-toolchain.toml either, which
# would make rustup download components (clippy, rustfmt) that an image does not need.
COPY . .
# SQLX_OFFLINE: the queries are checked against sqlx-data/, so the build needs no database.
# The two caches outlive the layer, so that a change in src/ does not build 260 crates again; target/ is therefore no
# part of the image and the program is copied out of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    SQLX_OFFLINE=true cargo build --release --locked --bin recado \
    && strip --output /recado target/release/recado

FROM ${DEBIAN_IMAGE}
# The authorities that sign the certificates of a database or a provider behind TLS.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /recado /usr/local/bin/recado
# A number, so that an orchestrator that forbids root can see that it is none. It owns nothing: with DATABASE_URL and
# RECADO_JWT_SECRET given, a hub writes no file, and the file system may be read-only.
USER 10001:10001
# Everybody outside the container comes over its network, never over loopback, which is the program's own default.
ENV RECADO_BIND=0.0.0.0 \
    PORT=8080 \
    RECADO_LOG_FORMAT=json \
    # There are no server programs in here. Without DATABASE_URL the hub then says so instead of looking for a download.
    RECADO_FETCH_POSTGRES=off
EXPOSE 8080
# Asks /readyz of the hub in this container: not ready means that its delivery is late, not that the process died.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=2 CMD ["recado", "healthcheck"]
# The program is process 1 and handles SIGTERM itself; a shell in between would swallow it.
ENTRYPOINT ["recado"]
CMD ["serve"]
# What the image is (the OCI image specification, annotations). The last three differ between builds:
#   --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" --build-arg CREATED="$(date -u +%FT%TZ)"
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="recado" \
      org.opencontainers.image.description="A durable notification hub on PostgreSQL" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="docker.io/library/debian:12.12-slim" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
