#!/usr/bin/env bash
# Builds a snapshot into the shared volume and makes every replica switch to it: index.sh [index build's arguments]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
compose --profile index run --rm index ${@+index build "$@" --out /index}
exec ./switch.sh
