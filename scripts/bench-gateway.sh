#!/usr/bin/env bash
# Measures the Gateway beside two others before the same played model, in turn and in one run: nginx as a plain reverse proxy,
# and LiteLLM's proxy.
#
#   scripts/bench-gateway.sh [--alone] [ARG ...]
#
#   --alone   build the Gateway's own crate and not the whole binary
#   ARG       what `muster bench gateway` takes, such as --rounds 5
#
# nginx comes from Debian, LiteLLM from pip's index into a virtual environment in cargo's target folder. Ports 18080 to 18082 of
# this machine must be free. Nothing of it belongs to `make test`.
. "$(dirname "$0")/lib.sh"

litellm_version=1.108.7
upstream=18080 nginx=18081 litellm=18082

alone=0
if [[ ${1:-} == --alone ]]; then
  alone=1
  shift
fi

need bench
venv=$(target_dir)/litellm-$litellm_version
if [[ ! -f $venv/complete ]]; then
  rm -rf "$venv"
  python3 -m venv "$venv" || fail "python3 cannot make a virtual environment: apt-get install python3-venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "litellm[proxy]==$litellm_version" ||
    fail "LiteLLM cannot be fetched from pip's index"
  touch "$venv/complete"
fi
if ((alone)); then
  cargo build --release --locked -p muster-gateway --example bench >&2
  bench=("$(target_dir)/release/examples/bench")
else
  build_release >&2
  bench=("$(target_dir)/release/muster" bench gateway --json)
fi

for port in $upstream $nginx $litellm; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then fail "port $port is taken; stop what listens there"; fi
done
folder=$(mktemp -d)
peers=()
stop() {
  local pid
  for pid in "${peers[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${peers[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$folder"
}
trap stop EXIT

cat >"$folder/nginx.conf" <<CONF
daemon off;
worker_processes auto;
worker_rlimit_nofile 16384;
pid $folder/nginx.pid;
error_log $folder/nginx.log warn;
events { worker_connections 8192; }
http {
  access_log off;
  client_body_temp_path $folder/body;
  proxy_temp_path $folder/proxy;
  fastcgi_temp_path $folder/fastcgi;
  uwsgi_temp_path $folder/uwsgi;
  scgi_temp_path $folder/scgi;
  upstream played {
    server 127.0.0.1:$upstream;
    keepalive 1024;
    keepalive_requests 100000000;
  }
  server {
    listen 127.0.0.1:$nginx backlog=4096;
    keepalive_requests 100000000;
    location / {
      proxy_pass http://played;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
  }
}
CONF
nginx_program=$(PATH=$PATH:/usr/sbin command -v nginx) || fail "nginx is missing: apt-get install nginx-light"
"$nginx_program" -c "$folder/nginx.conf" &
peers+=($!)

cat >"$folder/litellm.yaml" <<CONF
model_list:
  - model_name: bench
    litellm_params:
      model: openai/bench
      api_base: http://127.0.0.1:$upstream/v1
      api_key: none
general_settings:
  master_key: sk-bench
litellm_settings:
  telemetry: false
CONF
# As many workers as cores, as its makers advise; its list of prices is the one that it brings.
env LITELLM_LOCAL_MODEL_COST_MAP=True LITELLM_LOG=ERROR "$venv/bin/litellm" --config "$folder/litellm.yaml" \
  --host 127.0.0.1 --port $litellm --num_workers "$(nproc)" >"$folder/litellm.log" 2>&1 &
peers+=($!)
say "waiting for LiteLLM …"
ready=0
for _ in {1..120}; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$litellm") 2>/dev/null; then ready=1 && break; fi
  kill -0 "${peers[1]}" 2>/dev/null || break
  sleep 1
done
((ready)) || fail "LiteLLM does not come up: $(tail -n 3 "$folder/litellm.log")"
sleep 5

# resident PID: the most memory that a process and those that it started have held, in MiB.
resident() {
  local sum=0 pid
  for pid in "$1" $(descendants "$1"); do
    sum=$((sum + $(sed -n 's/^VmHWM:[[:space:]]*\([0-9]*\) kB$/\1/p' "/proc/$pid/status" 2>/dev/null || echo 0)))
  done
  printf '%s\n' "$((sum / 1024))"
}
descendants() {
  local child
  for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do
    printf '%s\n' "$child"
    descendants "$child"
  done
}

"${bench[@]}" --upstream-port $upstream --peer nginx=127.0.0.1:$nginx --peer litellm=sk-bench@127.0.0.1:$litellm "$@"
say "$("$nginx_program" -v 2>&1): $(resident "${peers[0]}") MiB; LiteLLM $litellm_version: $(resident "${peers[1]}") MiB"
