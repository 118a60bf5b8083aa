#!/bin/sh
# What `make build`, `run`, `stop`, `probe` and `logs` do.
set -eu
# shellcheck source-path=SCRIPTDIR source=project.sh
. "${0%/*}/project.sh"
# shellcheck source-path=SCRIPTDIR source=words.sh
. "${0%/*}/words.sh"

ask_ready='
import http.client
ask = http.client.HTTPConnection("127.0.0.1", 8000, timeout=5)
ask.request("GET", "/health/ready")
response = ask.getresponse()
print(response.read().decode())
raise SystemExit(response.status != 200)'

# build [ARGUMENT...]
build() {
    # Podman's own image format has no HEALTHCHECK.
    case $(engine --version) in podman*) set -- --format docker "$@" ;; esac
    engine build --tag "$image" --build-arg "VERSION=$(version)" --build-arg "REVISION=$(revision)" "$@" .
}

# Only one `make run` of a name at a time. The lock is a container that never starts: its name is unique in an engine.
lock() {
    tries=180
    until locked=$(engine create --name "$name-starting" "$image" 2>&1); do
        case $locked in *"already in use"*) ;; *) fail "$locked" ;; esac
        [ "$tries" -gt 0 ] || fail "another 'make run' is starting $name; if none is running: $engine rm $name-starting"
        tries=$((tries - 1))
        sleep 0.5
    done
    trap 'unlock' EXIT
    trap 'exit 130' HUP INT TERM
}

unlock() {
    status=$?
    [ -z "${replacing-}" ] || restore || true
    engine rm --force --volumes "$name-starting" >/dev/null 2>&1 || true
    exit "$status"
}

# If the new container can't start, start the old one again.
restore() {
    # Until the old container is renamed, it still has this name.
    if [ "$replacing" = new ] && has "$name"; then engine rm --force "$name" >/dev/null; fi
    if has "$name-replaced"; then engine rename "$name-replaced" "$name"; fi
    if has "$name"; then
        # It may still be stopping.
        engine stop "$name" >/dev/null
        engine start "$name" >/dev/null && echo "the container $name that ran before is running again" >&2
    fi
}

set_aside() {
    if has "$name"; then
        if has "$name-replaced"; then engine rm --force "$name-replaced" >/dev/null; fi
        replacing=old
        engine stop "$name" >/dev/null
        engine rename "$name" "$name-replaced"
    fi
    replacing=new
}

# start [ARGUMENT...]
start() {
    if [ "$database" = postgresql ] && [ -n "${DATABASE_URL-}" ]; then
        set -- --env DATABASE_URL "$@"
    fi
    if [ "$database" = sqlite ]; then
        # The data outlives the container.
        set -- --volume "$name-data:/data" --env "DATABASE_URL=sqlite:////data/$package.db" "$@"
        hardened --rm --volume "$name-data:/data" --env "DATABASE_URL=sqlite:////data/$package.db" \
            "$image" python -m "$package" migrate
    fi
    for setting in APP_ENV LOG_LEVEL; do
        eval "[ -z \"\${$setting-}\" ]" || set -- --env "$setting" "$@"
    done
    if [ -f .env ]; then set -- --env-file .env "$@"; fi
    # A port alone is published to this machine only.
    case $port in *:*) ;; *) port=127.0.0.1:$port ;; esac
    hardened --detach --name "$name" --publish "$port:8000" --stop-timeout 30 \
        --env HOST=0.0.0.0 --env PORT=8000 "$@" "$image" >/dev/null
}

hardened() {
    engine run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges "$@"
}

# Without the image's health check, which some engines run only with systemd.
wait_for_a_response() {
    tries=60
    while [ "$tries" -gt 0 ] && runs "$name"; do
        ready=yes
        response=$(engine exec "$name" python -c "$ask_ready" 2>/dev/null) || ready=
        # Docker writes to the output, too, that the container has just ended.
        case $response in "{"*) ;; *) response= ;; esac
        if [ -n "$response" ]; then
            detail=$(echo "$response" | sed 's/.*"detail":"\([^"]*\)".*/\1/')
            [ -n "$ready" ] || set -- ", but is not ready: $detail. 'make stop up' starts what it needs too"
            echo "started $name; it responds at http://$(engine port "$name" 8000 | head -n 1)/docs${1-}"
            return
        fi
        tries=$((tries - 1))
        sleep 0.5
    done
    echo "$name does not respond; its last log lines:" >&2
    engine logs --tail 20 "$name" >&2
    return 1
}

# run own|named [ARGUMENT...]
run() {
    # If IMAGE names an image that exists, run that.
    if [ "$1" = own ] || ! engine image inspect "$image" >/dev/null 2>&1; then
        build
    else
        echo "$image exists and is not built again; to build it: make build IMAGE=$image" >&2
    fi
    shift
    lock
    set_aside
    start "$@"
    replacing=
    if has "$name-replaced"; then engine rm "$name-replaced" >/dev/null; fi
    wait_for_a_response
}

stop() {
    if has "$name"; then
        engine stop "$name" >/dev/null
        engine rm "$name" >/dev/null
        echo "$name stopped"
    fi
}

nothing_runs="no container $name: start it with 'make run' or 'make up'"

probe() {
    if runs "$name"; then
        set -- exec "$name"
    elif [ -n "$(engine compose ps --quiet 2>/dev/null)" ]; then
        set -- compose exec -T service
    else
        fail "$nothing_runs"
    fi
    for _ in $(seq 30); do
        if response=$(engine "$@" python -c "$ask_ready" 2>&1); then
            echo "$response"
            return
        fi
        sleep 1
    done
    echo "the service is not ready: $response" | tail -n 1 >&2
    return 1
}

logs() {
    if has "$name"; then
        engine logs --follow "$name"
    elif [ -n "$(engine compose ps --all --quiet 2>/dev/null)" ]; then
        engine compose logs --follow
    else
        echo "$nothing_runs"
    fi
}

command=$1
shift
case $command in
run)
    # shellcheck disable=SC2034
    given=${IMAGE+named}
    words=$(words "${ARGS-}")
    eval "run \"\${given:-own}\" $words"
    ;;
build)
    words=$(words "${ARGS-}")
    eval "build $words"
    ;;
*) "$command" ;;
esac
