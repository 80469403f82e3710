# Sourced by the scripts beside it: makes sure that what they need is installed.
# Nothing is done, and nothing printed, when it is.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# The system libraries, as pkg-config names them, and the packages to build with them. The binary
# links to them: a machine that only runs it needs libnghttp2-14 zlib1g libzstd1 liblz4-1
# libsnappy1v5.
libraries=(
    libnghttp2:libnghttp2-dev
    zlib:zlib1g-dev
    libzstd:libzstd-dev
    liblz4:liblz4-dev
    snappy:libsnappy-dev
)

# Installs the Debian packages that are missing: those to build, and those named as arguments.
prepare() {
    local missing=() package library
    command -v git >/dev/null || missing+=(git)
    command -v pkg-config >/dev/null || missing+=(pkg-config)
    [ -e /usr/include/features.h ] || missing+=(libc6-dev)
    for library in "${libraries[@]}"; do
        pkg-config --exists "${library%%:*}" 2>/dev/null || missing+=("${library#*:}")
    done
    for package in "$@"; do
        command -v "$package" >/dev/null || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
    check_swift
}

install_packages() {
    local as_root=() log
    command -v apt-get >/dev/null || fail "this is no Debian system; install $* by other means"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || fail "run as root, once: apt-get install $*"
        as_root=(sudo)
    fi
    echo "Installing Debian packages: $*"
    log=$(mktemp)
    if ! { "${as_root[@]}" apt-get -qq update &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get -qq install --yes --no-install-recommends "$@"; } >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        fail "apt-get could not install $*"
    fi
    rm -f "$log"
}

check_swift() {
    local advice="install it from https://www.swift.org/install/linux/ and put it on PATH"
    command -v swift >/dev/null || fail "Swift 6.2 or later is missing; $advice"
    local version
    version=$(swift --version 2>/dev/null | sed -n 's/.*Swift version \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
    # shellcheck disable=SC2086
    set -- $version
    if [ $# -ne 2 ] || [ $(($1 * 100 + $2)) -lt 602 ]; then
        fail "Swift 6.2 or later is needed, and this is ${1:-an unknown version}${2:+.$2}; $advice"
    fi
}
