#!/bin/sh
# Check what a command needs, or fail with one line: `check.sh docker|compose|name|port|python`.
set -eu
# shellcheck source-path=SCRIPTDIR source=project.sh
. "${0%/*}/project.sh"

check_docker() {
    command -v "${engine%% *}" >/dev/null ||
        fail "$engine is not installed: see https://docs.docker.com/get-docker/, or set DOCKER=podman"
    engine info >/dev/null 2>&1 || fail "no Docker engine responds: start Docker, or ask for access to its socket"
}

check_compose() {
    engine compose version >/dev/null 2>&1 ||
        fail "$engine compose is missing: see https://docs.docker.com/compose/install/"
}

check_name() {
    case $name in
    '' | ? | [!A-Za-z0-9]* | *[!A-Za-z0-9_.-]*) fail "NAME should be a name for the container, such as $project-test" ;;
    esac
}

check_port() {
    number=${port##*:}
    case $number in '' | *[!0-9]* | ??????*) number=0 ;; esac
    if [ "$number" -lt 1 ] || [ "$number" -gt 65535 ]; then
        fail "PORT should be a number from 1 to 65535 such as 8000, or an address with one such as 0.0.0.0:8000"
    fi
}

# check_python VERSION: warn if the image runs another Python, and succeed.
check_python() {
    of_image=$(sed -n 's/^ARG PYTHON_IMAGE=.*python:\(3[.][0-9]*\).*/\1/p' Dockerfile)
    [ -n "${UV_PYTHON-}" ] || [ "${of_image:-$1}" = "$1" ] ||
        echo "The image runs Python $of_image, but these checks ran on $1: to check with $of_image, run UV_PYTHON=$of_image make check" >&2
}

command=$1
shift
"check_$command" "$@"
