#!/bin/sh
# Run a command with ARGS as further arguments.
set -eu
# shellcheck source-path=SCRIPTDIR source=words.sh
. "${0%/*}/words.sh"

words=$(words "${ARGS-}")
eval "exec \"\$@\" $words"
