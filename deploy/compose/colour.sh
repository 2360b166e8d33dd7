#!/usr/bin/env bash
# Sends all traffic to the replicas of the other colour, with no request lost: colour.sh blue|green
# They are started and must be ready first; the old ones go on running until they are stopped.
set -euo pipefail
colour=${1:-}
case $colour in blue) name=replica ;; green) name=green ;; *) echo "usage: colour.sh blue|green" >&2; exit 2 ;; esac
. "$(dirname "$0")/lib.sh"
compose --profile green up -d --no-deps --no-build "$name-1" "$name-2" "$name-3"
for number in 1 2 3; do ready "$name-$number"; done
# nginx is done once none of the workers that knew the other colour takes requests.
compose exec -T nginx sh -c '
    serving() {
        for process in /proc/[0-9]*; do
            [ "$(tr -d "\0" 2>/dev/null <"$process/cmdline")" != "nginx: worker process" ] || echo "$process"
        done
    }
    old=$(serving)
    ln -sfn "/etc/nginx/upstream/$1.conf" /tmp/upstream.conf
    nginx -c /etc/nginx/crossmodal.conf -s reload
    for _ in $(seq 100); do serving | grep -qxF "$old" || exit 0; sleep 0.1; done
    echo "nginx has not changed over: see its log" >&2
    exit 1' sh "$colour"
keep "CROSSMODAL_COLOUR=$colour"
echo "traffic goes to $colour"
