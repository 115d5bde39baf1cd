# shellcheck shell=bash
# What the launch scripts share: --dry-run, required variables, the commit, the inner command.

# Ends with the script's usage, which is the comment at its top.
usage() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# Ends with one line unless all the named variables are set.
require() {
    local name
    for name in "$@"; do
        if [[ -z "${!name:-}" ]]; then
            echo "error: set $name (see the top of $0)" >&2
            exit 2
        fi
    done
}

# Runs a command, or prints it under --dry-run.
run() {
    if [[ "$DRY_RUN" == 1 ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

# Takes --dry-run and --help off the arguments; what is left goes to lzn_jax.main.
parse() {
    DRY_RUN=0
    ARGUMENTS=()
    local argument has_config=0
    for argument in "$@"; do
        case "$argument" in
            --dry-run) DRY_RUN=1 ;;
            -h | --help) usage ;;
            --config=*)
                has_config=1
                ARGUMENTS+=("$argument")
                ;;
            *) ARGUMENTS+=("$argument") ;;
        esac
    done
    if [[ $has_config == 0 ]]; then
        echo "error: say what to run: --config=configs/NAME.py" >&2
        exit 2
    fi
    LZN_COMMIT=${LZN_COMMIT:-$(git describe --always --dirty --abbrev=40 --exclude='*')}
    export LZN_COMMIT
    # shellcheck disable=SC2034 # of the scripts
    INNER="python -m lzn_jax.main$(printf ' %q' "${ARGUMENTS[@]}")"
}
