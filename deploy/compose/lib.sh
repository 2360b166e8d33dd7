# Sourced by the scripts beside it: `compose` is compose v2 or docker-compose, whichever is there.
cd "$(dirname "${BASH_SOURCE[0]}")"
docker=${DOCKER:-docker}
if "$docker" compose version >/dev/null 2>&1; then
    compose() { "$docker" compose "$@"; }
else
    compose() { docker-compose "$@"; }
fi

# ready SERVICE [SECONDS]: waits until Docker calls its container healthy.
ready() {
    local id state=missing
    for _ in $(seq $((${2:-60} * 5))); do
        id=$(compose ps -q "$1" 2>/dev/null)
        state=$([ -z "$id" ] || "$docker" inspect --format '{{.State.Health.Status}}' "$id" 2>/dev/null)
        [ "$state" = healthy ] && return
        sleep 0.2
    done
    echo "$1 is not ready after ${2:-60} s (${state:-missing}): compose logs $1" >&2
    return 1
}

# keep NAME=VALUE: into .env, so that the next `compose up` does the same.
keep() {
    touch .env
    grep -v "^${1%%=*}=" .env >.env.new || true
    echo "$1" >>.env.new
    mv .env.new .env
}
