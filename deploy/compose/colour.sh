#!/usr/bin/env bash
# Sends all traffic to the replicas of the other colour, with no request lost: colour.sh blue|green
# They are started and must be ready first; the old ones go on running until they are stopped.
set -euo pipefail
colour=${1:-}
case $colour in blue) name=replica ;; green) name=green ;; *) echo "usage: colour.sh blue|green" >&2; exit 2 ;; esac
. "$(dirname "$0")/lib.sh"
compose --profile green up -d --no-deps --no-build "$name-1" "$name-2" "$name-3"
for number in 1 2 3; do ready "$name-$number"; done
compose exec -T nginx sh -c "ln -sfn /etc/nginx/upstream/$colour.conf /tmp/upstream.conf && exec nginx -c /etc/nginx/crossmodal.conf -s reload"
keep "CROSSMODAL_COLOUR=$colour"
echo "traffic goes to $colour"
