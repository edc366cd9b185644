# check WHAT COMMAND...: the command must succeed.
check() {
    what=$1
    shift
    if "$@" >/tmp/said.$$ 2>&1; then
        echo "ok $what"
    else
        echo "FAILED $what"
        sed 's/^/  /' /tmp/said.$$
    fi
    rm -f /tmp/said.$$
}

# says SERVICE LINE: it wrote this very line.
says() {
    tries=0
    until ficelle logs --no-color --no-log-prefix "$1" | grep -qxF -- "$2"; do
        tries=$((tries + 1))
        if [ $tries = 20 ]; then
            echo "$1 never said \`$2\`, but:"
            ficelle logs --no-color --no-log-prefix "$1"
            return 1
        fi
        sleep 0.2
    done
}

no() { ! "$@"; }

processes() { ps 2>/dev/null | grep -E 'ficelle( |-)(__)?(keeper|superv|anchor)' | grep -v grep; }

gone() {
    tries=0
    while processes || find /sys/fs/cgroup -name '*ficelle*' 2>/dev/null | grep .; do
        tries=$((tries + 1))
        [ $tries != 50 ] || return 1
        sleep 0.2
    done >/tmp/gone.$$
    rm -f /tmp/gone.$$
}
