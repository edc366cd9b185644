#!/bin/sh
# Gives up root before redis-server starts, and lets other containers in (the usual image is compiled so).
set -eu

case ${1-} in
    -* | *.conf) set -- redis-server "$@" ;;
esac

if [ "${1-}" = redis-server ]; then
    if [ "$(id -u)" = 0 ]; then
        find . \! -user redis -exec chown redis {} +
        exec setpriv --reuid=redis --regid=redis --init-groups -- "$0" "$@"
    fi
    shift
    case ${1-} in
        '' | -*) set -- redis-server --protected-mode no "$@" ;;
        *) conf=$1; shift; set -- redis-server "$conf" --protected-mode no "$@" ;;
    esac
fi
exec "$@"
