#!/bin/sh
# Run a command with the words of ARGS after it.
set -eu
# shellcheck source-path=SCRIPTDIR source=words.sh
. "${0%/*}/words.sh"

words=$(words "${ARGS-}")
eval "exec \"\$@\" $words"
