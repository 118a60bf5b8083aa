# shellcheck shell=sh
# For other scripts: `words TEXT` prints its words, quoted for `eval`.
# Quotes group words, as in ARGS="-k 'a or b'"; nothing in them is executed or expanded.
words() {
    [ -n "$1" ] || return 0
    quote="s/'/'\\\\''/g; s/^/'/; s/\$/'/"
    # shellcheck disable=SC2016
    quoted='for word; do printf "%s " "$(printf "%s\n" "$word" | sed "$0")"; done'
    printf '%s\n' "$1" | xargs sh -c "$quoted" "$quote" 2>/dev/null ||
        { echo "ARGS has a quote or a backslash without its other half: $1" >&2 && return 1; }
}
