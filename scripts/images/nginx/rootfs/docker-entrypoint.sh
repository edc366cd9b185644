#!/bin/sh
# Runs what lies in /docker-entrypoint.d, then becomes the command.
set -eu
for file in /docker-entrypoint.d/*.sh; do
    if [ -x "$file" ]; then "$file"; fi
done
exec "$@"
