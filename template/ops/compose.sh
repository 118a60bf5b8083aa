#!/bin/sh
# What `make up` and `make down` do, and what writes the secrets that compose's containers read.
set -eu
# shellcheck source-path=SCRIPTDIR source=project.sh
. "${0%/*}/project.sh"
# shellcheck source-path=SCRIPTDIR source=words.sh
. "${0%/*}/words.sh"

up() {
    engine compose up --build --detach || failed
    # Wait for this service alone: some versions of compose can't wait for one without a health check, such as a worker.
    engine compose up --detach --no-deps --no-recreate --wait service || failed
    [ -z "$(services "$ended")" ] || failed
    # shellcheck disable=SC2046
    set -- $(engine compose ps --format '{{.Service}}')
    echo "started $*; it answers at http://$(engine compose port service 8000)/docs"
}

ended='s/ exited [1-9].*//p; s/ restarting .*//p'
unhealthy='s/ [^ ]* [0-9]* unhealthy$//p'

# services SCRIPT: what sed finds in lines of service, state, exit status and health.
services() {
    engine compose ps --all --format '{{.Service}} {{.State}} {{.ExitCode}} {{.Health}}' | sed -n "$1"
}

# If none ended and all are healthy, the reason is what compose printed last, such as a port that is taken.
failed() {
    failing=$(services "$ended; $unhealthy")
    # shellcheck disable=SC2086
    [ -z "$failing" ] || engine compose logs --tail 20 $failing
    exit 1
}

# down [ARGUMENT...]
down() {
    engine compose down "$@"
}

# The folder is yours alone; the files are for the containers' users, whoever they are.
secrets() {
    volume=${COMPOSE_PROJECT_NAME:-$project}_postgres
    if engine volume inspect "$volume" >/dev/null 2>&1; then
        echo "the password of this project's PostgreSQL was in .secrets, which is gone: bring it back," >&2
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
