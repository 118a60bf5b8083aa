# shellcheck shell=sh
# For the other scripts: `words TEXT` prints each argument in it, quoted for `eval`.
# Quotes group text, as in ARGS="-k 'a or b'"; nothing in it is executed or expanded.
words() {
    [ -n "$1" ] || return 0
    quote="s/'/'\\\\''/g; s/^/'/; s/\$/'/"
    # shellcheck disable=SC2016
    quoted='for word; do printf "%s " "$(printf "%s\n" "$word" | sed "$0")"; done'
    printf '%s\n' "$1" | xargs sh -c "$quoted" "$quote" 2>/dev/null ||
        { echo "ARGS has an unclosed quote or a lone backslash, unlike ARGS=\"-k 'a or b'\": $1" >&2 && return 1; }
}
