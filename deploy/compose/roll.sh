#!/usr/bin/env bash
# Restarts one replica after the other; with an image, upgrades them to it: roll.sh [IMAGE]
# A replica that does not become ready stops the roll: two thirds still run what they ran. COLOUR=green rolls the others.
set -euo pipefail
image=${1:-}
. "$(dirname "$0")/lib.sh"
name=replica variable=CROSSMODAL_IMAGE
[ "${COLOUR:-blue}" = green ] && name=green variable=CROSSMODAL_GREEN_IMAGE
[ -n "$image" ] && export "$variable=$image"
settle=${SETTLE:-6} # longer than nginx's fail_timeout: it has noticed that the last one is back

for number in 1 2 3; do
    [ "$number" = 1 ] || sleep "$settle"
    echo "$name-$number"
    compose stop "$name-$number"
    compose up -d --no-deps --no-build --force-recreate "$name-$number"
    ready "$name-$number"
done
[ -z "$image" ] || keep "$variable=$image"
