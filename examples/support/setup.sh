# Prepares the examples that have pages: Node, the packed client, npm packages, a hub. Sourced, not run.

support=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Shared by the examples, which may start at the same time.
prepared=$support/.prepared
mkdir -p "$prepared"

# Runs a function while no other example is preparing.
alone() {
    if command -v flock >/dev/null; then
        (flock 9 && "$@") 9>"$prepared/lock"
    else
        "$@"
    fi
}

# Puts a Node that the client supports first in PATH: the installed one, or Node 22 from npm.
use_node() {
    local version
    version=$(node -p process.versions.node) || { echo "install Node 20.19 or newer" >&2; exit 1; }
    if [ "$(printf '%s\n' 20.19.0 "$version" | sort -V | head -n 1)" != 20.19.0 ]; then
        alone install_node
        PATH=$prepared/node/node_modules/.bin:$PATH
    fi
}

install_node() {
    [ -x "$prepared/node/node_modules/.bin/node" ] || npm install --silent --prefix "$prepared/node" node@22
}

# Builds clients/typescript in a copy, and packs it as .prepared/recado-client-0.1.0.tgz.
pack_client() {
    alone pack_changed_client
}

pack_changed_client() {
    local source=$support/../../clients/typescript copy=$prepared/client sum
    sum=$(cd "$source" && cat package.json package-lock.json tsconfig.json scripts/build.mjs src/* | cksum)
    [ "$(cat "$prepared/client.sum" 2>/dev/null)" != "$sum" ] || return 0
    echo "building @recado/client"
    rm -rf "$copy" && mkdir -p "$copy"
    cp -R "$source"/{package.json,package-lock.json,tsconfig.json,.npmrc,README.md,scripts,src} "$copy"
    (cd "$copy" && npm ci --silent --ignore-scripts && npm run --silent build && npm pack --silent --pack-destination "$prepared") >/dev/null
    echo "$sum" >"$prepared/client.sum"
}

# Installs the packages of a folder's lock file, unless they are there.
install_packages() { # FOLDER
    local stamp=$1/node_modules/.installed sum
    # The client's sum is not there before the client is packed.
    sum=$({ cat "$1/package-lock.json"; [ ! -e "$prepared/client.sum" ] || cat "$prepared/client.sum"; } | cksum)
    [ "$(cat "$stamp" 2>/dev/null)" != "$sum" ] || return 0
    (cd "$1" && npm ci --silent --ignore-scripts) || exit 1
    echo "$sum" >"$stamp"
}

# Exports RECADO_URL, RECADO_JWT_SECRET and RECADO_KEY: as given, or of a hub that it starts on PORT in FOLDER.
use_hub() { # FOLDER NAME
    if [ -n "${RECADO_URL:-}" ]; then
        [ -n "${RECADO_JWT_SECRET:-}" ] && [ -n "${RECADO_KEY:-}" ] && return
        echo "RECADO_URL is set: set RECADO_JWT_SECRET to the hub's secret, too, and RECADO_KEY to a key from" \
            "'recado key create $2'" >&2
        exit 1
    fi
    export PORT=${PORT:-8080}
    "$support/hub" "$1" serve >"$1/hub.out" 2>"$1/hub.err" &
    local hub=$!
    echo "$hub" >"$1/hub.pid"
    until grep -qs '^ready ' "$1/hub.out"; do
        kill -0 "$hub" 2>/dev/null || { cat "$1/hub.err" >&2; exit 1; }
        sleep 0.1
    done
    # A key is printed once.
    [ -s "$1/key" ] || (umask 077 && "$support/hub" "$1" key create "$2" >"$1/key" 2>/dev/null)
    RECADO_KEY=$(cat "$1/key")
    RECADO_JWT_SECRET=${RECADO_JWT_SECRET:-$(cat "$1/hub/secrets/jwt-secret")}
    export RECADO_URL=http://127.0.0.1:$PORT RECADO_KEY RECADO_JWT_SECRET
}
