#!/bin/sh
# Builds the image of each role with what is here: docker, podman or buildah (BUILDER chooses another).
# What follows goes to every build: --build-arg TORCH_INDEX=…, --secret id=pip.conf,src=….
# Times in the images are those of the commit, so that the same commit and base give the same files.
set -eu
cd "$(dirname "$0")/.."
if [ -z "${BUILDER:-}" ]; then
    if docker version >/dev/null 2>&1; then
        BUILDER=docker
    elif command -v podman >/dev/null; then
        BUILDER=podman
    elif command -v buildah >/dev/null; then
        BUILDER=buildah
    else
        echo "No engine of docker, no podman and no buildah is here. Install one of them." >&2
        exit 1
    fi
fi
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
test -z "$(git status --porcelain 2>/dev/null)" || revision="$revision-changed"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
case $BUILDER in
    # An OCI image has no place for a health check; docker's format has one.
    podman | buildah) set -- --format docker --timestamp "$SOURCE_DATE_EPOCH" "$@" ;;
esac
for role in compliance coordinator site; do
    "$BUILDER" build -f deploy/Dockerfile --target "$role" -t "fiduciary-$role:$version" \
        --build-arg VERSION="$version" --build-arg REVISION="$revision" "$@" .
done
