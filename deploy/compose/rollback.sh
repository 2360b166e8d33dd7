#!/usr/bin/env bash
# Goes back to a snapshot that is still there: rollback.sh lists them, newest last; rollback.sh NAME makes it live.
set -euo pipefail
name=${1:-}
. "$(dirname "$0")/lib.sh"
service=index
[ "${COLOUR:-blue}" = green ] && service=index-green
inside() { compose --profile index run --rm -T --entrypoint sh "$service" -c "$@"; }
if [ -z "$name" ]; then
    inside 'live=$(cat /index/CURRENT); for s in $(ls /index/snapshots); do [ "$s" = "$live" ] && echo "$s live" || echo "$s"; done'
    exit
fi
# CURRENT is replaced whole, last, as the indexer does it. A name that is not there changes nothing.
inside 'set -e; test -f "/index/snapshots/$1/manifest.json" || { echo "no snapshot $1" >&2; exit 1; }
    printf "%s\n" "$1" >/index/CURRENT.new; sync /index/CURRENT.new; mv /index/CURRENT.new /index/CURRENT' sh "$name"
exec ./switch.sh
