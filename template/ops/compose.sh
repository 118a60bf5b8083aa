#!/bin/sh
# What `make up`, `make observe` and `make down` do; also writes the secrets that compose's containers read.
set -eu
# shellcheck source-path=SCRIPTDIR source=project.sh
. "${0%/*}/project.sh"
# shellcheck source-path=SCRIPTDIR source=words.sh
. "${0%/*}/words.sh"

up() {
    # Each new clone lacks the folder .secrets.
    if [ "$database" = postgresql ] && [ ! -e .secrets/DATABASE_URL ]; then secrets; fi
    if [ -f ops/issuer.py ]; then issuer; fi
    # Wait for this service alone: some versions of compose can't wait for one without a health check, such as a worker.
    started=yes
    engine compose up --build --detach &&
        engine compose up --detach --no-deps --no-recreate --wait service || started=
    failing=$(failing)
    if [ -n "$started" ] && [ -z "$failing" ]; then
        # shellcheck disable=SC2046
        set -- $(engine compose ps --format '{{.Service}}')
        echo "started $*; it responds at http://$(engine compose port service 8000)/docs"
        return
    fi
    # If no service failed, compose has printed the reason, such as a port that is taken.
    # shellcheck disable=SC2086
    [ -z "$failing" ] || engine compose logs --tail 20 $failing
    return 1
}

# Also Prometheus, Grafana and Tempo, to which the service sends its traces.
observe() {
    COMPOSE_FILE=compose.yaml
    for file in compose.override.yaml ops/observe/compose.yaml; do
        [ ! -f "$file" ] || COMPOSE_FILE=$COMPOSE_FILE:$file
    done
    # The users of the containers read these files, in a clone made under umask 077 too.
    chmod -R a+rX ops/observe
    # Prometheus reads them when it starts: an edit makes compose replace its container.
    RULES=$(cat ops/observe/prometheus.* ops/observe/alerts/* | cksum)
    export RULES COMPOSE_FILE COMPOSE_PATH_SEPARATOR=: OTEL_EXPORTER_OTLP_ENDPOINT=http://tempo:4318
    up
    echo "its dashboard, traces and alerts are at http://$(engine compose port grafana 3000)"
}

# Print the services that ended with an error, restart or are unhealthy.
failing() {
    engine compose ps --all --format '{{.Service}} {{.State}} {{.ExitCode}} {{.Health}}' |
        sed -n 's/ exited [1-9].*//p; s/ restarting .*//p; s/ [^ ]* [0-9]* unhealthy$//p'
}

# down [ARGUMENT...]
down() {
    # Also what compose.yaml had when it was started, such as a server that was removed since.
    engine compose down --remove-orphans "$@"
}

# Only you can open the folder; the users of the containers can read the files.
secrets() {
    volume=${COMPOSE_PROJECT_NAME:-$project}_postgres
    if engine volume inspect "$volume" >/dev/null 2>&1; then
        echo "the password of this project's PostgreSQL was in the folder .secrets, which is missing: restore it," >&2
        fail "or delete the data with '$engine volume rm $volume'"
    fi
    mkdir -p .secrets && chmod 700 .secrets
    umask 022
    password=$(LC_ALL=C tr -dc A-Za-z0-9 </dev/urandom | head -c 40)
    printf %s "$password" >.secrets/POSTGRES_PASSWORD
    printf %s "postgresql://postgres:$password@postgres:5432/$package" >.secrets/DATABASE_URL
}

# A copy of the development issuer, since compose's containers can't read a clone made under umask 077.
issuer() {
    mkdir -p .secrets && chmod 700 .secrets
    umask 022
    mkdir -p .secrets/issuer
    [ -s .secrets/issuer/key ] || LC_ALL=C tr -dc A-Za-z0-9 </dev/urandom | head -c 40 >.secrets/issuer/key
    cat ops/issuer.py >.secrets/issuer/issuer.py
}

command=$1
case $command in
down)
    words=$(words "${ARGS-}")
    eval "down $words"
    ;;
*) "$command" ;;
esac
