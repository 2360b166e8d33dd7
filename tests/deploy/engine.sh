#!/usr/bin/env bash
# Makes a Docker engine answer: installs Debian's when there is none, starts it by hand where no init system does.
# Prints the client to use (one that can build with BuildKit) as its last line.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
log=${DOCKERD_LOG:-/var/log/dockerd.log}

say() { echo "engine: $*" >&2; }

if [ ! -x /usr/sbin/dockerd ] && ! docker info >/dev/null 2>&1; then
    say "installing docker.io"
    apt-get update -qq >&2
    apt-get install -y -qq --no-install-recommends docker.io iptables >&2
fi
if ! docker-compose version >/dev/null 2>&1 && ! docker compose version >/dev/null 2>&1; then
    say "installing docker-compose"
    apt-get install -y -qq --no-install-recommends docker-compose >&2 || {
        apt-get update -qq >&2
        apt-get install -y -qq --no-install-recommends docker-compose >&2
    }
fi

# A client newer than the engine may lack the builder plug-in; Debian's has BuildKit in it.
client=docker
if ! docker buildx version >/dev/null 2>&1 && [ -x /usr/bin/docker ]; then
    client=/usr/bin/docker
fi

if ! "$client" info >/dev/null 2>&1; then
    say "starting dockerd, log in $log"
    setsid nohup dockerd >"$log" 2>&1 </dev/null &
    for _ in $(seq 60); do
        "$client" info >/dev/null 2>&1 && break
        sleep 0.5
    done
    "$client" info >/dev/null 2>&1 || { say "dockerd does not answer:"; tail -5 "$log" >&2; exit 1; }
fi
echo "$client"
