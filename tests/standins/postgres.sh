#!/bin/sh
# What the official image's entry point does, as far as the tests look: a first start makes the
# cluster, with the password that it is given and for nobody without it; root becomes postgres.
set -eu

if [ "${1#-}" != "$1" ]; then set -- postgres "$@"; fi
if [ "$1" != postgres ]; then exec "$@"; fi

if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    chown -R postgres:postgres "$PGDATA" /var/run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --clear-groups "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE"); fi
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    if [ -z "${POSTGRES_PASSWORD:-}" ] && [ "${POSTGRES_HOST_AUTH_METHOD:-}" != trust ]; then
        echo "Error: Database is uninitialized and superuser password is not specified." >&2
        exit 1
    fi
    mkdir -p "$PGDATA"
    chmod 700 "$PGDATA"
    passwords=$(mktemp)
    printf '%s\n' "${POSTGRES_PASSWORD:-none}" >"$passwords"
    # shellcheck disable=SC2086  # as the official one: several options in one variable
    initdb --username="$user" --pwfile="$passwords" ${POSTGRES_INITDB_ARGS:-}
    rm "$passwords"
    echo "host all all all ${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >>"$PGDATA/pg_hba.conf"
    # No TCP yet: who waits for the port finds a server that is complete.
    pg_ctl --options="-c listen_addresses=''" --wait start
    if [ "$database" != postgres ]; then
        createdb --username="$user" --maintenance-db=postgres "$database"
    fi
    for script in /docker-entrypoint-initdb.d/*.sql; do
        if [ -f "$script" ]; then psql --username="$user" --dbname="$database" --set=ON_ERROR_STOP=1 --file="$script"; fi
    done
    pg_ctl --mode=fast --wait stop
    echo "PostgreSQL init process complete; ready for start up."
fi

shift
exec postgres -c "listen_addresses=*" "$@"
