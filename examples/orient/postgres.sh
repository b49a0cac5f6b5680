#!/bin/sh
# A PostgreSQL of this instance, without Docker, in the foreground: eval "$(mnemosyne env)" && ./postgres.sh
# Port, database and data are the instance's own; the Unix socket, which would lie in /tmp for all of them, is off.
# It does not wait for the disk (fsync=off): quick, and fine for development. After a power cut, delete the data.
set -eu
cd "$(dirname "$0")"
: "${DATABASE_URL:?eval \"\$(mnemosyne env)\" first}" "${POSTGRES_PORT:?}" "${POSTGRES_DB:?}" "${DATA_DIR:?}"

for bin in /usr/lib/postgresql/*/bin; do # where Debian has it, which is not in PATH
  [ ! -x "$bin/initdb" ] || PATH=$bin:$PATH
done

login=${DATABASE_URL#*://}
login=${login%%@*}
mkdir -p "$DATA_DIR"
data=$(cd "$DATA_DIR" && pwd)/postgres

if [ ! -e "$data" ]; then # made under another name: one that is there is whole
  rm -rf "$data.new"
  printf '%s\n' "${login#*:}" |
    initdb -D "$data.new" -U "${login%%:*}" --auth=scram-sha-256 --pwfile=/dev/stdin --encoding=UTF8 --locale=C --no-sync >&2
  printf 'CREATE DATABASE "%s";\n' "$POSTGRES_DB" | postgres --single -D "$data.new" -F postgres >&2
  mv "$data.new" "$data"
fi

exec postgres -D "$data" -h localhost -p "$POSTGRES_PORT" -c unix_socket_directories= -c fsync=off
