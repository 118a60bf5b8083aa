#!/bin/sh
# What the official image's entry point does: arguments go to redis-server, root becomes redis.
set -eu

if [ $# = 0 ] || [ "${1#-}" != "$1" ] || [ "${1%.conf}" != "$1" ]; then set -- redis-server "$@"; fi
if [ "$1" != redis-server ]; then exec "$@"; fi

if [ "$(id -u)" = 0 ]; then
    chown -R redis:redis .
    exec setpriv --reuid=redis --regid=redis --clear-groups "$0" "$@"
fi

shift
# The official build does not refuse other machines; a configuration file has to come first.
configuration=${1:-}
if [ "${configuration%.conf}" != "$configuration" ]; then
    shift
    exec redis-server "$configuration" --protected-mode no "$@"
fi
exec redis-server --protected-mode no "$@"
