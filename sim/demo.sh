#!/bin/sh
# Runs `flwr run .` with its own SuperLink, which is stopped at the end.
set -eu
folder=$(pwd)
export FLWR_LOCAL_SUPERLINK_HTTP_API_PORT="${FLWR_LOCAL_SUPERLINK_HTTP_API_PORT:-39591}"
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
# The environment is already complete: without this, Flower creates a fresh one for each run.
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
mkdir -p "$FLWR_HOME"
flower-superlink --insecure --simulation --isolation subprocess --host 127.0.0.1 \
    --port "$FLWR_LOCAL_SUPERLINK_HTTP_API_PORT" >"$FLWR_HOME/superlink.log" 2>&1 &
superlink=$!
trap 'kill "$superlink" 2>/dev/null; wait "$superlink" 2>/dev/null || true' EXIT INT TERM
tries=0
until python -c "import sys, urllib.request as u; u.urlopen('http://127.0.0.1:$FLWR_LOCAL_SUPERLINK_HTTP_API_PORT/health', timeout=1)" 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -gt 60 ]; then echo "the SuperLink did not start, see $FLWR_HOME/superlink.log" >&2; exit 1; fi
    sleep 0.5
done
# Flower takes either a file or keys, not both.
config="$FLWR_HOME/demo.toml"
cp strategies/neighbor-kd.toml "$config"
printf "model = 'mlp,lenet5'\noutput-dir = '%s'\noverwrite = true\n" "$folder/results/demo" >>"$config"
flwr run . --stream --federation-config "num-supernodes=8" --run-config "$config"
test -s results/demo/summary.json
