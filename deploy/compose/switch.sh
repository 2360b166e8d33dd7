#!/usr/bin/env bash
# Makes every replica open the snapshot that CURRENT names. One that was built with another model is refused with 409,
# and the old one keeps serving: that takes a change of colour.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
name=replica
[ "${COLOUR:-blue}" = green ] && name=green
failed=0
for number in 1 2 3; do
    compose exec -T "$name-$number" /opt/venv/bin/python -I -c '
import json, sys
from http.client import HTTPConnection
connection = HTTPConnection("127.0.0.1", 8000, timeout=60)
headers = {"Authorization": f"Bearer {sys.argv[2]}"} if sys.argv[2] else {}
connection.request("POST", "/v1/index/reload", headers=headers)
answer = connection.getresponse()
body = json.load(answer)
print(sys.argv[1], answer.status, body.get("snapshot") or body.get("detail"), flush=True)
sys.exit(answer.status != 200)
' "$name-$number" "${CROSSMODAL_ADMIN_KEY:-}" || failed=1
done
exit $failed
