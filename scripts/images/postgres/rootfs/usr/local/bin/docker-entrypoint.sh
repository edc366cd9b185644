#!/bin/sh
# Makes the database cluster on the first start, runs what lies in /docker-entrypoint-initdb.d, then
# becomes the command. Honours POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB (each also as NAME_FILE),
# POSTGRES_INITDB_ARGS, POSTGRES_HOST_AUTH_METHOD and PGDATA, as the usual image does.
set -eu

# value NAME [DEFAULT]: the variable's value, or the content of the file that NAME_FILE names.
value() {
    eval "direct=\${$1-} file=\${$1_FILE-}"
    if [ -n "$direct" ] && [ -n "$file" ]; then
        echo "error: $1 and $1_FILE are both set" >&2
        return 1
    fi
    if [ -n "$file" ]; then cat "$file"; else printf '%s' "${direct:-${2-}}"; fi
}

run_sql() {
    psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 --username "$user" --no-password --dbname "$db" "$@"
}

run_init_files() {
    for file in /docker-entrypoint-initdb.d/*; do
        case $file in
            *.sh) echo "running $file"; if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
            *.sql) echo "running $file"; run_sql -f "$file" ;;
            *.sql.gz) echo "running $file"; gunzip -c "$file" | run_sql ;;
        esac
    done
}

make_cluster() {
    user=$(value POSTGRES_USER postgres)
    password=$(value POSTGRES_PASSWORD)
    db=$(value POSTGRES_DB "$user")
    method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    if [ -z "$password" ] && [ "$method" != trust ]; then
        echo "error: the database has no superuser password: set POSTGRES_PASSWORD (or" >&2
        echo "POSTGRES_HOST_AUTH_METHOD=trust, which lets everyone in)" >&2
        exit 1
    fi
    given=$(mktemp)
    printf '%s\n' "$password" >"$given"
    # Left unquoted on purpose: several options may stand in it.
    # shellcheck disable=SC2086
    initdb -D "$PGDATA" --username="$user" ${password:+--pwfile="$given"} --auth-local=trust \
        --auth-host="$method" ${POSTGRES_INITDB_ARGS-}
    rm "$given"
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"

    # No network yet: nobody may see the database before it is complete.
    pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
    if [ "$db" != postgres ]; then
        printf 'CREATE DATABASE :"name";' | db=postgres run_sql -v name="$db"
    fi
    export PGUSER="$user" PGDATABASE="$db"
    run_init_files
    pg_ctl -D "$PGDATA" -m fast -w stop
    echo "PostgreSQL init process complete; ready for start up."
}

case ${1-} in
    -*) set -- postgres "$@" ;;
esac

if [ "${1-}" = postgres ]; then
    if [ "$(id -u)" = 0 ]; then
        mkdir -p "$PGDATA"
        find "$PGDATA" \! -user postgres -exec chown postgres {} +
        chmod 700 "$PGDATA"
        export HOME=/var/lib/postgresql
        exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$0" "$@"
    fi
    if [ ! -s "$PGDATA/PG_VERSION" ]; then make_cluster; fi
fi
exec "$@"
